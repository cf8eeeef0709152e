"""What goes over HTTP of what happens to jobs."""

from datetime import datetime
from typing import TYPE_CHECKING, Self
from uuid import UUID

from pydantic import BaseModel

from twofold_schema.states import JobClass, JobState
from twofold_schema.wire.base import ATTRIBUTES

if TYPE_CHECKING:
    # A client needs no database.
    from twofold_schema.ledger.events import Event


class EventReport(BaseModel):
    """A job changed its state.

    Attributes:
        position: Its place in the stream; `Last-Event-ID` and `after` take it.
        left_state: The state before; None if the job is new.
        seconds: How long it was queued or running before; None where it was neither.
        error: The code of the error that ended its claim; None for none.
    """

    model_config = ATTRIBUTES

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
