"""How findings are printed: `twofold doctor` and `twofold db check`."""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

from rich.table import Table
from rich.text import Text

from twofold_producer.cli.app import cell, err, out, printable
from twofold_schema.findings import Finding, Status

EXIT_UNWELL = 1

_COLOURS = {
    Status.OK: "green",
    Status.WARNING: "yellow",
    Status.FAILED: "bold red",
    Status.SKIPPED: "dim",
}
_MARKS = {Status.OK: "✓", Status.WARNING: "!", Status.FAILED: "✗", Status.SKIPPED: "-"}
_STATUS_WIDTH = max(len(status) for status in Status)


class Form(StrEnum):
    """How findings are printed."""

    TEXT = "text"
    JSON = "json"


def show(finding: Finding, *, width: int) -> None:
    """Print a finding, beside a name of up to `width` characters."""
    if out.is_terminal:
        out.print(_rows(finding, width))
    else:
        sys.stdout.write(_lines(finding, width))
        sys.stdout.flush()


def write_json(heard: Iterable[Finding]) -> None:
    """Print all findings as one array."""
    plain = [finding.to_json() for finding in heard]
    sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")


def sum_up(heard: Iterable[Finding]) -> None:
    """Say how many findings there were of each kind."""
    counted = Counter(finding.status for finding in heard)
    err.print(", ".join(f"{counted[status]} {status}" for status in Status) + ".", style="dim")


def _rows(finding: Finding, width: int) -> Table:
    """For a terminal: a mark, the name, and text that folds beneath itself."""
    colour = _COLOURS[finding.status]
    well = out.encoding.startswith("utf")
    rows = Table.grid(padding=(0, 1))
    rows.add_column(width=1 if well else _STATUS_WIDTH)
    rows.add_column(width=width)
    rows.add_column(overflow="fold")
    mark = _MARKS[finding.status] if well else str(finding.status)
    # As Text: a name may look like markup.
    rows.add_row(
        Text(mark, colour),
        Text(finding.check, "bold"),
        cell(finding.what, "dim" if finding.status is Status.SKIPPED else ""),
    )
    if finding.mend and finding.status is not Status.SKIPPED:
        rows.add_row("", "", Text(f"{'→' if well else '->'} {finding.mend}", "cyan"))
    return rows


def _lines(finding: Finding, width: int) -> str:
    """For a pipe or a file: the finding on one line, what to do on the next."""
    line = f"{finding.status:{_STATUS_WIDTH}} {finding.check:{width}} {printable(finding.what)}\n"
    if finding.mend and finding.status is not Status.SKIPPED:
        line += f"{'':{_STATUS_WIDTH + width + 2}}mend: {finding.mend}\n"
    return line
