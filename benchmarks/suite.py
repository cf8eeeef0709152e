"""Benchmarks that need servers: what each is given, and the command that runs them."""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from rich.console import Console
from rich.progress import track

from benchmarks import report
from benchmarks.queue.servers import Servers, open_servers
from benchmarks.report import Book, Report
from twofold_schema import log
from twofold_schema.settings import LogSettings

Item = TypeVar("Item")
ScaleT = TypeVar("ScaleT")

_RESULTS: Final = Path(__file__).parent / "results"
#: Between lines that say how far it is.
_TOLD_SECONDS: Final = 15.0


@dataclass(frozen=True, kw_only=True)
class Bench(Generic[ScaleT]):
    """A benchmark's surroundings.

    Attributes:
        servers: Real ones.
        scale: How much is measured.
        console: Where progress is shown.
    """

    servers: Servers
    scale: ScaleT
    console: Console

    def each(self, items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
        """The items, with a bar that says how far it is, or now and then a line off a terminal."""
        if self.console.is_terminal:
            yield from track(
                items, description=what, total=total, console=self.console, transient=True
            )
            return
        total = len(items) if isinstance(items, Sized) else total
        told = -inf
        for number, item in enumerate(items, 1):
            if time.monotonic() - told > _TOLD_SECONDS:
                told = time.monotonic()
                self.console.log(f"{what}: {number} of {total or 'many'}")
            yield item


@dataclass(frozen=True, kw_only=True)
class Suite(Generic[ScaleT]):
    """Benchmarks of one thing.

    Attributes:
        name: Of the package that has them, and of the files that their results are kept in.
        title: Of the tables.
        scales: How much may be measured, by size.
        benchmarks: By name.
        draw: Draws a report of a benchmark on a machine into a folder.
        packages: Whose versions are written down, where they are installed.
    """

    name: str
    title: str
    scales: Mapping[str, ScaleT]
    benchmarks: Mapping[str, Callable[[Bench[ScaleT]], Report]]
    draw: Callable[[str, Report, Mapping[str, Any], Path], Path]
    packages: tuple[str, ...]

    def run(
        self, servers: Servers, size: str, folder: Path, names: list[str], console: Console
    ) -> None:
        """Measure, and write what was found: numbers, and pictures of them."""
        bench = Bench(servers=servers, scale=self.scales[size], console=console)
        machine = report.machine(size) | servers.facts()
        machine["packages"] = {name: own for name in self.packages if (own := _version(name))}
        book = Book(
            name=self.name, title=self.title, writer=f"benchmarks.{self.name}", machine=machine
        )
        folder.mkdir(parents=True, exist_ok=True)
        for name in names or self.benchmarks:
            found = self.benchmarks[name](bench)
            report.show(console, name, found)
            book.write(folder, name, found, self.draw(name, found, machine, folder))

    def main(self) -> None:
        """Measure what the command line says."""
        parser = argparse.ArgumentParser(
            prog=f"python -m benchmarks.{self.name}", description=f"{self.title}, measured."
        )
        parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(self.benchmarks))
        parser.add_argument("--size", choices=list(self.scales), default="small")
        parser.add_argument(
            "--synced", action="store_true", help="wait for the disk at every commit and append"
        )
        parser.add_argument("--out", type=Path, default=_RESULTS)
        options = parser.parse_args()
        if unknown := set(options.names) - set(self.benchmarks):
            parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
        # What the keeper says every second would scroll the tables away.
        log.configure(LogSettings(log_level="warning"))
        with open_servers(synced=options.synced) as servers:
            self.run(
                servers,
                options.size,
                options.out,
                options.names,
                Console(width=120, log_path=False),
            )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
