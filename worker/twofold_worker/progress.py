"""Whether every stage that holds work still gets on with it."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: A step may take this many times the longest one that was seen to end.
PATIENCE = 10


class Step:
    """One piece of work of a stage, from its begin, or from its last advance, until its end."""

    def __init__(self, stage: str, clock: Callable[[], float]) -> None:
        self.stage = stage
        self.since = clock()


class Progress:
    """The steps that are under way in all stages.

    Args:
        least_bound: What a step may take before one was measured, in seconds; never less later.
        clock: Monotonic seconds.
    """

    def __init__(self, least_bound: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._least_bound = least_bound
        self._clock = clock
        self._lock = threading.Lock()
        self._open: set[Step] = set()
        self._slowest: dict[str, float] = defaultdict(float)

    @contextmanager
    def step(self, stage: str) -> Iterator[Callable[[], None]]:
        """Work on one thing; call what is yielded whenever a part of it is done."""
        step = Step(stage, self._clock)
        with self._lock:
            self._open.add(step)
        try:
            yield lambda: self._advance(step)
        finally:
            self._advance(step)
            with self._lock:
                self._open.discard(step)

    def stalled(self) -> list[str]:
        """The stages with a step that is over its bound."""
        now = self._clock()
        with self._lock:
            return sorted({s.stage for s in self._open if now - s.since > self._bound(s.stage)})

    def _bound(self, stage: str) -> float:
        return max(self._least_bound, PATIENCE * self._slowest[stage])

    def _advance(self, step: Step) -> None:
        now = self._clock()
        with self._lock:
            self._slowest[step.stage] = max(self._slowest[step.stage], now - step.since)
            step.since = now
