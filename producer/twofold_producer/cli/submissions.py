"""`twofold submissions …`: jobs that were submitted together."""

import json
import sys
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from twofold_producer.cli import door
from twofold_producer.cli.app import cell, out

app = typer.Typer(no_args_is_help=True, add_completion=False)


class Form(StrEnum):
    """How a submission is printed."""

    TABLE = "table"
    JSON = "json"


# For a group of one command so far.
@app.callback()
def _group() -> None:
    """Look at what was submitted together."""


@app.command()
def get(
    submission_id: Annotated[UUID, typer.Argument(metavar="ID", help="Id of a submission.")],
    *,
    output: Annotated[Form, typer.Option("--output", "-o", help="How to print.")] = Form.TABLE,
) -> None:
    """Show how far a submission is, and where its manifests lie once it has ended."""
    with door.opened() as opened:
        report = opened.submission(submission_id)
    plain = report.model_dump(mode="json")
    if output is Form.JSON:
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return
    plain["counts"] = ", ".join(f"{count} {state}" for state, count in report.counts.items())
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in plain.items():
        table.add_row(Text(name, "bold"), cell("" if value is None else str(value)))
    out.print(table)
