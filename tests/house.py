"""A whole Twofold for a test: real servers, real processes, a watch over all of them."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from sqlalchemy import Engine, text

from twofold_producer.dev.lifeline import Lifeline
from twofold_producer.producer import Producer
from twofold_schema.job import Job
from twofold_schema.ledger import reads
from twofold_schema.settings import (
    BrokerSettings,
    DatabaseSettings,
    LimitSettings,
    StorageSettings,
)

ROOT = Path(__file__).parent.parent

Answer = TypeVar("Answer")


def eventually(
    look: Callable[[], Answer], *, within: float = 60.0, why: Callable[[], str] = lambda: ""
) -> Answer:
    """Look until there is something, or fail; returns what was seen."""
    deadline = time.monotonic() + within
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} seconds. {why()}")
        time.sleep(0.02)
    return seen


class House:
    """One database, one Redis, one bucket; producers, workers and keepers come and go."""

    def __init__(self, *, engine: Engine, folder: Path, environment: Mapping[str, str]) -> None:
        self.engine = engine
        self.environment = dict(environment)
        self._folder = folder
        self._parts = ExitStack()
        self._started = 0
        self._logs: list[Path] = []

    def producer(self) -> Producer:
        """A producer with this house's settings, closed with it."""
        return self._parts.enter_context(
            Producer(
                database_settings=DatabaseSettings.load(self.environment),
                broker=BrokerSettings.load(self.environment),
                storage=StorageSettings.load(self.environment),
                limits=LimitSettings.load(self.environment),
            )
        )

    def keeper(self) -> Lifeline:
        """A keeper process."""
        return self.process(["-m", "twofold_producer", "keeper"])

    def worker(self, *options: str, **settings: object) -> Lifeline:
        """One worker process, without a supervisor, with the test's upscaler and faults."""
        return self.process(["-m", "tests.worker_process", *options], **settings)

    def supervised(self, *options: str, **settings: object) -> Lifeline:
        """A supervisor over such worker processes."""
        return self.process(["-m", "tests.supervised_worker", *options], **settings)

    def process(self, arguments: Sequence[str], **settings: object) -> Lifeline:
        """A Python process in this house; it ends with it at the latest."""
        self._started += 1
        log = self._folder / f"process-{self._started}.log"
        self._logs.append(log)
        outside = {k: v for k, v in os.environ.items() if not k.startswith("TWOFOLD_")}
        inside = {f"TWOFOLD_{name.upper()}": str(value) for name, value in settings.items()}
        return self._parts.enter_context(
            Lifeline.start(
                [sys.executable, *arguments],
                log=log,
                cwd=ROOT,
                env={**outside, **self.environment, **inside, "PYTHONWARNINGS": "default"},
                grace_seconds=20,
            )
        )

    def marker(self, name: str) -> Path:
        """A file that processes of this house may watch; not made yet."""
        return self._folder / name

    def signal(self, process: Lifeline, name: str) -> None:
        """Send a process of this house a signal."""
        os.kill(process.pid, signal.Signals[f"SIG{name}"])

    def logs(self) -> str:
        """The last words of every process."""
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}" for log in self._logs
        )

    def last_log(self) -> str:
        """All words of the process started last."""
        return self._logs[-1].read_text(errors="replace")

    def jobs(self, job_ids: Sequence[UUID]) -> list[Job]:
        """The jobs as they are now."""
        with self.engine.connect() as connection:
            return reads.get_many(connection, list(job_ids))

    def rows(self, statement: str, **parameters: object) -> list[Mapping[str, Any]]:
        """What the database answers."""
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(statement), parameters).mappings()]

    def wait_ended(self, job_ids: Sequence[UUID], within: float = 60.0) -> list[Job]:
        """The jobs once all have ended."""

        def ended() -> list[Job]:
            jobs = self.jobs(job_ids)
            return jobs if all(job.state.is_final for job in jobs) else []

        return eventually(ended, within=within, why=self.logs)

    def wait_ready(self, runs: int = 1) -> None:
        """Return when so many runs have been registered, ever."""
        eventually(
            lambda: self.rows("SELECT count(*) AS n FROM runs")[0]["n"] >= runs, why=self.logs
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._parts.close()
