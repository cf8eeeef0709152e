"""What goes over HTTP of what waits, and of what is not claimed from."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel

from twofold_schema.job import AS_TEXT
from twofold_schema.states import JobClass, JobState
from twofold_schema.wire.base import ATTRIBUTES, EXACT, Reason, ReasonIfAny


class PauseBody(BaseModel):
    """What is not to be claimed from, and why.

    Attributes:
        job_class: The class; None for all.
        reason: For people.
    """

    model_config = EXACT

    job_class: Annotated[JobClass, AS_TEXT] | None = None
    reason: Reason


class ResumeBody(BaseModel):
    """Which pause is to end.

    Attributes:
        job_class: The class; None for the pause of all.
        reason: For people; it may be left out.
    """

    model_config = EXACT

    job_class: Annotated[JobClass, AS_TEXT] | None = None
    reason: ReasonIfAny = ""


class Resumed(BaseModel):
    """What a resume came to.

    Attributes:
        ended: Whether there was such a pause.
    """

    ended: bool


class PauseReport(BaseModel):
    """What is paused."""

    model_config = ATTRIBUTES

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
