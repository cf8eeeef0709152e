"""How many slots a batch has on the device."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")

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
