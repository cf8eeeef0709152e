"""How memory or time grows with slots and pixels: a line where one fits, else a table."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, TypeAlias

from pydantic import Field, NonNegativeInt, PositiveInt

#: What nothing is ever larger than, in pixels or bytes; it survives JSON, unlike infinity.
UNBOUNDED: Final = 2**62

#: Checked where a kept one is read.
Amount: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_LEAST_R_SQUARED: Final = 0.99
_MOST_HELD_OUT_ERROR: Final = 0.05
#: Two for a line and one to hold it against.
_LEAST_SIZES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What one run took.

    Attributes:
        slots: Of the batch.
        pixels: Of one slot's padded source.
        value: Bytes, or seconds.
    """

    slots: int
    pixels: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """value = fixed + per_pixel * slots * pixels, and a curve beyond what was measured.

    Measured small, attention without a fused kernel hides in a line: its square is nothing there
    and most of what a large picture takes. What the held-out size took more than foretold may be
    such a square, so sizes beyond it are foretold as if it were.

    Attributes:
        fixed: What is taken whatever the size.
        per_pixel: What a pixel of the padded source adds.
        curve: What a slot larger than `known_pixels` adds, for its pixels times those beyond.
        known_pixels: The largest size measured.
        r_squared: How much of what was measured the line explains; 1 is all of it.
        held_out_error: By how much it missed the size that it was not drawn through, of its value.
    """

    fixed: Amount
    per_pixel: Amount
    curve: Amount = 0.0
    known_pixels: NonNegativeInt = 0
    r_squared: float = 1.0
    held_out_error: float = 0.0

    def at(self, slots: int, pixels: int) -> float:
        """What so many slots of a size take."""
        beyond = max(0, pixels - self.known_pixels)
        return self.fixed + slots * pixels * (self.per_pixel + self.curve * beyond)

    def largest(self, budget: float, slots: int = 1) -> int:
        """The most pixels that each of so many slots may have."""
        left = (budget - self.fixed) / slots
        if left < 0:
            return 0
        if left <= self.per_pixel * self.known_pixels or self.curve == 0:
            return UNBOUNDED if self.per_pixel == 0 else _whole(left / self.per_pixel)
        # curve * p**2 + slope * p = left, in the form that is exact for a small curve, too.
        slope = self.per_pixel - self.curve * self.known_pixels
        root = math.sqrt(slope**2 + 4 * self.curve * left)
        return _whole(2 * left / (slope + root) if slope > 0 else (root - slope) / 2 / self.curve)

    def raised(self, factor: float) -> "Line":
        """The same line, higher by a factor."""
        return replace(
            self,
            fixed=self.fixed * factor,
            per_pixel=self.per_pixel * factor,
            curve=self.curve * factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one slot of a size takes, at most.

    Attributes:
        pixels: Of its padded source.
        value: Bytes.
    """

    pixels: PositiveInt
    value: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What was measured, where no line fits.

    A size between two rows takes what the larger does. Beyond the last the value grows with the
    square of the pixels: attention without a fused kernel does, and nothing known grows faster.

    Attributes:
        rows: From the smallest size to the largest, their values never falling. Without any,
            nothing fits.
    """

    rows: tuple[Row, ...]

    def at(self, slots: int, pixels: int) -> float:
        """What so many slots of a size take."""
        for row in self.rows:
            if pixels <= row.pixels:
                return slots * row.value
        if not self.rows:
            return UNBOUNDED
        last = self.rows[-1]
        return slots * last.value * (pixels / last.pixels) ** 2

    def largest(self, budget: float, slots: int = 1) -> int:
        """The most pixels that each of so many slots may have."""
        budget /= slots
        fitting = [row for row in self.rows if row.value <= budget]
        if not fitting:
            return 0
        if len(fitting) < len(self.rows):
            return fitting[-1].pixels
        last = self.rows[-1]
        if last.value == 0:
            return UNBOUNDED
        return _whole(last.pixels * math.sqrt(budget / last.value))

    def raised(self, factor: float) -> "Table":
        """The same table, higher by a factor."""
        return Table(rows=tuple(replace(row, value=row.value * factor) for row in self.rows))


def fitted(points: Sequence[Point]) -> Line | Table:
    """A line through what was measured, if it foretells the largest size too; else a table.

    The largest size is held out: what is not linear shows there first. No prediction is below what
    was measured.
    """
    sizes = sorted({point.pixels for point in points})
    if len(sizes) < _LEAST_SIZES:
        return _table(points)
    smallest, *_, second, largest = sizes
    held_out = next(point for point in points if point.pixels == largest)
    guess = line([point for point in points if point.pixels < largest]).at(
        held_out.slots, held_out.pixels
    )
    missed = held_out.value - guess
    error = abs(missed) / held_out.value if held_out.value else 1.0
    drawn = line(points)
    r_squared = _r_squared(drawn, points)
    if r_squared <= _LEAST_R_SQUARED or error > _MOST_HELD_OUT_ERROR:
        return _table(points)
    shortfall = max(point.value - drawn.at(point.slots, point.pixels) for point in points)
    return replace(
        drawn,
        fixed=drawn.fixed + max(0.0, shortfall),
        # The square through the smallest, the second largest and the held-out size.
        curve=max(0.0, missed) / held_out.slots / (largest - smallest) / (largest - second),
        known_pixels=largest,
        r_squared=r_squared,
        held_out_error=error,
    )


def line(points: Sequence[Point], *, relative: bool = False) -> Line:
    """The line of least squares; neither of its parts is negative.

    Args:
        points: One or more.
        relative: Whether a miss counts by its share of the value, so that small ones count too.
    """
    weighted = [
        (
            point.slots * point.pixels,
            point.value,
            1 / max(point.value, 1e-9) ** 2 if relative else 1,
        )
        for point in points
    ]
    weight = sum(w for _, _, w in weighted)
    mean_x = sum(w * x for x, _, w in weighted) / weight
    mean_y = sum(w * y for _, y, w in weighted) / weight
    spread = sum(w * (x - mean_x) ** 2 for x, _, w in weighted)
    together = sum(w * (x - mean_x) * (y - mean_y) for x, y, w in weighted)
    slope = together / spread if spread > 0 else 0.0
    if slope < 0:
        return Line(fixed=mean_y, per_pixel=0.0)
    if (fixed := mean_y - slope * mean_x) < 0:
        through_origin = sum(w * x * y for x, y, w in weighted)
        return Line(fixed=0.0, per_pixel=through_origin / sum(w * x * x for x, _, w in weighted))
    return Line(fixed=fixed, per_pixel=slope)


def bound(points: Iterable[Point], slots: int, pixels: int) -> float:
    """What a run can take at most, as far as what was measured tells.

    Nothing measured that is larger stays below it: memory grows at most with the slots and the
    square of the pixels.
    """
    return min(
        (
            point.value * max(1.0, slots / point.slots) * max(1.0, pixels / point.pixels) ** 2
            for point in points
        ),
        default=0.0,
    )


def _whole(pixels: float) -> int:
    return math.floor(min(UNBOUNDED, pixels))


def _r_squared(drawn: Line, points: Sequence[Point]) -> float:
    mean = sum(point.value for point in points) / len(points)
    missed = sum((point.value - drawn.at(point.slots, point.pixels)) ** 2 for point in points)
    spread = sum((point.value - mean) ** 2 for point in points)
    return 1 - missed / spread if spread > 0 else 0.0


def _table(points: Sequence[Point]) -> Table:
    rows: list[Row] = []
    for pixels in sorted({point.pixels for point in points}):
        most = max(point.value / point.slots for point in points if point.pixels == pixels)
        before = rows[-1].value if rows else 0.0
        rows.append(Row(pixels=pixels, value=max(before, most)))
    return Table(rows=tuple(rows))
