"""Where a job can be in its life, and how it may move: data, from which all else derives."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class JobState(StrEnum):
    """Where a job is in its life. The row's `state` is the only truth about it."""

    #: Waits for its start time or its retry's backoff; the keeper promotes it.
    SCHEDULED = "scheduled"
    #: Waits for a run; a claim takes it.
    QUEUED = "queued"
    #: Held by a run under a fence; that run's outcome, or rescue, moves it on.
    RUNNING = "running"
    #: Its result is stored and named by the row.
    SUCCEEDED = "succeeded"
    #: Its error cannot be mended by another attempt, or its attempts are spent, or no pool of
    #: workers has room for it.
    FAILED = "failed"
    #: Its owner called it off, and no worker will finish it.
    CANCELLED = "cancelled"
    #: It missed `start_by` or `finish_by`.
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """Whether the job's generation has ended."""
        return self in FINAL_STATES


class CancelAnswer(StrEnum):
    """What a cancel came to."""

    #: No worker had it; it never runs.
    CANCELLED = "cancelled"
    #: A worker has it and will hear; `complete` may still win until the worker confirms.
    CANCELLING = "cancelling"
    #: It had already succeeded.
    SUCCEEDED = "succeeded"
    #: It had already failed.
    FAILED = "failed"
    #: It had already expired.
    EXPIRED = "expired"
    #: There is no such job.
    NOT_FOUND = "not_found"


FINAL_STATES = frozenset(
    {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED}
)

#: For each state, the states it may move to and what moves it there.
TRANSITIONS: Mapping[JobState, Mapping[JobState, str]] = MappingProxyType(
    {
        JobState.SCHEDULED: MappingProxyType(
            {
                JobState.QUEUED: "promote",
                JobState.FAILED: "fail_oversized",
                JobState.CANCELLED: "cancel",
                JobState.EXPIRED: "expire",
            }
        ),
        JobState.QUEUED: MappingProxyType(
            {
                JobState.RUNNING: "claim",
                JobState.FAILED: "fail_oversized",
                JobState.CANCELLED: "cancel",
                JobState.EXPIRED: "expire",
            }
        ),
        JobState.RUNNING: MappingProxyType(
            {
                JobState.SUCCEEDED: "complete",
                JobState.FAILED: "fail, retry_later or rescue",
                JobState.SCHEDULED: "retry_later",
                JobState.QUEUED: "release or rescue",
                JobState.CANCELLED: (
                    "release, retry_later, fail, rescue, expire or late complete of a flagged job"
                ),
                JobState.EXPIRED: "expire, complete, retry_later or rescue past finish_by",
            }
        ),
        JobState.SUCCEEDED: MappingProxyType({}),
        JobState.FAILED: MappingProxyType({JobState.QUEUED: "retry"}),
        JobState.CANCELLED: MappingProxyType({}),
        JobState.EXPIRED: MappingProxyType({JobState.QUEUED: "retry"}),
    }
)


class JobClass(StrEnum):
    """How urgent a job is; a class is served before the ones below it."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BULK = "bulk"

    @property
    def rank(self) -> int:
        """0 is served first; what the table stores, so that an index can order by it."""
        return _RANKS[self]


_RANKS: Mapping[JobClass, int] = MappingProxyType(
    {job_class: rank for rank, job_class in enumerate(JobClass)}
)
