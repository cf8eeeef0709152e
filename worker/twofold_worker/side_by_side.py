"""One verb for several jobs at once, and whose fault it is when storage does not answer.

That is an answer about a job only if storage answers this process otherwise.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar
from uuid import UUID

from twofold_schema.job import ClaimedJob
from twofold_worker.outcome import Failed, Released, attempt, is_unanswered
from twofold_worker.precedence import let_the_engine_pass
from twofold_worker.reach import Reach

Answer = TypeVar("Answer")

_TICK_SECONDS = 0.5


class SideBySide:
    """Threads that fetch and decode. Only one thread may use it.

    Args:
        threads: How many.
        reach: Of storage.
        stopping: From when on nothing is begun, nor waited for.
    """

    def __init__(self, threads: int, reach: Reach, stopping: threading.Event) -> None:
        self._pool = ThreadPoolExecutor(threads, "fetch", initializer=let_the_engine_pass)
        self._reach = reach
        self._stopping = stopping
        self._left: set[Future[Any]] = set()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way of what was begun before the stop."""
        return all(future.done() for future in self._left)

    def each(
        self, jobs: Sequence[ClaimedJob], verb: Callable[[ClaimedJob], Answer]
    ) -> dict[UUID, Answer | Failed | Released]:
        """What a verb makes of each job.

        What storage does not answer is tried once more if storage answers otherwise, since it may
        have come back; if it does not, the job is released, as at the stop what has not ended.
        """
        ended: dict[UUID, Answer | Failed | Released] = {}
        unanswered = jobs
        for _ in range(2):
            ended |= self._once(unanswered, verb)
            unanswered = [job for job in unanswered if is_unanswered(ended[job.id])]
            if unanswered and not self.ask():
                return ended | {job.id: Released(job.claim) for job in unanswered}
        return ended

    def ask(self) -> bool:
        """Whether storage answers this process now; not if the stop came before it did."""
        asking = self._pool.submit(self._reach.ask)
        return not self._wait([asking]) and asking.result() is None

    def close(self) -> None:
        """Begin nothing more, and wait for nothing."""
        self._pool.shutdown(wait=False)

    def _once(
        self, jobs: Sequence[ClaimedJob], verb: Callable[[ClaimedJob], Answer]
    ) -> dict[UUID, Answer | Failed | Released]:
        futures = [self._pool.submit(attempt, job, verb) for job in jobs]
        unended = self._wait(futures)
        return {
            job.id: Released(job.claim) if future in unended else future.result()
            for job, future in zip(jobs, futures, strict=True)
        }

    def _wait(self, futures: Iterable[Future[Any]]) -> set[Future[Any]]:
        """Return when all have ended, or at the stop; what has not begun by then never does.

        Returns:
            Those that have not ended.
        """
        pending = set(futures)
        while pending and not self._stopping.is_set():
            _, pending = wait(pending, timeout=_TICK_SECONDS)
        self._left |= {future for future in pending if not future.cancel()}
        return pending
