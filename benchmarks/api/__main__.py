"""Runs benchmarks of the HTTP API.

python -m benchmarks.api --size tiny|small|full [--synced] [NAME …]
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.api import bulk, status_reads
from benchmarks.api.bench import SCALES, Scale
from benchmarks.report import Report
from benchmarks.suite import Suite


def _draw(name: str, found: Report, machine: Mapping[str, Any], folder: Path) -> Path:
    # Processes that only work import this module, too.
    from benchmarks.api import plots

    return plots.draw(name, found, machine, folder)


SUITE: Final = Suite[Scale](
    name="api",
    title="The HTTP API",
    scales=SCALES,
    benchmarks={"status-reads": status_reads.measure, "bulk": bulk.measure},
    draw=_draw,
    # The last two are used where they are installed.
    packages=("fastapi", "starlette", "uvicorn", "h11", "uvloop", "httptools"),
)

if __name__ == "__main__":
    SUITE.main()
