"""Whether every stage that holds work still gets on with it, as far as the database lets it."""

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
        self.clock = clock
        self.since = clock()

    @property
    def age(self) -> float:
        """Seconds of its clock since then."""
        return self.clock() - self.since


class AnsweredTime:
    """A clock that stands still while the database answers nobody.

    Args:
        clock: Monotonic seconds.
        longest: What one answer may move it by, in seconds: after an outage, the first of many
            answers must not make all who still wait for theirs look late.
    """

    def __init__(self, clock: Callable[[], float], longest: float) -> None:
        self._clock = clock
        self._longest = longest
        self._answered_at = clock()
        self._now = 0.0

    def answered(self) -> None:
        """The database has answered somebody."""
        before, self._answered_at = self._answered_at, self._clock()
        self._now += min(self._answered_at - before, self._longest)

    def __call__(self) -> float:
        """Seconds."""
        return self._now


class Progress:
    """The steps that are under way in all stages.

    Args:
        least_bound: What a step may take before one was measured, in seconds; never less later.
        clock: Monotonic seconds.
    """

    def __init__(self, least_bound: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._least_bound = least_bound
        self._clock = clock
        self._answered_time = AnsweredTime(clock, least_bound / PATIENCE)
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
        with self._under_way(Step(stage, silence, self._clock)) as advance:
            yield advance

    @contextmanager
    def asking(self, stage: str) -> Iterator[Callable[[], None]]:
        """Wait for the database; call what is yielded whenever it is asked anew.

        A database that is silent to all is no hang of this process, however long it is. One that
        has answered others meanwhile, for as long as the bound, will not answer this one any more:
        so the bound is in time during which it answers.

        Args:
            stage: Whose wait it is.
        """
        with self._under_way(Step(stage, 0.0, self._answered_time)) as advance:
            yield advance
            with self._lock:
                self._answered_time.answered()

    @contextmanager
    def _under_way(self, step: Step) -> Iterator[Callable[[], None]]:
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
        with self._lock:
            return sorted({s.stage for s in self._open if s.age > self._bound(s)})

    def _bound(self, step: Step) -> float:
        return step.silence + max(self._least_bound, PATIENCE * self._slowest[step.stage])

    def _advance(self, step: Step) -> None:
        with self._lock:
            # Without the silence: an outage of a store must not make its stage's bound longer.
            own = step.age - step.silence
            self._slowest[step.stage] = max(self._slowest[step.stage], own)
            step.since = step.clock()
