"""One verb for several jobs at once, and whose fault it is when storage does not answer.

That is an answer about a job only if storage answers this process otherwise. A job that keeps all
others waiting is left behind, and comes when it is done.
"""

import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from twofold_schema.job import ClaimedJob
from twofold_worker.outcome import Failed, Released, attempt, is_unanswered
from twofold_worker.precedence import let_the_engine_pass
from twofold_worker.reach import Reach

Answer = TypeVar("Answer")

_TICK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Going:
    """What is under way for a job, and whether it is so for the second time."""

    job: ClaimedJob
    verb: Callable[[ClaimedJob], Any]
    again: bool = False


class SideBySide:
    """Threads that fetch and decode. Only one thread may use it.

    Args:
        threads: How many.
        reach: Of storage.
        stopping: From when on nothing is begun, nor waited for.
        ended: Called, from any thread, when something has ended.
    """

    def __init__(
        self,
        threads: int,
        reach: Reach,
        stopping: threading.Event,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, "fetch", initializer=let_the_engine_pass)
        self._most_late = max(1, threads // 2)
        self._reach = reach
        self._stopping = stopping
        self._ended = ended
        self._late: dict[Future[Any], _Going] = {}
        self._left: set[Future[Any]] = set()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way of what was begun before the stop."""
        return all(future.done() for future in self._left)

    @property
    def has_room(self) -> bool:
        """Whether few enough were left behind that more may be begun."""
        return len(self._late) < self._most_late

    def each(
        self,
        jobs: Sequence[ClaimedJob],
        verb: Callable[[ClaimedJob], Answer],
        *,
        patience: float = math.inf,
    ) -> dict[UUID, Answer | Failed | Released]:
        """What a verb makes of each job.

        What storage does not answer is tried once more if storage answers otherwise, since it may
        have come back; if it does not, the job is released, as at the stop what has not ended.

        Args:
            jobs: To do it for.
            verb: Called with each, in some thread.
            patience: What is still under way when nothing has ended for so many seconds is left
                behind, and `late` has it one day. All of it only where it is little.
        """
        going = self._begun([_Going(job, verb) for job in jobs])
        ended: dict[UUID, Answer | Failed | Released] = {}
        quiet_since = time.monotonic()
        while going and not self._stopping.is_set():
            done, _ = wait(going, min(patience, _TICK_SECONDS), FIRST_COMPLETED)
            if done:
                ended |= self._taken(done, going)
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= patience and (
                ended or self._has_room_for(going)
            ):
                self._late |= going
                return ended
        return ended | self._abandoned(going)

    def late(self) -> tuple[Sequence[ClaimedJob], dict[UUID, Any]]:
        """Jobs that were left behind and have ended, and what came of them; at the stop all."""
        jobs = {one.job.id: one.job for one in self._late.values()}
        ended = self._taken({future for future in self._late if future.done()}, self._late)
        if self._stopping.is_set():
            ended |= self._abandoned(self._late)
        return [jobs[job_id] for job_id in ended], ended

    def ask(self) -> bool:
        """Whether storage answers this process now; not if the stop came before it did."""
        asking = self._pool.submit(self._reach.ask)
        while not asking.done() and not self._stopping.is_set():
            wait([asking], _TICK_SECONDS)
        if self._leave([asking]):
            return False
        return asking.result() is None

    def close(self) -> None:
        """Begin nothing more, and wait for nothing."""
        self._pool.shutdown(wait=False)

    def _has_room_for(self, going: Collection[Future[Any]]) -> bool:
        return len(self._late) + len(going) <= self._most_late

    def _begun(self, wanted: Iterable[_Going]) -> dict[Future[Any], _Going]:
        going = {self._pool.submit(attempt, one.job, one.verb): one for one in wanted}
        for future in going:
            future.add_done_callback(lambda _: self._ended())
        return going

    def _taken(
        self, done: Collection[Future[Any]], going: dict[Future[Any], _Going]
    ) -> dict[UUID, Any]:
        """What has ended, out of what is under way; what is tried again goes back there."""
        ended: dict[UUID, Any] = {}
        unanswered: list[_Going] = []
        for future in done:
            one, answer = going.pop(future), future.result()
            ended[one.job.id] = answer
            if is_unanswered(answer):
                unanswered.append(one)
        if unanswered and not self.ask():
            return ended | {one.job.id: Released(one.job.claim) for one in unanswered}
        again = [_Going(one.job, one.verb, again=True) for one in unanswered if not one.again]
        for one in again:
            del ended[one.job.id]
        going |= self._begun(again)
        return ended

    def _abandoned(self, going: dict[Future[Any], _Going]) -> dict[UUID, Any]:
        """What was under way at the stop: what has not ended, or not been answered, is released."""
        unended = self._leave(going)
        ended = {}
        for future, one in going.items():
            answer = None if future in unended else future.result()
            is_lost = future in unended or is_unanswered(answer)
            ended[one.job.id] = Released(one.job.claim) if is_lost else answer
        going.clear()
        return ended

    def _leave(self, futures: Iterable[Future[Any]]) -> set[Future[Any]]:
        """Wait for these no more, and begin none of them; returns those that have not ended."""
        unended = {future for future in futures if not future.done()}
        self._left |= {future for future in unended if not future.cancel()}
        return unended
