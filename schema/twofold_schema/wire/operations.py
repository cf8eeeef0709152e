"""What goes over HTTP of cancels and retries of many jobs."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, Field

from twofold_schema.job import AS_TEXT
from twofold_schema.operation import JobFilter, Operation, OperationKind
from twofold_schema.wire.base import ATTRIBUTES, EXACT, Reason


class OperationBody(BaseModel):
    """A cancel or a retry of all jobs that match.

    Attributes:
        kind: `cancel` or `retry`.
        dry_run: Only count.
        expected: How many there are, if you counted them.
    """

    model_config = EXACT

    kind: Annotated[OperationKind, AS_TEXT]
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

    model_config = ATTRIBUTES

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
