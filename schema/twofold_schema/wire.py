"""What goes over HTTP: the bodies of requests and answers, for the service and its clients.

Names are the ledger's. Times are RFC 3339, with the database's clock.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from twofold_schema.api_key import Scope
from twofold_schema.job import NO_NUL, AttemptError, Job, Output, Parameters, Result, Time
from twofold_schema.operation import JobFilter, Operation, OperationKind
from twofold_schema.request import JobFields
from twofold_schema.states import JobClass, JobState
from twofold_schema.submission import SubmissionReport

if TYPE_CHECKING:
    # A client needs no database.
    from twofold_schema.ledger.events import Event

#: The most items of an inline submission; more come as JSONL.
MOST_ITEMS = 10_000

_ATTRIBUTES = ConfigDict(from_attributes=True, frozen=True, protected_namespaces=())
_EXACT = ConfigDict(extra="forbid", frozen=True)

Uri = Annotated[str, Field(pattern=r"^(s3|file)://", max_length=2100)]
Reason = Annotated[str, Field(min_length=1, max_length=500, pattern=NO_NUL)]


class JobBody(JobFields):
    """A job that is asked for.

    Attributes:
        source: `s3://bucket/key` or `file:///path` of a picture or latents.
    """

    source: Uri


class JobReport(BaseModel):
    """A job as it is now.

    Attributes:
        done: Whether it has ended, well or not.
        retrying: Whether it waits for another attempt after an error.
        cancelling: Whether it was called off while a worker has it.
        error: The last error of this generation, if any.
    """

    model_config = _ATTRIBUTES

    id: UUID
    tenant: str
    job_class: JobClass
    key: str | None
    submission_id: UUID | None
    state: JobState
    done: bool
    retrying: bool
    cancelling: bool
    generation: int
    fence: int
    run_id: UUID | None
    attempts: int
    max_attempts: int
    crashes: int
    source: str
    source_version: str | None
    output_prefix: str
    output: Output
    publish_to: str | None
    webhook_id: UUID | None
    width: int | None
    height: int | None
    parameters: Parameters
    metadata: Mapping[str, str]
    lane: str | None
    pixels: int | None
    est_gpu_seconds: float | None
    result: Result | None
    error: AttemptError | None
    errors: tuple[AttemptError, ...]
    created_at: datetime
    scheduled_at: datetime | None
    start_by: datetime | None
    finish_by: datetime | None
    first_claimed_at: datetime | None
    claimed_at: datetime | None
    started_at: datetime | None
    cancel_requested_at: datetime | None
    finished_at: datetime | None
    published_at: datetime | None

    @classmethod
    def of(cls, job: Job) -> Self:
        """What is said of a job."""
        # Not every mapping is one to pydantic.
        given = {name: getattr(job, name) for name in cls.model_fields if name != "done"}
        said = {"done": job.state.is_final, "metadata": dict(job.metadata)}
        return cls.model_validate(given | said)


class JobPage(BaseModel):
    """A page of jobs, newest first.

    Attributes:
        next: The path and query of the next page; None for no more.
    """

    items: Sequence[JobReport]
    next: str | None


class Submit(BaseModel):
    """Jobs that are submitted together: their items, or where a manifest of them lies.

    Attributes:
        items: Each as a `JobBody`; one that is none stops no other.
        manifest: The URI of a JSONL file, a `JobBody` a line.
    """

    model_config = _EXACT

    items: Annotated[list[dict[str, Any]], Field(max_length=MOST_ITEMS)] | None = None
    manifest: Uri | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.items is None) == (self.manifest is None):
            raise ValueError("state items, or a manifest")
        return self


class Fault(BaseModel):
    """An item that was not accepted.

    Attributes:
        position: Among all, from 0.
        key: The caller's own name for the job.
        code: Stable; see docs/03-errors.md.
        message: For a person.
        line: Of the manifest that it stood in, from 1; None elsewhere.
    """

    model_config = _ATTRIBUTES

    position: int
    key: str | None
    code: str
    message: str
    line: int | None = None


class Submitted(BaseModel):
    """What submitting many came to.

    Attributes:
        id: Of the submission.
        created: How many items are new jobs.
        existing: How many are jobs that were known by their keys.
        invalid: How many were not accepted.
        faults: What was wrong with the first of them, 1000 at most.
    """

    model_config = _ATTRIBUTES

    id: UUID
    created: int
    existing: int
    invalid: int
    faults: Sequence[Fault]


class SubmissionStatus(BaseModel):
    """How far a submission is.

    Attributes:
        done: Whether it has ended, and its manifests lie in storage.
        counts: How many jobs are in each state; those that no job is in are left out.
        results: The URI of the JSONL manifest of its last end, a line for each job that succeeded.
        errors: The same of the jobs that ended otherwise.
    """

    model_config = _ATTRIBUTES

    id: UUID
    tenant: str
    key: str | None
    generation: int
    done: bool
    total: int
    unfinished: int
    counts: Mapping[JobState, int]
    created_at: datetime
    sealed_at: datetime | None
    finished_at: datetime | None
    results: str | None
    errors: str | None

    @classmethod
    def of(cls, report: SubmissionReport) -> Self:
        """What is said of a submission."""
        names = cls.model_fields.keys() - {"done", "counts"}
        given: dict[str, Any] = {name: getattr(report, name) for name in names}
        given |= {"done": report.finished_at is not None, "counts": dict(report.counts)}
        return cls.model_validate(given)


class EventReport(BaseModel):
    """A job changed its state.

    Attributes:
        position: Its place in the stream; `Last-Event-ID` and `after` take it.
        left_state: The state before; None if the job is new.
        seconds: How long it was queued or running before; None where it was neither.
        error: The code of the error that ended its claim; None for none.
    """

    model_config = _ATTRIBUTES

    position: str
    at: datetime
    job_id: UUID
    submission_id: UUID | None
    tenant: str
    job_class: JobClass
    generation: int
    fence: int
    run_id: UUID | None
    left_state: JobState | None
    state: JobState
    seconds: float | None
    error: str | None

    @classmethod
    def of(cls, event: "Event") -> Self:
        """What is said of an event."""
        given = {name: getattr(event, name) for name in cls.model_fields}
        return cls.model_validate(given | {"position": str(event.position)})


class Retry(BaseModel):
    """The deadlines of a job's new generation; the old ones do not carry over."""

    model_config = _EXACT

    start_by: Time | None = None
    finish_by: Time | None = None


class Cancelled(BaseModel):
    """What a cancel came to.

    Attributes:
        answer: `cancelled` at once, `cancelling` while a worker has it, or the state in which it
            had already ended.
    """

    id: UUID
    answer: str


class Attempt(BaseModel):
    """How a claim of a job ended, or that it goes on.

    Attributes:
        outcome: `succeeded`, `running`, or `failed`, which may have been followed by another.
        error: What ended it, where it failed.
    """

    generation: int
    attempt: int
    fence: int
    run_id: UUID | None
    outcome: str
    error: AttemptError | None
    at: datetime | None


class ResultLink(BaseModel):
    """Where a result can be fetched for a while.

    Attributes:
        url: Fetch it with GET; whoever has it may, until it expires.
    """

    url: str
    expires_in_seconds: int
    uri: str
    sha256: str
    size_bytes: int
    content_type: str


class KeyReport(BaseModel):
    """An API key, as the service sees who asks with it.

    Attributes:
        prefix: How its text begins, by which people recognise it.
        tenant: For whom it speaks; null for all tenants.
        scopes: What it is for.
        version: Of the service.
    """

    prefix: str
    tenant: str | None
    scopes: list[Scope]
    version: str


class UploadBody(BaseModel):
    """What is going to be uploaded.

    Attributes:
        content_type: Of the file; the PUT has to state the same.
        sha256: Of the file: the same file is given the same place, so that the same job can be
            submitted again. None for a place that nobody else is given.
    """

    model_config = _EXACT

    content_type: Annotated[str, Field(pattern=r"^[a-z]+/[A-Za-z0-9.+_-]{1,100}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class UploadLink(BaseModel):
    """Where a source can be stored for a while.

    Attributes:
        uri: The source of jobs, once it is there.
        url: Store it with PUT; whoever has it may, until it expires.
        headers: That the PUT has to have.
    """

    uri: str
    url: str
    headers: Mapping[str, str]
    expires_in_seconds: int


class PauseBody(BaseModel):
    """What is not to be claimed from, and why.

    Attributes:
        job_class: The class; None for all.
        reason: For people.
    """

    model_config = _EXACT

    job_class: JobClass | None = None
    reason: Reason


class ResumeBody(BaseModel):
    """Which pause is to end.

    Attributes:
        job_class: The class; None for the pause of all.
        reason: For people; it may be left out.
    """

    model_config = _EXACT

    job_class: JobClass | None = None
    reason: Annotated[str, Field(max_length=500)] = ""


class Resumed(BaseModel):
    """What a resume came to.

    Attributes:
        ended: Whether there was such a pause.
    """

    ended: bool


class PauseReport(BaseModel):
    """What is paused."""

    model_config = _ATTRIBUTES

    tenant: str | None
    job_class: JobClass | None
    reason: str
    paused_by: str
    paused_at: datetime


class QueueReport(BaseModel):
    """A class of a tenant, or of all.

    Attributes:
        states: How many jobs are in each state; those that no job is in are left out.
        gpu_seconds: What its queued jobs of known size are estimated to take.
        unmeasured: How many queued jobs are of unknown size.
        pauses: What keeps it from being claimed from.
    """

    job_class: JobClass
    states: Mapping[JobState, int]
    gpu_seconds: float
    unmeasured: int
    pauses: Sequence[PauseReport]


class OperationBody(BaseModel):
    """A cancel or a retry of all jobs that match.

    Attributes:
        kind: `cancel` or `retry`.
        dry_run: Only count.
        expected: How many there are, if you counted them.
    """

    model_config = _EXACT

    kind: OperationKind
    where: JobFilter
    reason: Reason
    dry_run: bool = False
    expected: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None


class OperationReport(BaseModel):
    """What was asked for, and what came of it so far.

    Attributes:
        id: None for a dry run.
        change: What a share or rights were set to, which API key it was, or what was done to an
            endpoint; None for all else.
        counts: How many jobs it has concerned, by what came of them; of a dry run, what would.
        finished_at: Since when all is done, or nothing more will be.
    """

    model_config = _ATTRIBUTES

    id: UUID | None
    kind: OperationKind
    filter: JobFilter
    change: Mapping[str, Any] | None = None
    who: str
    reason: str
    expected: int | None
    counts: Mapping[str, int]
    created_at: datetime | None
    finished_at: datetime | None
    stopped_by: str | None

    @classmethod
    def of(cls, operation: Operation) -> Self:
        """What is said of an operation."""
        given = {name: getattr(operation, name) for name in cls.model_fields}
        given["change"] = None if operation.change is None else dict(operation.change)
        return cls.model_validate(given | {"counts": dict(operation.counts)})

    @property
    def jobs(self) -> int:
        """How many jobs it has concerned so far."""
        return sum(self.counts.values())


class WorkerReport(BaseModel):
    """A run that holds a lease; see `RunReport`."""

    model_config = _ATTRIBUTES

    id: UUID
    host: str
    pid: int
    device: str
    version: str
    model: str
    model_revision: str
    holding: int
    draining: bool
    max_lattice_pixels: int | None
    started_at: datetime
    lease_expires_at: datetime


class Autoscale(BaseModel):
    """What waits for GPUs, as an autoscaler reads it: every number is there, 0 included.

    Attributes:
        queued_gpu_seconds: What queued jobs are estimated to take; one of unknown size counts as a
            guess.
        queued_jobs: How many they are.
        oldest_seconds: How long the one has been queued that has been for longest; 0 for none.
        workers: Runs that hold a lease and are not draining.
        wanted_workers: So many would be done with what is queued in `drain_seconds`.
    """

    queued_gpu_seconds: float
    queued_jobs: int
    oldest_seconds: float
    workers: int
    wanted_workers: int


class Problem(BaseModel):
    """What went wrong (RFC 9457).

    Attributes:
        type: A URI that names the kind of problem: the error's code.
        title: The error's code in words.
        status: The HTTP status.
        detail: What is wrong and what to do about it.
        code: Stable; what programs compare. See docs/03-errors.md.
        retryable: Whether the same request could succeed later.
        request_id: Of the request, as in the log.
        field: What of the request is wrong, where that is known.
        errors: Everything that is wrong with the request, where it is more.
        job_id: The job that it is about, where there is one.
    """

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool = False
    request_id: str
    field: str | None = None
    errors: Sequence[Mapping[str, str]] | None = None
    job_id: UUID | None = None
