"""What goes over HTTP of jobs, one by one."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from twofold_schema.job import AttemptError, Job, Output, Parameters, Result, Time
from twofold_schema.request import JobFields
from twofold_schema.states import JobClass, JobState
from twofold_schema.wire.base import ATTRIBUTES, EXACT, Uri


class JobBody(JobFields):
    """A job that is asked for.

    Attributes:
        source: `s3://bucket/key` or `file:///path` of a picture or latents.
    """

    model_config = ConfigDict(strict=True)

    source: Uri


class JobReport(BaseModel):
    """A job as it is now.

    Attributes:
        done: Whether it has ended, well or not.
        retrying: Whether it waits for another attempt after an error.
        cancelling: Whether it was called off while a worker has it.
        error: The last error of this generation, if any.
    """

    model_config = ATTRIBUTES

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


class Retry(BaseModel):
    """The deadlines of a job's new generation; the old ones do not carry over."""

    model_config = EXACT

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
