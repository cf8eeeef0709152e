"""Runs benchmarks of the queue.

python -m benchmarks.queue --size tiny|small|full [--synced] [NAME …]
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.queue import claim_complete, counts, finished_rows, growth, held_snapshot, submit
from benchmarks.queue.bench import SCALES, Scale
from benchmarks.report import Report
from benchmarks.suite import Suite


def _draw(name: str, found: Report, machine: Mapping[str, Any], folder: Path) -> Path:
    # Processes that only work import this module, too.
    from benchmarks.queue import plots

    return plots.draw(name, found, machine, folder)


SUITE: Final = Suite[Scale](
    name="queue",
    title="The queue",
    scales=SCALES,
    benchmarks={
        "submit": submit.measure,
        "claim-complete": claim_complete.measure,
        "finished-rows": finished_rows.measure,
        "held-snapshot": held_snapshot.measure,
        "counts": counts.measure,
        "growth": growth.measure,
    },
    draw=_draw,
    packages=("celery", "procrastinate", "pgqueuer", "awa-pg", "psycopg", "asyncpg", "redis"),
)

if __name__ == "__main__":
    SUITE.main()
