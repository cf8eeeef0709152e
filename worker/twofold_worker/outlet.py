"""The outlet: who is done is encoded and stored, and how claims ended is written down together.

While storage answers this process nothing at all, results wait here.
"""

import queue
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import structlog

from twofold_schema.job import ClaimedJob
from twofold_worker.outcome import Completed, Failed, Outcome, Released, attempt, is_unanswered
from twofold_worker.pipeline import Pipeline
from twofold_worker.precedence import let_the_engine_pass
from twofold_worker.reach import Reach
from twofold_worker.room import Room
from twofold_worker.work import Encoded, Upscaled

log = structlog.get_logger(__name__)

_TICK_SECONDS = 0.5
#: Results that may wait here, in batches of jobs and of pixels: more, and the engine waits.
_BATCHES = 2
#: The share of its run deadline up to which a claim may wait for storage with its result: the rest
#: is for one more try, as long as a silent store lets it last.
_WAITING_SHARE = 0.5


class Outlet:
    """Takes what has been upscaled, and outcomes, from any thread; one thread runs it.

    Args:
        pipeline: The verbs.
        reach: Of storage.
        stopping: From when on nothing waits for storage.
    """

    def __init__(self, pipeline: Pipeline, reach: Reach, stopping: threading.Event) -> None:
        self._pipeline = pipeline
        self._reach = reach
        self._stopping = stopping
        self._ended: queue.Queue[Outcome | None] = queue.Queue()
        worker, full = pipeline.worker, pipeline.capacity.batch_pixels
        self._room = Room(
            jobs=_BATCHES * worker.max_batch, pixels=None if full is None else _BATCHES * full
        )
        self._storers = ThreadPoolExecutor(
            worker.io_threads, "store", initializer=let_the_engine_pass
        )

    def run(self) -> None:
        """Settle what has ended, all that waits together, until `close`."""
        last = False
        while not last:
            ended = [self._ended.get()]
            while not self._ended.empty():
                ended.append(self._ended.get())
            last = None in ended
            outcomes = [outcome for outcome in ended if outcome is not None]
            if outcomes:
                self._pipeline.settle(outcomes)

    def put(self, outcome: Outcome) -> None:
        """Have an outcome settled."""
        self._ended.put(outcome)

    def release(self, jobs: Iterable[ClaimedJob]) -> None:
        """Have jobs given back, uncharged."""
        for job in jobs:
            self.put(Released(job.claim))

    def deliver(self, upscaled: Upscaled) -> None:
        """Have a picture encoded, stored and settled; waits while many are."""
        self._room.take(upscaled.pixels)
        self._storers.submit(self._deliver, upscaled)

    def close(self) -> None:
        """Let `run` end once everything is settled that came before; waits for the stores."""
        self._storers.shutdown(wait=True)
        self._ended.put(None)

    def _deliver(self, upscaled: Upscaled) -> None:
        job = upscaled.prepared.job
        try:
            if not self._pipeline.holdings.goes_on(job.claim):
                return self.release([job])
            # Nobody reads what this thread ends with: whatever goes wrong has to be an outcome.
            return self.put(attempt(job, lambda _: self._ended_as(upscaled)))
        finally:
            self._room.leave(upscaled.pixels)

    def _ended_as(self, upscaled: Upscaled) -> Completed | Failed | Released:
        return self._store(upscaled.prepared.job, self._pipeline.encode(upscaled))

    def _store(self, job: ClaimedJob, encoded: Encoded) -> Completed | Failed | Released:
        """Store a result, which waits here while storage is away."""
        answers = False
        while True:
            while error := self._reach.error:
                if not self._may_wait(job):
                    log.warning("result_given_up", job_id=str(job.id), code=error.code)
                    return Released(job.claim)
                self._reach.wait(_TICK_SECONDS)
            stored = attempt(job, lambda _: self._pipeline.store(encoded))
            if not isinstance(stored, Failed):
                return Completed(job.claim, stored)
            if not is_unanswered(stored):
                return stored
            # The first time it may have come back since.
            answered, answers = answers, self._reach.ask() is None
            if answered and answers:
                return stored

    def _may_wait(self, job: ClaimedJob) -> bool:
        pipeline, claim = self._pipeline, job.claim
        longest = _WAITING_SHARE * pipeline.worker.run_deadline_seconds
        return (
            not self._stopping.is_set()
            and pipeline.holdings.goes_on(claim)
            and pipeline.holdings.seconds(claim) < longest
        )
