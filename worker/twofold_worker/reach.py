"""Whether storage answers this process at all: what is its fault or ours is charged to no job."""

import threading
from collections.abc import Callable

from twofold_schema.errors import StorageUnavailable


class Reach:
    """What storage said when it was last asked for something that concerns no job.

    Args:
        ask: Asks, and raises when there is no answer.

    Attributes:
        error: Why storage is away; None while it is not known to be.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self.error: StorageUnavailable | None = None
        self._ask = ask
        self._asking = threading.Lock()
        self._asked = 0
        self._there = threading.Event()
        self._there.set()

    def ask(self) -> StorageUnavailable | None:
        """Ask storage; who comes while somebody asks shares the answer."""
        asked = self._asked
        with self._asking:
            if asked == self._asked:
                try:
                    self._ask()
                except StorageUnavailable as error:
                    self.error = error
                    self._there.clear()
                else:
                    self.error = None
                    self._there.set()
                self._asked += 1
            return self.error

    def wait(self, timeout: float) -> None:
        """Return once storage is there, as far as is known, or after `timeout` seconds."""
        self._there.wait(timeout)
