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

    def __init__(self, stage: str, silence: float, clock: Callable[[], float]) -> None:
        self.stage = stage
        self.silence = silence
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
    def step(self, stage: str, *, silence: float = 0.0) -> Iterator[Callable[[], None]]:
        """Work on one thing; call what is yielded whenever a part of it is done.

        Args:
            stage: Whose work it is.
            silence: What it may wait in vain for somebody else, in seconds, on top of its bound:
                a store that is away is no hang of this process.
        """
        step = Step(stage, silence, self._clock)
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
            return sorted({s.stage for s in self._open if now - s.since > self._bound(s)})

    def _bound(self, step: Step) -> float:
        return step.silence + max(self._least_bound, PATIENCE * self._slowest[step.stage])

    def _advance(self, step: Step) -> None:
        now = self._clock()
        with self._lock:
            # Without the silence: an outage of a store must not make its stage's bound longer.
            own = now - step.since - step.silence
            self._slowest[step.stage] = max(self._slowest[step.stage], own)
            step.since = now
