"""Runs benchmarks of the HTTP API.

python -m benchmarks.api --size tiny|small|full [--synced] [NAME …]
"""

import argparse
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks import report
from benchmarks.api import bulk, status_reads
from benchmarks.api.bench import SCALES, Bench
from benchmarks.queue.servers import Servers, open_servers
from benchmarks.report import Book, Report
from twofold_schema import log
from twofold_schema.settings import LogSettings

BENCHMARKS: Final[dict[str, Callable[[Bench], Report]]] = {
    "status-reads": status_reads.measure,
    "bulk": bulk.measure,
}

#: What the service runs on; the last two are used where they are installed.
_PARTS: Final = ("fastapi", "starlette", "uvicorn", "h11", "uvloop", "httptools")

_RESULTS: Final = Path(__file__).parents[1] / "results"


def run(servers: Servers, size: str, folder: Path, names: list[str], console: Console) -> None:
    """Measure, and write what was found: numbers, and pictures of them."""
    from benchmarks.api import plots

    bench = Bench(servers=servers, scale=SCALES[size], console=console)
    machine = report.machine(size) | servers.facts()
    machine["packages"] = {name: number for name in _PARTS if (number := _version(name))}
    book = Book(name="api", title="The HTTP API", writer="benchmarks.api", machine=machine)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or BENCHMARKS:
        found = BENCHMARKS[name](bench)
        report.show(console, name, found)
        book.write(folder, name, found, plots.draw(name, found, machine, folder))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.api", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--size", choices=list(SCALES), default="small")
    parser.add_argument(
        "--synced", action="store_true", help="wait for the disk at every commit and append"
    )
    parser.add_argument("--out", type=Path, default=_RESULTS)
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    log.configure(LogSettings(log_level="warning"))
    with open_servers(synced=options.synced) as servers:
        run(servers, options.size, options.out, options.names, Console(width=120))


if __name__ == "__main__":
    main()
