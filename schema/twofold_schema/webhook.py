"""A webhook endpoint of a tenant, and what it is told: the contract of the outbox."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self
from uuid import UUID

from twofold_schema.states import FINAL_STATES, JobState


class EventType(StrEnum):
    """What an endpoint can be told of; the `type` of its messages, which never changes."""

    #: The job's result is stored.
    JOB_SUCCEEDED = "job.succeeded"
    #: The job's generation ended in an error.
    JOB_FAILED = "job.failed"
    #: The job was called off.
    JOB_CANCELLED = "job.cancelled"
    #: The job missed a deadline.
    JOB_EXPIRED = "job.expired"
    #: All jobs of a sealed submission have ended, and its manifests are stored.
    SUBMISSION_FINISHED = "submission.finished"
    #: Somebody asked whether the endpoint hears.
    TEST = "webhook.test"

    @classmethod
    def of_job(cls, state: JobState) -> Self:
        """What tells that a job has ended so."""
        return cls(f"job.{state}")


#: What an endpoint may be told of without having been asked.
CHOICES: Final = tuple(event for event in EventType if event is not EventType.TEST)

#: Every end of a job has an event.
JOB_EVENTS: Final = frozenset(EventType.of_job(state) for state in FINAL_STATES)


class DeliveryState(StrEnum):
    """Where a message is on its way to an endpoint."""

    #: It will be tried, or tried again.
    PENDING = "pending"
    #: The endpoint answered with a status of 200 to 299.
    DELIVERED = "delivered"
    #: All tries are spent, or the endpoint said that it is gone.
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """An endpoint as its row had it when it was read; its secrets are never part of it.

    Attributes:
        url: Where messages are sent.
        events: What it is told of; None for all, those of later versions too.
        everything: Whether it is told of all jobs and submissions of its tenant; if not, only of
            those that name it.
        disabled_at: Since when nothing is sent and nothing is noted down for it; None if it is in
            use.
        disabled_reason: Why, for people.
        failing_since: Since when no try has succeeded; None if the last one did.
    """

    id: UUID
    tenant: str
    url: str
    events: tuple[EventType, ...] | None
    everything: bool
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None
    failing_since: datetime | None

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Self:
        """An endpoint from a row of its table."""
        fields = {name: row[name] for name in cls.__dataclass_fields__}
        if row["events"] is not None:
            fields["events"] = tuple(map(EventType, row["events"]))
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One request that was made to deliver a message.

    Attributes:
        at: When it began, by the database's clock.
        status: The HTTP status of the answer; None for no answer.
        seconds: How long it took.
        error: Why there was no answer; None where there was one.
    """

    at: datetime
    status: int | None
    seconds: float
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message to an endpoint, and how far it is. Times are the database's.

    Attributes:
        id: The message's `webhook-id`, the same at every try.
        type: What it tells.
        job_id: Of the job that it is about, if it is about one.
        submission_id: Of the submission that it is about, or that its job belongs to.
        body: What is sent, the same bytes at every try.
        tries: How many there have been, since the last time somebody asked to deliver it anew.
        next_try_at: When it is tried again; None once it has ended.
        log: The last tries, oldest first.
    """

    id: UUID
    webhook_id: UUID
    tenant: str
    type: EventType
    job_id: UUID | None
    submission_id: UUID | None
    body: str
    state: DeliveryState
    tries: int
    created_at: datetime
    next_try_at: datetime | None
    ended_at: datetime | None
    log: tuple[Try, ...]

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Self:
        """A delivery from a row of its table."""
        fields = {name: row[name] for name in cls.__dataclass_fields__}
        fields["type"] = EventType(row["type"])
        fields["state"] = DeliveryState(row["state"])
        fields["log"] = tuple(
            Try(
                at=datetime.fromisoformat(entry["at"]),
                status=entry["status"],
                seconds=entry["seconds"],
                error=entry["error"],
            )
            for entry in row["log"]
        )
        return cls(**fields)


#: What the `from_row`s read, by name, as `job.JOB_COLUMNS`.
WEBHOOK_COLUMNS: Final = ", ".join(Webhook.__dataclass_fields__)
DELIVERY_COLUMNS: Final = ", ".join(Delivery.__dataclass_fields__)
