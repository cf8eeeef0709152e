"""What goes over HTTP of jobs that are submitted together."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Self
from uuid import UUID

from pydantic import BaseModel, Field, model_validator

from twofold_schema.states import JobState
from twofold_schema.submission import SubmissionReport
from twofold_schema.wire.base import ATTRIBUTES, EXACT, Uri

#: The most items of an inline submission; more come as JSONL.
MOST_ITEMS: Final = 10_000


class Submit(BaseModel):
    """Jobs that are submitted together: their items, or where a manifest of them lies.

    Attributes:
        items: Each as a `JobBody`; one that is none stops no other.
        manifest: The URI of a JSONL file, a `JobBody` a line.
    """

    model_config = EXACT

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

    model_config = ATTRIBUTES

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

    model_config = ATTRIBUTES

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

    model_config = ATTRIBUTES

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
