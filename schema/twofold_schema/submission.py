"""A submission as its row and its jobs have it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from twofold_schema.states import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionReport:
    """Jobs that were submitted together, and how far they are. Times are the database's.

    Attributes:
        key: The caller's own name for the submission.
        generation: How often it was opened: once, and once more for each retry after its end.
        sealed_at: Since when it takes no more jobs.
        finished_at: Since when all jobs of a sealed submission have ended and its manifests lie in
            storage.
        counts: How many jobs are in each state; those that no job is in are left out.
        results: The URI of the JSONL manifest of its last end, a line for each job that succeeded.
        errors: The same of the jobs that ended otherwise.
    """

    id: UUID
    tenant: str
    key: str | None
    generation: int
    created_at: datetime
    sealed_at: datetime | None
    finished_at: datetime | None
    counts: Mapping[JobState, int]
    results: str | None
    errors: str | None

    @property
    def total(self) -> int:
        """How many jobs it has."""
        return sum(self.counts.values())

    @property
    def unfinished(self) -> int:
        """How many of them have not ended."""
        return sum(count for state, count in self.counts.items() if not state.is_final)
