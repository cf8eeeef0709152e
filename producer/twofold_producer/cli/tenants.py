"""`twofold tenants …`: what tenants are due, and what they have queued and running."""

import json
import sys
from collections import Counter
from typing import Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from twofold_producer.cli.app import WhoOption, out
from twofold_producer.cli.submissions import Form
from twofold_schema import database
from twofold_schema.ledger import shares, tallies
from twofold_schema.ledger.shares import Share
from twofold_schema.settings import DatabaseSettings
from twofold_schema.states import JobState

app = typer.Typer(no_args_is_help=True)

_OutputOption = Annotated[Form, typer.Option("--output", "-o", help="How to print.")]


@app.command("list")
def list_(*, output: _OutputOption = Form.TABLE) -> None:
    """List all tenants that have jobs or a share of their own."""
    engine = database.connect(DatabaseSettings.load())
    with engine.connect() as connection:
        due, found = shares.every_share(connection), tallies.overview(connection)
    counted = Counter[tuple[str, JobState]]()
    for tally in found:
        counted[tally.tenant, tally.state] += tally.jobs
    rows = [
        {
            "tenant": tenant,
            "weight": share.weight,
            "max_running": share.max_running,
            "queued": counted[tenant, JobState.QUEUED],
            "running": counted[tenant, JobState.RUNNING],
        }
        for tenant in sorted(due.keys() | {tally.tenant for tally in found})
        for share in [due.get(tenant, Share())]
    ]
    _show(rows, output)


@app.command("set")
def set_(
    tenant: Annotated[str, typer.Argument(metavar="NAME", help="Whose share.")],
    *,
    weight: Annotated[
        float | None, typer.Option(help="Twice as much gets twice the GPU-seconds.")
    ] = None,
    max_running: Annotated[
        int | None, typer.Option(min=0, help="How many jobs may run at once.")
    ] = None,
    any_number: Annotated[
        bool, typer.Option("--any-number", help="Any number of jobs may run at once.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why.")],
    who: WhoOption,
) -> None:
    """Say what a tenant is due; what is not said stays as it is."""
    if any_number and max_running is not None:
        raise typer.BadParameter("give --max-running, or --any-number")
    if weight is None and max_running is None and not any_number:
        raise typer.BadParameter("give --weight, --max-running or --any-number")
    cap: int | Literal["any"] | None = "any" if any_number else max_running
    engine = database.connect(DatabaseSettings.load())
    with engine.begin() as connection:
        share = shares.set_share(
            connection, tenant, weight=weight, max_running=cap, reason=reason, who=who
        )
    running = "any number" if share.max_running is None else share.max_running
    out.print(Text(f"{tenant}: weight {share.weight:g}, {running} running at once"))


def _show(rows: list[dict[str, Any]], output: Form) -> None:
    if output is Form.JSON:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("tenant", "weight", "max running", "queued", "running"):
        table.add_column(column, justify="left" if column == "tenant" else "right")
    for row in rows:
        cells = ("any" if value is None else value for value in row.values())
        table.add_row(*(Text(f"{c:g}" if isinstance(c, float) else str(c)) for c in cells))
    out.print(table)
