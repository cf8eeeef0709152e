"""Runs benchmarks of the queue.

python -m benchmarks.queue --size tiny|small|full [--synced] [NAME …]
"""

import argparse
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks import report
from benchmarks.queue import claim_complete, counts, finished_rows, growth, held_snapshot, submit
from benchmarks.queue.bench import SCALES, Bench
from benchmarks.queue.servers import Servers, open_servers
from benchmarks.report import Book, Report
from twofold_schema import log
from twofold_schema.settings import LogSettings

BENCHMARKS: Final[dict[str, Callable[[Bench], Report]]] = {
    "submit": submit.measure,
    "claim-complete": claim_complete.measure,
    "finished-rows": finished_rows.measure,
    "held-snapshot": held_snapshot.measure,
    "counts": counts.measure,
    "growth": growth.measure,
}

_PEERS: Final = ("celery", "procrastinate", "pgqueuer", "awa-pg", "psycopg", "asyncpg", "redis")

_RESULTS: Final = Path(__file__).parents[1] / "results"


def run(servers: Servers, size: str, folder: Path, names: list[str], console: Console) -> None:
    """Measure, and write what was found: numbers, and pictures of them."""
    from benchmarks.queue import plots

    bench = Bench(servers=servers, scale=SCALES[size], console=console)
    machine = report.machine(size) | servers.facts()
    machine["packages"] = {name: version(name) for name in _PEERS}
    book = Book(name="queue", title="The queue", writer="benchmarks.queue", machine=machine)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or BENCHMARKS:
        found = BENCHMARKS[name](bench)
        report.show(console, name, found)
        book.write(folder, name, found, plots.draw(name, found, machine, folder))


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--size", choices=list(SCALES), default="small")
    parser.add_argument(
        "--synced", action="store_true", help="wait for the disk at every commit and append"
    )
    parser.add_argument("--out", type=Path, default=_RESULTS)
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    # What the keeper says every second would scroll the tables away.
    log.configure(LogSettings(log_level="warning"))
    with open_servers(synced=options.synced) as servers:
        run(servers, options.size, options.out, options.names, Console(width=120))


if __name__ == "__main__":
    main()
