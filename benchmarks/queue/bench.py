"""How much benchmarks of the queue measure."""

from dataclasses import dataclass
from typing import Final, TypeAlias

from benchmarks import suite


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured.

    Attributes:
        rounds: Of everything that is compared, going round all of it.
        submitted: Jobs of one bulk.
        submitted_singly: Jobs that go out one by one, where a peer has no bulk.
        remembered: Items of the two bulks whose memory is compared.
        clients: How many work at once, each in a process of its own.
        drain_seconds: What one drain of the queue is made to last.
        warm_jobs: Jobs by which each contender's speed is estimated first; no drain has fewer.
        finished: Finished rows in the table.
        claims: Claims that are timed in a round.
        depth: Jobs that wait while rates are taken over time.
        calm_seconds: Before the snapshot is taken.
        held_seconds: For which the snapshot is held.
        last_seconds: Of those, the ones that count.
        looks: Times that the counters are read.
        runs: How many worker runs claim at once.
        run_seconds: For which each number of them works.
        lease_seconds: Of those runs; they beat five times in it.
    """

    rounds: int
    submitted: int
    submitted_singly: int
    remembered: tuple[int, int]
    clients: tuple[int, ...]
    drain_seconds: float
    warm_jobs: int
    finished: tuple[int, ...]
    claims: int
    depth: int
    calm_seconds: float
    held_seconds: float
    last_seconds: float
    looks: int
    runs: tuple[int, ...]
    run_seconds: float
    lease_seconds: float


SCALES: Final = {
    "tiny": Scale(
        rounds=1, submitted=300, submitted_singly=50, remembered=(100, 1000), clients=(2,),
        drain_seconds=0.3, warm_jobs=128, finished=(0, 500, 2000), claims=5, depth=500,
        calm_seconds=0.5, held_seconds=1.0, last_seconds=0.5, looks=3, runs=(1, 2),
        run_seconds=0.5, lease_seconds=1.0,
    ),
    "small": Scale(
        rounds=1, submitted=10_000, submitted_singly=1000, remembered=(1000, 20_000),
        clients=(1, 4), drain_seconds=1.0, warm_jobs=512, finished=(0, 20_000, 200_000),
        claims=100, depth=10_000, calm_seconds=3.0, held_seconds=8.0, last_seconds=2.0, looks=20,
        runs=(1, 4, 16), run_seconds=2.0, lease_seconds=5.0,
    ),
    "full": Scale(
        rounds=5, submitted=100_000, submitted_singly=5000, remembered=(1000, 1_000_000),
        clients=(1, 4, 16), drain_seconds=4.0, warm_jobs=2048,
        finished=(0, 1_000_000, 10_000_000), claims=300, depth=50_000, calm_seconds=20.0,
        held_seconds=60.0, last_seconds=10.0, looks=200, runs=(1, 2, 4, 8, 16, 32, 64),
        run_seconds=10.0, lease_seconds=30.0,
    ),
}  # fmt: skip


Bench: TypeAlias = suite.Bench[Scale]
