"""An operation: what somebody asked for that concerns many jobs, and what came of it so far."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Final, Self, TypeAlias
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from twofold_schema.job import AS_TEXT, NO_NUL, Moment
from twofold_schema.states import JobClass, JobState

Text: TypeAlias = Annotated[str, Field(pattern=NO_NUL)]


class OperationKind(StrEnum):
    """What was asked for. The keeper carries out the first two; the others are done at once."""

    #: Call jobs off.
    CANCEL = "cancel"
    #: Give failed and expired jobs a new generation.
    RETRY = "retry"
    #: Let nothing more be claimed of a scope.
    PAUSE = "pause"
    #: End a pause.
    RESUME = "resume"
    #: Say what a tenant is due.
    SHARE = "share"
    #: Say what a tenant may do.
    RIGHTS = "rights"
    #: Make an API key.
    CREATE_KEY = "create_key"
    #: Let another API key take one's place.
    ROTATE_KEY = "rotate_key"
    #: End an API key.
    REVOKE_KEY = "revoke_key"
    #: Make or change a webhook endpoint.
    WEBHOOK = "webhook"


class JobFilter(BaseModel):
    """Which jobs are meant: those of which all that is stated here is true.

    Attributes:
        tenant: Whose.
        job_class: Of which class.
        states: In one of these states; None for every state that the operation can change.
        submission_id: Of which submission.
        created_after: Submitted then or later.
        created_before: Submitted earlier.
        error: The code of the last error of their generation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    tenant: Text | None = None
    job_class: Annotated[JobClass, AS_TEXT] | None = None
    states: Annotated[tuple[Annotated[JobState, AS_TEXT], ...], AS_TEXT] | None = None
    submission_id: Annotated[UUID, AS_TEXT] | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    error: Text | None = None

    def to_json(self) -> dict[str, Any]:
        """What is stated, as the row has it."""
        return self.model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation as its row had it when it was read. Times are the database's.

    Attributes:
        filter: Whose jobs; of all but a cancel and a retry, their scope.
        change: What a share or rights were set to, which API key it was, or what was done to an
            endpoint.
        who: Asked for it.
        reason: Why, for people.
        expected: How many jobs matched when they were counted before it; None if nobody did.
        counts: How many jobs it has concerned so far, by what came of them.
        finished_at: Since when all is done, or nothing more will be.
        stopped_by: Who ended it before it was done.
    """

    id: UUID
    kind: OperationKind
    filter: JobFilter
    change: Mapping[str, Any] | None
    who: str
    reason: str
    expected: int | None
    counts: Mapping[str, int]
    created_at: datetime
    finished_at: datetime | None
    stopped_by: str | None

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Self:
        """An operation from a row of its table."""
        fields = {name: row[name] for name in cls.__dataclass_fields__}
        fields["kind"] = OperationKind(row["kind"])
        fields["filter"] = JobFilter.model_validate(row["filter"], extra="ignore")
        fields["counts"] = MappingProxyType(row["counts"])
        return cls(**fields)

    @property
    def jobs(self) -> int:
        """How many jobs it has concerned so far."""
        return sum(self.counts.values())


#: What `Operation.from_row` reads, by name, as `job.JOB_COLUMNS`.
OPERATION_COLUMNS: Final = ", ".join(Operation.__dataclass_fields__)
