"""Plain Celery on Redis: a message for each job."""

import logging
import os
import threading
import time
import warnings
from dataclasses import dataclass
from typing import Final, Literal

import celery
import redis
from celery.platforms import SecurityWarning  # type: ignore[attr-defined]
from celery.worker import state

from benchmarks.queue.crew import Shift
from benchmarks.queue.peers.contender import PAYLOAD

_QUEUE: Final = "bench"
#: Messages that a process of the pool has ahead, as the documentation advises for short tasks.
_PREFETCH: Final = 64

#: Of this process and those that Celery forks from it.
_on_shift: list[Shift] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Celery:
    """Celery with late acknowledgement, so that a worker's death loses no job, and no results.

    Attributes:
        redis_url: Of the broker.
        pool: `prefork` is one worker with a process for each client, `solo` a worker for each.
    """

    redis_url: str
    pool: Literal["prefork", "solo"]

    @property
    def name(self) -> str:
        """With its version and pool."""
        return f"celery {celery.__version__}, {self.pool}"

    def prepare(self) -> None:
        """An empty Redis."""
        with redis.Redis.from_url(self.redis_url) as client:
            client.flushdb()

    def submit(self, jobs: int) -> None:
        """`apply_async` for each: there is no other way."""
        app = self._app()
        task = app.tasks["bench.nothing"]
        with app.producer_pool.acquire(block=True) as producer:
            for _ in range(jobs):
                task.apply_async(kwargs=PAYLOAD, producer=producer)
        app.close()

    def processes(self, clients: int) -> int:
        """Prefork has its own."""
        return 1 if self.pool == "prefork" else clients

    def work(self, shift: Shift) -> None:
        """A worker as `celery worker` starts it."""
        _on_shift[:] = [shift]
        warnings.simplefilter("ignore", SecurityWarning)  # of root, who measures
        worker = self._app().Worker(
            pool=self.pool,
            concurrency=shift.clients if self.pool == "prefork" else 1,
            hostname=f"bench-{os.getpid()}@local",
            loglevel=logging.CRITICAL,
            quiet=True,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        shift.begin()
        threading.Thread(target=_end_with, args=(shift,), daemon=True).start()
        worker.start()

    def left(self) -> int:
        """Messages that wait or are not acknowledged."""
        with redis.Redis.from_url(self.redis_url) as client:
            waiting, held = client.llen(_QUEUE), client.hlen("unacked")
        return int(waiting) + int(held)

    def _app(self) -> celery.Celery:
        app = celery.Celery("bench", broker=self.redis_url, set_as_current=False)
        app.conf.update(
            task_default_queue=_QUEUE,
            task_acks_late=True,
            task_ignore_result=True,
            worker_prefetch_multiplier=_PREFETCH,
            worker_hijack_root_logger=False,
            broker_connection_retry_on_startup=True,
        )

        @app.task(name="bench.nothing", shared=False)
        def nothing(**_: object) -> None:
            _on_shift[0].did(1)

        return app


def _end_with(shift: Shift) -> None:
    while not shift.over:
        time.sleep(0.05)
    # What its handler of SIGTERM does, without a word on the terminal.
    state.should_stop = os.EX_OK  # type: ignore[assignment]
