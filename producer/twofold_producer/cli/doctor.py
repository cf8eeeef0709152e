"""`twofold doctor`: look at everything that Twofold needs here."""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from twofold_producer.cli.app import err, out
from twofold_producer.doctor.checks import CheckName, examine
from twofold_schema.effective import Effective
from twofold_schema.environment import process_environment
from twofold_schema.findings import Finding, Status

EXIT_UNWELL = 1

_COLOURS = {
    Status.OK: "green",
    Status.WARNING: "yellow",
    Status.FAILED: "bold red",
    Status.SKIPPED: "dim",
}
_MARKS = {Status.OK: "✓", Status.WARNING: "!", Status.FAILED: "✗", Status.SKIPPED: "-"}
_NAME_WIDTH = max(len(name) for name in CheckName)
_STATUS_WIDTH = max(len(status) for status in Status)


class Form(StrEnum):
    """How findings are printed."""

    TEXT = "text"
    JSON = "json"


def doctor(
    *,
    only: Annotated[
        list[CheckName] | None,
        typer.Option(help="Run just this check; may be repeated. What it skips is a failure then."),
    ] = None,
    output: Annotated[Form, typer.Option("--output", "-o", help="How to print.")] = Form.TEXT,
) -> None:
    """Look at settings, servers, storage, model and device; say how to mend what is not well.

    Ends with 0 when nothing failed, with 1 when something did. As a container's health check:
    twofold doctor --only worker
    """
    found = examine(Effective.of(process_environment()), only=only or ())
    if output is Form.JSON:
        heard = list(found)
        plain = [finding.to_json() for finding in heard]
        sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
    else:
        heard = list(_told(found))
        _sum_up(heard)
    if any(finding.status is Status.FAILED for finding in heard):
        raise typer.Exit(EXIT_UNWELL)


def _told(found: Iterable[Finding]) -> Iterator[Finding]:
    with _waiting():
        for finding in found:
            if out.is_terminal:
                out.print(_rows(finding))
            else:
                sys.stdout.write(_lines(finding))
                sys.stdout.flush()
            yield finding


def _waiting() -> contextlib.AbstractContextManager[object]:
    if not out.is_terminal:
        return contextlib.nullcontext()
    return out.status("looking …", spinner_style="dim")


def _rows(finding: Finding) -> Table:
    """For a terminal: a mark, the name, and text that folds beneath itself."""
    colour = _COLOURS[finding.status]
    well = out.encoding.startswith("utf")
    rows = Table.grid(padding=(0, 1))
    rows.add_column(width=1 if well else _STATUS_WIDTH)
    rows.add_column(width=_NAME_WIDTH)
    rows.add_column(overflow="fold")
    mark = _MARKS[finding.status] if well else str(finding.status)
    # As Text: a name may look like markup.
    rows.add_row(
        Text(mark, colour),
        Text(finding.check, "bold"),
        Text(finding.what, "dim" if finding.status is Status.SKIPPED else ""),
    )
    if finding.mend and finding.status is not Status.SKIPPED:
        rows.add_row("", "", Text(f"{'→' if well else '->'} {finding.mend}", "cyan"))
    return rows


def _lines(finding: Finding) -> str:
    """For a pipe or a file: the finding on one line, what to do on the next."""
    line = f"{finding.status:{_STATUS_WIDTH}} {finding.check:{_NAME_WIDTH}} {finding.what}\n"
    if finding.mend and finding.status is not Status.SKIPPED:
        line += f"{'':{_STATUS_WIDTH + _NAME_WIDTH + 2}}mend: {finding.mend}\n"
    return line


def _sum_up(heard: Iterable[Finding]) -> None:
    counted = Counter(finding.status for finding in heard)
    err.print(", ".join(f"{counted[status]} {status}" for status in Status) + ".", style="dim")
