"""Seconds that pass, and seconds that only count."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where a measured thing gets its time from."""

    def now(self) -> float:
        """Seconds since some moment."""

    def sleep_until(self, moment: float) -> None:
        """Return at that moment, or at once if it is past."""


class WallClock:
    """Real time."""

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def sleep_until(self, moment: float) -> None:
        """Sleep without the GIL."""
        if (rest := moment - time.monotonic()) > 0:
            time.sleep(rest)


class VirtualClock:
    """Time that jumps to whatever is waited for: a schedule without its waits, for one thread."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """The last moment that was waited for."""
        return self._now

    def sleep_until(self, moment: float) -> None:
        """Be there."""
        self._now = max(self._now, moment)
