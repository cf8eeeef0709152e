"""The job: one picture to upscale, what is asked for it, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, TypeAlias
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from twofold_schema.errors import TooLarge
from twofold_schema.formats import ResultFormat
from twofold_schema.states import JobClass, JobState

if TYPE_CHECKING:
    # It knows URIs, and these know jobs.
    from twofold_schema.tenant_places import TenantPlaces

#: Whose jobs those are of which nobody said it.
DEFAULT_TENANT: Final = "default"


def can_be_tenant(name: str) -> bool:
    """Whether jobs can be of a tenant of this name: not if it is blank.

    People type those by accident (an unset variable of a shell), and an empty one is how the index
    of pauses writes everybody.
    """
    return bool(name.strip())


def encodable(text: str) -> str:
    """Text that can be stored and tokenized.

    Raises:
        ValueError: It holds a lone surrogate or a NUL.
    """
    # A lone surrogate passes JSON and str, and breaks the tokenizer and Postgres later.
    text.encode("utf-8")
    if "\x00" in text:
        raise ValueError("must not contain NUL characters")
    return text


#: What text matches that Postgres stores, said so that a schema says it too.
NO_NUL: Final = r"^[^\x00]*$"


def datable(time: datetime) -> datetime:
    """A time that can be stored, and read again in every time zone.

    Raises:
        ValueError: In UTC it is not within the years 2 to 9998.
    """
    # Python's calendar ends with the years 1 and 9999, Postgres's does not: of what lies beyond, a
    # row could be written that nobody could read.
    if not datetime(2, 1, 1, tzinfo=UTC) <= time < datetime(9999, 1, 1, tzinfo=UTC):
        raise ValueError("must lie within the years 2 to 9998")
    return time


def timely(stated: object) -> object:
    """A time, or the text of one.

    Raises:
        ValueError: It is something else: of a number nobody knows what it counts.
    """
    if isinstance(stated, datetime) or (isinstance(stated, str) and ":" in stated):
        return stated
    raise ValueError("must be a time with its zone, such as 2027-01-31T12:00:00Z")


#: What JSON has no type for is text there, also where text is taken for nothing else.
AS_TEXT: Final = Field(strict=False)

Moment: TypeAlias = Annotated[AwareDatetime, AS_TEXT, BeforeValidator(timely)]
Time: TypeAlias = Annotated[Moment, AfterValidator(datable)]
Prompt = Annotated[str, Field(max_length=2000), AfterValidator(encodable)]


class Parameters(BaseModel):
    """What the caller asks of the model.

    Attributes:
        steps: Sampling steps, 1 to 150; the model card uses 20.
        guidance_scale: 0 ignores the prompt; above 0 the prompt steers; above 1 is
            classifier-free guidance, which doubles the work.
        seed: Seeds the noise, 0 to 2**63 - 1; drawn at submit and recorded when absent.
        prompt: What the picture shows, at most 2000 characters (the model reads 77 tokens).
        negative_prompt: What it must not show; heard only with guidance above 1.
        reproducible: Pin the batch's rung, so that the picture is the same to the bit whatever
            else is in its batch.
        model_revision: Only a worker that serves this revision may take the job.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    steps: int = Field(default=20, ge=1, le=150)
    guidance_scale: float = Field(default=0.0, ge=0.0, le=30.0, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    prompt: Prompt = ""
    negative_prompt: Prompt = ""
    reproducible: bool = False
    model_revision: Annotated[str, Field(max_length=200), AfterValidator(encodable)] | None = None


class Output(BaseModel):
    """What the caller wants of the result's file.

    Attributes:
        format: Its kind.
        quality: 1 to 100, of a lossy format; larger is better and longer.
        name: The folder of a job's results below `output_prefix`; `{job}` stands for its id.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: ResultFormat = ResultFormat.PNG
    quality: int = Field(default=90, ge=1, le=100)
    name: str = "{job}"

    def check(self, width: int, height: int) -> None:
        """Accept a source of this size.

        Raises:
            TooLarge: The format cannot hold a picture of twice its sides.
        """
        if 2 * max(width, height) > self.format.max_side:
            raise TooLarge(
                f"A {self.format} file has at most {self.format.max_side} px a side; ask for "
                f"another format of a picture of {2 * width}x{2 * height}."
            )


class Result(BaseModel):
    """The picture that a job ended in.

    Attributes:
        uri: Where it lies.
        sha256: Of the object's bytes, in hex.
        size_bytes: The object's length.
        width: In pixels, exactly twice the source's; latents are an eighth of it, rounded up.
        height: As `width`.
        format: The object's kind.
        content_type: The object's media type.
        preview: Where a small WebP of it lies; None when previews are off.
        model: The name of the model that made it, as people read it.
        model_revision: What exactly that model was.
        seed: The seed it was made with.
        steps: The sampling steps it was made with.
        rungs: The batch sizes on the device that it saw.
        gpu_seconds: Its part of the device's time; None where the worker did not say.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    uri: str
    sha256: str
    size_bytes: int
    width: int
    height: int
    format: ResultFormat = ResultFormat.PNG
    content_type: str
    preview: str | None = None
    model: str
    model_revision: str
    seed: int
    steps: int
    rungs: tuple[int, ...]
    gpu_seconds: float | None = None


class AttemptError(BaseModel):
    """One entry of a job's error history.

    Attributes:
        code: Stable; see `errors`.
        message: For a person.
        generation: Of the job when it happened.
        attempt: How many attempts the generation had used, this one included.
        fence: Of the claim that ended so.
        run_id: Of the run that held the job, if any.
        at: When, by the database's clock.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    code: str
    message: str
    generation: int
    attempt: int
    fence: int
    run_id: UUID | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A run's hold on a job. Every later write names the job, the fence and the run."""

    job_id: UUID
    fence: int
    run_id: UUID


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """What a run is told of a job when it claims it; the names are `Job`'s.

    Attributes:
        places: What its tenant's jobs may name, as it was when it was claimed.
    """

    id: UUID
    fence: int
    run_id: UUID
    job_class: JobClass
    source: str
    output_prefix: str
    output: Output
    parameters: Parameters
    width: int | None
    height: int | None
    lane: str | None
    places: "TenantPlaces"

    @property
    def claim(self) -> Claim:
        """The run's hold on it."""
        return Claim(job_id=self.id, fence=self.fence, run_id=self.run_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as its row had it when it was read. Times are the database's.

    Attributes:
        attempts: Claims of this generation that ended in an answer about the job.
        crashes: Claims of this generation that ended in the death of a worker at work on it.
        width: Of the source, in pixels, as the caller stated it; checked when it is decoded.
        height: As `width`.
        isolation: Set after a crash: only jobs with the same mark may share a process with it.
        lane: What must be equal to share a batch; None until measured.
        pixels: Of the source, width times height; None until measured.
        source_version: What storage called the source's content when it was first read; another
            one later ends the job.
        publish_to: The URI to which the result is copied once the job has succeeded; `{job}` in
            it stands for the job's id.
        published_at: When that name was seen to hold this result, or a newer job's.
        est_gpu_seconds: Estimated work on the reference GPU; None until measured.
        errors: Every error of every generation, oldest first.
    """

    id: UUID
    tenant: str
    job_class: JobClass
    key: str | None
    submission_id: UUID | None
    webhook_id: UUID | None
    state: JobState
    generation: int
    fence: int
    run_id: UUID | None
    attempts: int
    max_attempts: int
    crashes: int
    isolation: UUID | None
    source: str
    source_version: str | None
    output_prefix: str
    output: Output
    publish_to: str | None
    width: int | None
    height: int | None
    parameters: Parameters
    metadata: Mapping[str, str]
    lane: str | None
    pixels: int | None
    est_gpu_seconds: float | None
    result: Result | None
    errors: tuple[AttemptError, ...]
    created_at: datetime
    scheduled_at: datetime | None
    start_by: datetime | None
    finish_by: datetime | None
    first_claimed_at: datetime | None
    claimed_at: datetime | None
    started_at: datetime | None
    run_deadline: datetime | None
    cancel_requested_at: datetime | None
    finished_at: datetime | None
    published_at: datetime | None

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Self:
        """A job from a row of the jobs table."""
        fields = {name: row[name] for name in cls.__dataclass_fields__}
        fields["job_class"] = list(JobClass)[row["job_class"]]
        fields["state"] = JobState(row["state"])
        fields["parameters"] = Parameters.model_validate(row["parameters"], extra="ignore")
        fields["output"] = Output.model_validate(row["output"], extra="ignore")
        fields["metadata"] = MappingProxyType(row["metadata"])
        if row["result"] is not None:
            fields["result"] = Result.model_validate(row["result"])
        fields["errors"] = tuple(AttemptError.model_validate(entry) for entry in row["errors"])
        return cls(**fields)

    @property
    def error(self) -> AttemptError | None:
        """The last error of this generation, if any."""
        if self.errors and self.errors[-1].generation == self.generation:
            return self.errors[-1]
        return None

    @property
    def retrying(self) -> bool:
        """Whether the job waits for another attempt after an error."""
        return self.state is JobState.SCHEDULED and self.attempts > 0

    @property
    def cancelling(self) -> bool:
        """Whether the job was called off while a worker has it."""
        return self.state is JobState.RUNNING and self.cancel_requested_at is not None

    @property
    def claim(self) -> Claim:
        """The hold of the run that has, or last had, this job."""
        if self.run_id is None:
            raise ValueError(f"job {self.id} is held by no run")
        return Claim(job_id=self.id, fence=self.fence, run_id=self.run_id)


#: What `Job.from_row` reads, by name: a session that keeps the plan of a `SELECT *` would stumble
#: over a column that a migration adds.
JOB_COLUMNS: Final = ", ".join(Job.__dataclass_fields__)
