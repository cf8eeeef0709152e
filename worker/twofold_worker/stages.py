"""Three stages with bounded hand-overs: intake, engine, outlet.

The engine's thread does nothing but upscale; while it does, the intake prepares who comes next and
the outlet stores who is done. The stages live as long as the process: a ticket, a poll or room
ahead of the engine only wakes them. While storage answers this process nothing at all, it claims
nothing.
"""

import queue
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError

from twofold_schema.database import is_transient
from twofold_schema.job import ClaimedJob
from twofold_schema.states import JobClass
from twofold_schema.storage.port import Content
from twofold_worker.engine import Engine
from twofold_worker.outcome import Failed, Released
from twofold_worker.outlet import Outlet
from twofold_worker.pipeline import Pipeline
from twofold_worker.reach import Reach
from twofold_worker.side_by_side import SideBySide
from twofold_worker.work import Measured, Prepared, Upscaled

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

_TICK_SECONDS = 0.5
#: What waits for the engine, in steps' worth of slots, below which more is claimed. What waits
#: here, no idle run can take.
AHEAD = 0.5
#: A source that nothing has ended for so long beside is late: the others go on without it.
_PATIENCE_SECONDS = 1.0
#: Between two questions to a storage that is away, in seconds; the first doubles up to the longest.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0


class Stages:
    """The threads that carry jobs through a `Pipeline`.

    Args:
        pipeline: The verbs.
        engine: What lies between decoding and encoding; from now on its thread's.
        broken: Called once, from the thread concerned, when this process cannot go on.
    """

    def __init__(
        self, pipeline: Pipeline, engine: Engine, broken: Callable[[BaseException], None]
    ) -> None:
        self._pipeline = pipeline
        self._engine = engine
        self._broken = broken
        self._stopping = threading.Event()
        self._stopped_at = 0.0
        self._reach = Reach(pipeline.ask_storage)
        self._wanted = threading.Event()
        self._looking = threading.Event()
        self._ready: queue.SimpleQueue[list[Prepared] | None] = queue.SimpleQueue()
        self._room_ahead = threading.Event()
        self._room_ahead.set()
        self._next_class: JobClass | None = None
        self._fetchers = SideBySide(
            pipeline.worker.io_threads, self._reach, self._stopping, self._wanted.set
        )
        self._outlet = Outlet(pipeline, self._reach, self._stopping)
        self._threads = {
            name: threading.Thread(target=self._guarded, args=(loop,), name=name, daemon=True)
            for name, loop in (
                ("intake", self._intake),
                ("engine", self._upscale),
                ("outlet", self._outlet.run),
            )
        }

    def start(self) -> None:
        """Begin to look for work."""
        for thread in self._threads.values():
            thread.start()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def is_exhausted(self) -> bool:
        """Whether a new process has to take over; then this one has stopped by itself."""
        return self._engine.is_exhausted

    def wake(self) -> None:
        """Look for work now rather than at the next poll."""
        self._wanted.set()

    def wait_idle(self) -> None:
        """Return when the last look found nothing and nothing is in hand, or at the stop."""
        # Asked in the order in which work moves on, so that none slips by between two questions.
        while (
            self._wanted.is_set() or self._looking.is_set() or len(self._pipeline.holdings)
        ) and not self._stopping.is_set():
            self._pipeline.holdings.wait_empty(_TICK_SECONDS)
            self._stopping.wait(0.01)

    def stop(self) -> None:
        """Take no more work: finish what is on the device, release the rest. Returns at once."""
        if not self._stopping.is_set():
            self._stopped_at = time.monotonic()
        self._stopping.set()
        self._wanted.set()

    def join(self, *, within: float | None = None) -> bool:
        """Wait, after `stop`, until everything in hand is settled.

        Args:
            within: Seconds after `stop`; None for as long as it takes.

        Returns:
            Whether that came to pass and nothing is under way; a request to storage may be.
        """
        settling = threading.Thread(target=self._settle_all, name="settling", daemon=True)
        settling.start()
        left = None if within is None else self._stopped_at + within - time.monotonic()
        settling.join(left if left is None else max(0.0, left))
        return not settling.is_alive() and self._fetchers.is_quiet

    def _settle_all(self) -> None:
        self._threads["intake"].join()
        self._threads["engine"].join()
        self._outlet.close()
        self._threads["outlet"].join()
        self._fetchers.close()

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:  # noqa: BLE001 - crash-only: no stage goes on half
            self._broken(error)

    def _intake(self) -> None:
        while not self._stopping.is_set():
            self._take_late()
            if self._reach.error:
                self._await_storage()
                continue
            self._looking.set()
            # Cleared before the look: a ticket that comes while looking makes for another look.
            self._wanted.clear()
            jobs = self._claim()
            self._looking.clear()
            if not jobs:
                self._wanted.wait(self._pipeline.worker.poll_seconds)
                continue
            self._prepare(jobs)
            self._wanted.set()
        self._take_late()
        self._ready.put(None)

    def _await_storage(self) -> None:
        """While storage is away, claim nothing and ask it, less and less often."""
        pause = _FIRST_PAUSE
        while (error := self._reach.error) and not self._stopping.is_set():
            # Spread, so that a fleet does not come back all at once.
            seconds = pause * random.uniform(0.5, 1)  # noqa: S311 - no secret
            log.warning(
                "storage_away", code=error.code, error=error.message, seconds=round(seconds, 1)
            )
            self._stopping.wait(seconds)
            self._take_late()
            pause = min(2 * pause, _LONGEST_PAUSE)
            if self._fetchers.ask():
                log.info("storage_back")

    def _claim(self) -> list[ClaimedJob]:
        """Jobs of any class while there is room ahead of the engine; else those that overtake."""
        has_room, above = self._room_ahead.is_set(), self._next_class
        if not (self._fetchers.has_room and (has_room or above is not None)):
            return []
        try:
            return self._pipeline.claim(above=None if has_room else above)
        except DBAPIError as error:
            if not is_transient(error):
                raise
            log.warning("claim_failed", error=str(error.orig))
            return []

    def _prepare(self, jobs: list[ClaimedJob]) -> None:
        """Hand over to the engine what is ready soon; what is late comes later."""
        unmeasured = [job for job in jobs if job.lane is None]
        measured = self._fetchers.each(
            unmeasured, self._pipeline.measure, patience=_PATIENCE_SECONDS
        )
        self._fetch(jobs, self._good(measured))

    def _fetch(self, jobs: Sequence[ClaimedJob], measured: Mapping[UUID, Measured]) -> None:
        """Go on with jobs of one lane, and with none that has no lane yet."""
        mates = self._pipeline.sort_out(
            [job for job in jobs if job.lane is not None or job.id in measured], measured
        )
        kept = {mate.id for mate in mates}
        self._outlet.release([job for job in jobs if job.id in measured and job.id not in kept])
        fetched = self._fetchers.each(mates, self._pipeline.fetch, patience=_PATIENCE_SECONDS)
        self._hand_over(mates, self._good(fetched))

    def _take_late(self) -> None:
        """Go on with the sources that kept nobody waiting."""
        jobs, ended = self._fetchers.late()
        good = self._good(ended)
        measured = {job_id: one for job_id, one in good.items() if isinstance(one, Measured)}
        self._hand_over(
            jobs, {job_id: one for job_id, one in good.items() if job_id not in measured}
        )
        if measured:
            self._fetch([job for job in jobs if job.id in measured], measured)

    def _hand_over(self, jobs: Sequence[ClaimedJob], fetched: Mapping[UUID, Content]) -> None:
        """Decode what was fetched, and give it to the engine."""
        jobs = [job for job in jobs if job.id in fetched]
        if self._stopping.is_set():
            # Whatever has begun here is a suspect if the process is killed.
            self._outlet.release(jobs)
            jobs = []
        if not jobs:
            return
        going_on = self._pipeline.start(jobs, fetched)
        self._outlet.release([job for job in jobs if job.id not in going_on])
        decoded = self._fetchers.each(
            [job for job in jobs if job.id in going_on],
            lambda job: self._pipeline.decode(job, fetched[job.id], first_version=going_on[job.id]),
        )
        batch = list(self._good(decoded).values())
        if batch:
            self._room_ahead.clear()
            self._ready.put(batch)

    def _upscale(self) -> None:
        last = False
        while not (last and self._engine.is_idle):
            last = self._admit() or last
            if self._stopping.is_set():
                for released in self._engine.release_waiting():
                    self._outlet.put(released)
            for answer in self._engine.turn():
                if isinstance(answer, Upscaled):
                    self._outlet.deliver(answer)
                else:
                    self._outlet.put(answer)
            if self._engine.is_exhausted:
                self.stop()
            self._look_ahead()

    def _admit(self) -> bool:
        """Take what the intake has prepared, and wait for it when idle; whether it was the last."""
        while self._engine.is_idle or not self._ready.empty():
            batch = self._ready.get()
            if batch is None:
                return True
            for prepared in batch:
                self._engine.add(prepared)
        return False

    def _look_ahead(self) -> None:
        """Tell the intake what it may claim."""
        self._next_class = self._engine.next_class
        if self._ready.empty() and self._engine.backlog <= AHEAD and not self._room_ahead.is_set():
            self._room_ahead.set()
            self._wanted.set()

    def _good(self, answers: Mapping[UUID, Answer | Failed | Released]) -> dict[UUID, Answer]:
        """What came of each job; one that failed, or was released, is missing and settled."""
        good = {}
        for job_id, answer in answers.items():
            if isinstance(answer, Failed | Released):
                self._outlet.put(answer)
            else:
                good[job_id] = answer
        return good
