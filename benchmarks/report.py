"""What was measured, as JSON and as a table."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a benchmark found.

    Attributes:
        figures: The numbers that promises are made of.
        details: What they were made of, for plots and for people.
        rows: A table of it: one mapping for each row, all with the same columns.
    """

    figures: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Mapping[str, object]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """The files in which reports of one kind are kept.

    Attributes:
        name: Of the files, without a suffix.
        title: Of the tables.
        writer: The module that writes them.
        machine: Where and with what it is measured.
    """

    name: str
    title: str
    writer: str
    machine: Mapping[str, object]

    def write(
        self, folder: Path, benchmark: str, report: Report, picture: Path | None = None
    ) -> Path:
        """Put a benchmark's report into the files, beside those that are there."""
        path = folder / f"{self.name}.json"
        known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        known.setdefault("figures", {}).update(report.figures)
        measured = {
            "machine": self.machine,
            "picture": picture.name if picture else None,
            **report.details,
            "rows": list(report.rows),
        }
        known.setdefault("details", {})[benchmark] = measured
        known["machine"] = self.machine
        path.write_text(json.dumps(known, indent=2, default=str) + "\n")
        path.with_suffix(".md").write_text(self._markdown(known))
        return path

    def _markdown(self, known: Mapping[str, Any]) -> str:
        """All that is known, in tables, with the pictures that lie beside them."""
        parts = [f"# {self.title}", f"Written by `{self.writer}`."]
        if figures := known["figures"]:
            parts.append(_table([{"figure": f"`{k}`", "value": v} for k, v in figures.items()]))
        for name, measured in known["details"].items():
            about = measured["machine"]
            parts.append(f"## {name}")
            parts.append(
                f"{about['date']}, {about['size']} size, {about['processor']}, "
                f"{about['cores']} cores."
            )
            parts += measured.get("notes", [])
            if measured["rows"]:
                parts.append(_table(measured["rows"]))
            if picture := measured.get("picture"):
                parts.append(f"![{name}]({picture})")
        return "\n\n".join(parts) + "\n"


def machine(size: str) -> dict[str, object]:
    """Where and when something of a size is measured."""
    return {
        "size": size,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def show(console: Console, title: str, report: Report) -> None:
    """Print a report."""
    if report.rows:
        table = Table(title=title, title_justify="left")
        for number, column in enumerate(report.rows[0]):
            table.add_column(column, justify="right" if number else "left")
        for row in report.rows:
            table.add_row(*(_shown(value) for value in row.values()))
        console.print(table)
    for figure, value in report.figures.items():
        console.print(f"{figure} = {value:.4g}", highlight=False)
    console.print()


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    lines = [[*rows[0]], ["---" if not n else "---:" for n in range(len(rows[0]))]]
    lines += [[_shown(value) for value in row.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    if about.is_file():
        for line in about.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
