"""Room for what waits."""

import threading


class Room:
    """Room for so many jobs, of so many pixels together. Any thread may use it.

    Args:
        jobs: 1 or more.
        pixels: 1 or more; None is no bound. A job that is larger than that has the room to itself.
    """

    def __init__(self, *, jobs: int, pixels: int | None) -> None:
        self._jobs = jobs
        self._pixels = pixels
        self._taken: list[int] = []
        self._changed = threading.Condition()

    def take(self, pixels: int) -> None:
        """Wait until a job of so many pixels fits, and take its place."""
        with self._changed:
            self._changed.wait_for(lambda: self._fits(pixels))
            self._taken.append(pixels)

    def leave(self, pixels: int) -> None:
        """Leave the place of a job of so many pixels to others."""
        with self._changed:
            self._taken.remove(pixels)
            self._changed.notify_all()

    def _fits(self, pixels: int) -> bool:
        if not self._taken:
            return True
        together = sum(self._taken) + pixels
        return len(self._taken) < self._jobs and (self._pixels is None or together <= self._pixels)
