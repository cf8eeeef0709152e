"""`twofold config`: the settings as they are in effect."""

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from twofold_producer.cli.app import err, out
from twofold_schema.effective import Effective, Setting
from twofold_schema.environment import process_environment

EXIT_WRONG_SETTING = 2

app = typer.Typer(no_args_is_help=True, add_completion=False)


class Form(StrEnum):
    """How settings are printed."""

    TABLE = "table"
    JSON = "json"


# For a group of one command so far.
@app.callback()
def _group() -> None:
    """The settings."""


@app.command()
def show(
    *, output: Annotated[Form, typer.Option("--output", "-o", help="How to print.")] = Form.TABLE
) -> None:
    """Show every setting, its value and where it comes from; secrets are masked."""
    effective = Effective.of(process_environment())
    if output is Form.JSON:
        plain = [_plain(one) for one in effective.settings]
        sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
    else:
        out.print(_table(effective.settings))
    for fault in effective.faults:
        err.print(Text(f"{fault}", "red"), soft_wrap=True)
    if effective.faults:
        raise typer.Exit(EXIT_WRONG_SETTING)


def _table(settings: Sequence[Setting]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("variable", "value", "from"):
        table.add_column(column, overflow="fold", no_wrap=column == "variable")
    for one in settings:
        colour = "red" if one.fault else "dim" if one.origin == "default" else ""
        table.add_row(
            Text(one.variable, colour),
            Text("" if one.value is None else str(one.value), colour),
            Text(_origin(one), colour),
        )
    return table


def _origin(one: Setting) -> str:
    origin = f"file {one.file}" if one.origin == "file" else str(one.origin)
    return f"{origin}, wrong" if one.fault else origin


def _plain(one: Setting) -> dict[str, object]:
    return {
        "variable": one.variable,
        "value": one.value,
        "origin": str(one.origin),
        "file": one.file,
        "fault": one.fault,
    }
