"""Two transactions at once: the first stays open while the second begins."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from time import monotonic
from typing import Generic, TypeVar

from sqlalchemy import Connection, Engine, text

Answer = TypeVar("Answer")

DEADLINE_SECONDS = 20.0

_PID = text("SELECT pg_backend_pid()")
_BLOCKED = text("SELECT cardinality(pg_blocking_pids(:pid)) > 0")
_LOCKED_OUT = text("""
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
""")


def locked_out(engine: Engine) -> int:
    """How many transactions of this database wait for a lock."""
    with engine.connect() as connection:
        return int(connection.execute(_LOCKED_OUT).scalar_one())


class Rival(Generic[Answer]):
    """A writer in a thread and transaction of its own, which commits when its call returns.

    Attributes:
        blocked: Whether it waited for somebody's lock once it was well under way.
    """

    def __init__(
        self, engine: Engine, pool: ThreadPoolExecutor, write: Callable[[Connection], Answer]
    ) -> None:
        self._engine = engine
        self._write = write
        self._pid: Future[int] = Future()
        self._future = pool.submit(self._play)
        self.blocked = self._is_blocked(self._pid.result(DEADLINE_SECONDS))

    def answer(self) -> Answer:
        """What the call returned; raises what it raised."""
        return self._future.result(DEADLINE_SECONDS)

    def _play(self) -> Answer:
        with self._engine.begin() as connection:
            self._pid.set_result(connection.execute(_PID).scalar_one())
            return self._write(connection)

    def _is_blocked(self, pid: int) -> bool:
        deadline = monotonic() + DEADLINE_SECONDS
        with self._engine.connect() as connection:
            while not wait([self._future], timeout=0.002).done:
                if connection.execute(_BLOCKED, {"pid": pid}).scalar_one():
                    return True
                if monotonic() > deadline:
                    raise TimeoutError("the rival neither ended nor waits for a lock")
        return False


@contextmanager
def rivals(engine: Engine) -> Iterator[Callable[[Callable[[Connection], Answer]], Rival[Answer]]]:
    """Begin rivals by calling what this gives: each has ended or waits when the call returns."""
    with ThreadPoolExecutor() as pool:
        yield lambda write: Rival(engine, pool, write)
