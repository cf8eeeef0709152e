"""What a benchmark is given: how much is measured, and on which servers."""

from dataclasses import dataclass
from typing import Final

from rich.console import Console

from benchmarks.queue.servers import Servers


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A benchmark's surroundings.

    Attributes:
        servers: Real ones.
        scale: How much is measured.
        console: Where progress is shown.
    """

    servers: Servers
    scale: Scale
    console: Console
