"""The protocol of docs and docstrings in plain Python, to hold the ledger's SQL against.

Time does not flow here: a deadline, a lease or a backoff is ahead until a test says it has passed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from uuid import UUID

from twofold_schema.job import Claim
from twofold_schema.states import JobState

_WAITING = (JobState.SCHEDULED, JobState.QUEUED)


@dataclass(slots=True, kw_only=True)
class ModelJob:
    """A job. Of each deadline: None when there is none, else whether it has passed."""

    id: UUID
    rank: int
    lane: str | None
    lattice_pixels: int | None
    revision: str | None
    max_attempts: int
    state: JobState
    is_due: bool
    start_by_passed: bool | None
    finish_by_passed: bool | None
    generation: int = 1
    fence: int = 0
    run_id: UUID | None = None
    attempts: int = 0
    crashes: int = 0
    mark: int | None = None
    was_claimed: bool = False
    is_started: bool = False
    is_overdue: bool = False
    is_flagged: bool = False
    result_fence: int | None = None
    errors: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def is_claimable(self) -> bool:
        """Whether a claim may take it, as far as its own row goes."""
        in_time = self.was_claimed or not self.start_by_passed
        return self.state is JobState.QUEUED and in_time and not self.finish_by_passed

    @property
    def ahead(self) -> list[str]:
        """The columns of times that may pass."""
        ahead = {
            "start_by": self.start_by_passed is False and not self.state.is_final,
            "finish_by": self.finish_by_passed is False and not self.state.is_final,
            "scheduled_at": self.state is JobState.SCHEDULED,
            "run_deadline": self.state is JobState.RUNNING,
        }
        return [column for column, is_ahead in ahead.items() if is_ahead]

    def passes(self, column: str) -> None:
        """One of the times ahead is over."""
        flags = {
            "start_by": "start_by_passed",
            "finish_by": "finish_by_passed",
            "scheduled_at": "is_due",
            "run_deadline": "is_overdue",
        }
        setattr(self, flags[column], True)

    def answered(self, code: str | None = None) -> None:
        """Count an attempt, and note its error."""
        self.attempts += 1
        if code is not None:
            self.noted(code)

    def noted(self, code: str) -> None:
        """Note an error of the claim that ends."""
        self.errors.append((code, self.generation, self.fence))

    def moved(self, state: JobState) -> None:
        """Leave `running`."""
        self.state = state
        self.is_overdue = self.is_due = False
        if not state.is_final:
            self.run_id = None


@dataclass(slots=True)
class ModelRun:
    """A run: its state, what it has room for if known, and whether its lease has run out."""

    revision: str
    room: int | None = None
    state: str = "live"
    is_silent: bool = False

    def has_room(self, job: ModelJob) -> bool:
        """Whether a job fits, as far as anybody knows."""
        if self.room is None or job.lattice_pixels is None:
            return True
        return job.lattice_pixels <= self.room

    @property
    def is_ended(self) -> bool:
        """Whether it holds no lease any more."""
        return self.state in {"stopped", "lost"}


class Model:
    """All jobs and runs.

    Attributes:
        is_patient: Whether rescue waits because the database was away.
    """

    def __init__(self) -> None:
        self.jobs: dict[UUID, ModelJob] = {}
        self.runs: dict[UUID, ModelRun] = {}
        self.is_patient = False
        self._marks = count()

    def held_by(self, run_id: UUID) -> list[ModelJob]:
        """The jobs that run under a run, in the order of their ids."""
        held = [
            job
            for job in self.jobs.values()
            if job.state is JobState.RUNNING and job.run_id == run_id
        ]
        return sorted(held, key=lambda job: job.id)

    def still_held(self, claims: Iterable[Claim]) -> list[ModelJob]:
        """The jobs that these claims still hold."""
        return [
            job
            for claim in claims
            if (job := self.jobs[claim.job_id]) in self.held_by(claim.run_id)
            and job.fence == claim.fence
        ]

    def claim(self, run_id: UUID, limit: int, ranks: int) -> list[ModelJob]:
        """Take the best jobs of one lane and one mark, of ranks below `ranks`."""
        run, held = self.runs[run_id], self.held_by(run_id)
        if run.state != "live" or run.is_silent or any(job.mark is not None for job in held):
            return []
        claimable = [
            job
            for job in sorted(self.jobs.values(), key=lambda job: (job.rank, job.id))
            if job.is_claimable and job.revision in {None, run.revision}
            if job.rank < ranks and run.has_room(job)
        ]
        if not claimable or (claimable[0].mark is not None and held):
            return []
        head = claimable[0]
        taken = [job for job in claimable if (job.lane, job.mark) == (head.lane, head.mark)][:limit]
        for job in taken:
            job.state, job.run_id, job.fence = JobState.RUNNING, run_id, job.fence + 1
            job.was_claimed, job.is_started = True, False
        return taken

    def complete(self, job: ModelJob) -> None:
        """A result, unless it is late."""
        job.answered()
        if job.finish_by_passed:
            self._miss(job)
        else:
            job.moved(JobState.SUCCEEDED)
            job.result_fence = job.fence

    def fail(self, job: ModelJob, code: str) -> None:
        """An error for good."""
        job.answered(code)
        job.moved(JobState.CANCELLED if job.is_flagged else JobState.FAILED)

    def retry_later(self, job: ModelJob, code: str) -> None:
        """An error that may pass."""
        job.answered(code)
        job.moved(self._fate(job, JobState.SCHEDULED))

    def release(self, job: ModelJob) -> None:
        """No answer."""
        job.moved(JobState.CANCELLED if job.is_flagged else JobState.QUEUED)

    def cancel(self, job: ModelJob) -> None:
        """The owner calls it off."""
        if not job.state.is_final:
            job.is_flagged = True
        if job.state in _WAITING:
            job.moved(JobState.CANCELLED)

    def retry(self, job: ModelJob) -> bool:
        """The operator begins a new generation; returns whether that is allowed."""
        if job.state not in {JobState.FAILED, JobState.EXPIRED}:
            return False
        job.moved(JobState.QUEUED)
        job.generation += 1
        job.attempts = job.crashes = 0
        job.mark = job.start_by_passed = job.finish_by_passed = None
        job.was_claimed = job.is_flagged = False
        return True

    def promote(self) -> None:
        """Queue what is due."""
        for job in self.jobs.values():
            if job.state is JobState.SCHEDULED and job.is_due:
                job.moved(JobState.QUEUED)

    def expire(self) -> None:
        """End what is late."""
        for job in self.jobs.values():
            never_began = (
                job.state in _WAITING and job.start_by_passed is True and not job.was_claimed
            )
            if never_began or (job.finish_by_passed and not job.state.is_final):
                self._miss(job)

    def fail_oversized(self, largest: int) -> None:
        """End what is larger than every pool takes."""
        for job in self.jobs.values():
            if job.state in _WAITING and (job.lattice_pixels or 0) > largest:
                job.noted("too_large_for_fleet")
                job.moved(JobState.FAILED)

    def rescue(self) -> None:
        """Give back what runs without a lease hold, and what was held too long."""
        for run in self.runs.values():
            if not run.is_ended and run.is_silent and not self.is_patient:
                run.state = "lost"
        for run_id, run in self.runs.items():
            held = self.held_by(run_id)
            if run.state == "lost":
                self._judge(held)
            elif run.state == "stopped":
                for job in held:
                    self.release_late(job)
            elif not self.is_patient:
                for job in (job for job in held if job.is_overdue):
                    if job.is_started:
                        job.answered("run_deadline_exceeded")
                    self.release_late(job)

    def release_late(self, job: ModelJob) -> None:
        """Give a job back whose attempts and deadline count."""
        job.moved(self._fate(job, JobState.QUEUED))

    def _judge(self, orphans: Sequence[ModelJob]) -> None:
        suspects = [job for job in orphans if job.is_started]
        first_half = suspects[: (len(suspects) + 1) // 2]
        marks = next(self._marks), next(self._marks)
        for job in orphans:
            if job.is_started:
                job.mark = marks[0] if job in first_half else marks[1]
                job.crashes += 1
                job.attempts += len(orphans) == 1
                job.noted("worker_crashed")
            self.release_late(job)

    @staticmethod
    def _miss(job: ModelJob) -> None:
        job.moved(JobState.CANCELLED if job.is_flagged else JobState.EXPIRED)

    @staticmethod
    def _fate(job: ModelJob, otherwise: JobState) -> JobState:
        if job.is_flagged:
            return JobState.CANCELLED
        if job.attempts >= job.max_attempts:
            return JobState.FAILED
        return JobState.EXPIRED if job.finish_by_passed else otherwise
