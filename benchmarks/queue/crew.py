"""Clients in processes of their own, and a count of what they have done together.

Whoever is measured says only `did(n)`; rates are read from outside, the same way for all.
"""

import multiprocessing
import queue
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["benchmarks.queue.peers"])

#: Nothing done for so long: something is broken.
_STILL_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.01
#: Of the jobs of a drain, those that do not count at either end: starts and stragglers.
_EDGE: Final = 0.1

#: A moment in seconds, and how many jobs were done by then.
Sample: TypeAlias = tuple[float, int]


@dataclass(frozen=True, slots=True)
class Shift:
    """What the clients of a crew share.

    Attributes:
        clients: How many there are.
    """

    clients: int
    _done: Any
    _stop: Any
    _barrier: Any
    _told: Any

    def begin(self) -> None:
        """Wait until every process is ready: imports made, connections open."""
        self._barrier.wait(_STILL_SECONDS)

    @property
    def ready(self) -> int:
        """How many processes wait to begin."""
        return int(self._barrier.n_waiting)

    def did(self, jobs: int) -> None:
        """Count jobs as done."""
        with self._done.get_lock():
            self._done.value += jobs

    @property
    def done(self) -> int:
        """How many jobs all have done."""
        return int(self._done.value)

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return bool(self._stop.is_set())

    def tell(self, answer: object) -> None:
        """Hand something to whoever started the crew, once."""
        self._told.put((answer, None))


Work: TypeAlias = Callable[[Shift], None]


class Crew:
    """Processes that work until the block ends.

    Args:
        work: What each does; it can be pickled.
        clients: How many work at once.
        processes: In how many processes, where one serves several clients.

    Raises:
        RuntimeError: One of them failed, or nothing goes on.
    """

    def __init__(self, work: Work, *, clients: int, processes: int | None = None) -> None:
        count = clients if processes is None else processes
        self._told = _CONTEXT.Queue()
        self.shift = Shift(
            clients,
            _CONTEXT.Value("q", 0),
            _CONTEXT.Event(),
            _CONTEXT.Barrier(count + 1),
            self._told,
        )
        self._processes = [
            _CONTEXT.Process(target=_begin, args=(work, self.shift)) for _ in range(count)
        ]
        self.answers: list[Any] = []

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shift._stop.set()  # noqa: SLF001 - its own
        deadline = time.monotonic() + _STILL_SECONDS
        while any(process.is_alive() for process in self._processes):
            if time.monotonic() > deadline or kind is not None:
                for process in self._processes:
                    process.kill()
            self._listen(quietly=kind is not None)
            time.sleep(_LOOK_SECONDS)
        self._listen(quietly=kind is not None)

    def begin(self) -> None:
        """Let all of them go, once all are ready."""
        deadline = time.monotonic() + _STILL_SECONDS
        while self.shift.ready < len(self._processes):
            if time.monotonic() > deadline:
                raise RuntimeError("the clients do not get ready")
            time.sleep(_LOOK_SECONDS)
            self._listen(quietly=False)
        self.shift.begin()

    def drain(self, jobs: int) -> list[Sample]:
        """Watch until so many jobs are done."""
        return self._watch(lambda _, done: done >= jobs)

    def watch(self, seconds: float) -> list[Sample]:
        """Watch for so long."""
        until = time.monotonic() + seconds
        return self._watch(lambda now, _: now >= until)

    def _watch(self, enough: Callable[[float, int], bool]) -> list[Sample]:
        samples: list[Sample] = [(time.monotonic(), self.shift.done)]
        moved = samples[0]
        while not enough(*samples[-1]):
            time.sleep(_LOOK_SECONDS)
            self._listen(quietly=False)
            samples.append((time.monotonic(), self.shift.done))
            if samples[-1][1] != moved[1]:
                moved = samples[-1]
            elif samples[-1][0] - moved[0] > _STILL_SECONDS:
                raise RuntimeError(f"{moved[1]} jobs are done, and no more come")
        return samples

    def _listen(self, *, quietly: bool) -> None:
        while True:
            try:
                answer, failure = self._told.get_nowait()
            except queue.Empty:
                break
            if failure is None:
                self.answers.append(answer)
            elif not quietly:
                raise RuntimeError(f"a client failed:\n{failure}")
        if not quietly and any(process.exitcode for process in self._processes):
            raise RuntimeError("a client's process died")


def middle_rate(samples: list[Sample]) -> float:
    """Jobs a second between the first and the last tenth of all jobs."""
    begin, end = samples[0][1], samples[-1][1]
    first, last = (_moment(samples, begin + share * (end - begin)) for share in (_EDGE, 1 - _EDGE))
    if last <= first:  # too few to tell
        return (end - begin) / (samples[-1][0] - samples[0][0])
    return (1 - 2 * _EDGE) * (end - begin) / (last - first)


def rate(samples: list[Sample]) -> float:
    """Jobs a second over all of the time."""
    return (samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0])


def _moment(samples: list[Sample], done: float) -> float:
    """When so many were done, on a straight line between two looks."""
    for (before, fewer), (after, more) in pairwise(samples):
        if more >= done and more > fewer:
            return before + (after - before) * max(0.0, done - fewer) / (more - fewer)
    return samples[-1][0]


def _begin(work: Work, shift: Shift) -> None:
    try:
        work(shift)
    except Exception:  # noqa: BLE001 - handed to the parent, which raises it
        shift._told.put((None, traceback.format_exc()))  # noqa: SLF001 - its own
