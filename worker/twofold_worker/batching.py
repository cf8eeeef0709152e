"""How many slots a batch has on the device."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")

#: Full steps without lack of memory, after which the next larger rung is tried again.
_PATIENCE: Final = 256

LADDER: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""The rungs: the only batch sizes a device ever sees, so that each is compiled and warmed once."""


def rung_for(count: int, *, most: int) -> int:
    """The smallest rung that holds `count` jobs, or the greatest allowed one if none does.

    Args:
        count: Jobs that wait, 1 or more.
        most: What the device can take, 1 or more; a number between two rungs means the lower.

    Returns:
        A rung of the ladder, at most `most`; it may be less than `count`.

    Raises:
        ValueError: A number is below 1.
    """
    if count < 1 or most < 1:
        raise ValueError(f"a batch has 1 slot or more: count={count}, most={most}")
    highest = bisect_right(LADDER, most) - 1
    return LADDER[min(bisect_left(LADDER, count), highest)]


def halves(batch: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """Split a batch that did not fit the device; the first half is the larger by at most one.

    Raises:
        ValueError: The batch has fewer than two jobs, so there is nothing to split.
    """
    if len(batch) < 2:
        raise ValueError("a batch of fewer than two jobs has no halves")
    middle = (len(batch) + 1) // 2
    return batch[:middle], batch[middle:]


class Ceiling:
    """How many slots a step may have since memory lacked: halved at once, won back rung by rung.

    Attributes:
        most: A rung.
    """

    def __init__(self) -> None:
        self.most = LADDER[-1]
        self._full_steps = 0

    def lower(self, rung: int) -> None:
        """A step of this rung did not fit."""
        self.most = rung_for(max(1, rung // 2), most=max(1, rung // 2))
        self._full_steps = 0

    def held(self, rung: int) -> None:
        """A step of this rung did fit."""
        if rung < self.most or self.most == LADDER[-1]:
            return
        self._full_steps += 1
        if self._full_steps == _PATIENCE:
            self.most = LADDER[LADDER.index(self.most) + 1]
            self._full_steps = 0
