"""How much benchmarks of the HTTP API measure."""

from dataclasses import dataclass
from typing import Final, TypeAlias

from benchmarks import suite


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured.

    Attributes:
        rounds: Of everything that is compared, going round all of it.
        readers: How many ask at once, each in a process of its own, one request at a time.
        reading_seconds: For which they ask for one thing in a round.
        listeners: Connections that follow the events meanwhile.
        changed: Jobs that are submitted and called off each second meanwhile: two events each.
        known: Jobs whose states are asked for in turn.
        submitted: Jobs of one bulk.
        remembered: Items of the two bulks whose memory is compared.
    """

    rounds: int
    readers: int
    reading_seconds: float
    listeners: int
    changed: int
    known: int
    submitted: int
    remembered: tuple[int, int]


SCALES: Final = {
    "tiny": Scale(
        rounds=1, readers=2, reading_seconds=0.4, listeners=4, changed=20, known=5,
        submitted=200, remembered=(50, 500),
    ),
    "small": Scale(
        rounds=2, readers=4, reading_seconds=2.0, listeners=64, changed=20, known=200,
        submitted=10_000, remembered=(1000, 10_000),
    ),
    "full": Scale(
        rounds=5, readers=4, reading_seconds=5.0, listeners=64, changed=20, known=1000,
        submitted=100_000, remembered=(1000, 100_000),
    ),
}  # fmt: skip


Bench: TypeAlias = suite.Bench[Scale]
