"""`twofold tenants …`: what tenants are due and may do, and what they have queued and running."""

import json
import sys
from collections import Counter
from typing import Annotated, Any, Literal, TypeVar

import typer
from rich.table import Table

from twofold_producer.cli.app import WhoOption, cell, out
from twofold_producer.cli.door import database_settings
from twofold_producer.cli.submissions import Form
from twofold_schema import database
from twofold_schema.ledger import rights, shares, tallies
from twofold_schema.ledger.rights import Rights
from twofold_schema.ledger.shares import Share
from twofold_schema.settings import KeeperSettings
from twofold_schema.states import JobState
from twofold_schema.tenant_places import TenantPlaces

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="What tenants are due, may do, and have."
)

Number = TypeVar("Number", int, float)

_OutputOption = Annotated[Form, typer.Option("--output", "-o", help="How to print.")]
_ANY, _NONE = "any", "none"


@app.command("list")
def list_(*, output: _OutputOption = Form.TABLE) -> None:
    """List all tenants that have jobs, a share or rights of their own."""
    engine = database.connect(database_settings())
    with engine.connect() as connection:
        due, found = shares.every_share(connection), tallies.overview(connection)
        allowed = rights.every_right(connection)
    counted = Counter[tuple[str, JobState]]()
    for tally in found:
        counted[tally.tenant, tally.state] += tally.jobs
    rows = []
    for tenant in sorted(due.keys() | {tally.tenant for tally in found}):
        share = due.get(tenant, Share())
        may = allowed.get(tenant) or Rights(places=TenantPlaces(tenant=tenant))
        rows.append(
            {
                "tenant": tenant,
                "weight": share.weight,
                "max_running": share.max_running,
                "queued": counted[tenant, JobState.QUEUED],
                "running": counted[tenant, JobState.RUNNING],
                "max_queued": may.max_queued,
                "rate": may.rate,
                "burst": may.burst,
                "jobs_days": may.jobs_days,
                "may_read": may.places.may_read,
                "may_write": may.places.may_write,
            }
        )
    _show(rows, output)


@app.command("set")
def set_(
    tenant: Annotated[str, typer.Argument(metavar="NAME", help="Whose share and rights.")],
    *,
    weight: Annotated[
        float | None, typer.Option(help="0.001 to 1000; twice as much gets twice the GPU-seconds.")
    ] = None,
    max_running: Annotated[
        int | None, typer.Option(min=0, help="How many jobs may run at once.")
    ] = None,
    any_number: Annotated[
        bool, typer.Option("--any-number", help="Any number of jobs may run at once.")
    ] = False,
    may_read: Annotated[
        list[str] | None,
        typer.Option(help="A place of sources, s3://bucket/prefix; several times; any; none."),
    ] = None,
    may_write: Annotated[
        list[str] | None, typer.Option(help="A place of results; several times; any; none.")
    ] = None,
    max_queued: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="How many jobs may wait; any.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Requests per second; any.")
    ] = None,
    burst: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Requests at once; any.")
    ] = None,
    jobs_days: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER",
            help="Days for which jobs are kept after their end, fewer than everybody's; any.",
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why.")],
    who: WhoOption,
) -> None:
    """Say what a tenant is due and may do; what is not said stays as it is."""
    if any_number and max_running is not None:
        raise typer.BadParameter("give --max-running, or --any-number")
    of_share = weight is not None or max_running is not None or any_number
    of_rights = [may_read, may_write, max_queued, rate, burst, jobs_days] != [None] * 6
    if not of_share and not of_rights:
        raise typer.BadParameter("say what shall change; --help has the options")
    cap: int | Literal["any"] | None = "any" if any_number else max_running
    said, engine = [], database.connect(database_settings())
    with engine.begin() as connection:
        if of_share:
            share = shares.set_share(
                connection, tenant, weight=weight, max_running=cap, reason=reason, who=who
            )
            running = "any number" if share.max_running is None else share.max_running
            said.append(f"weight {share.weight:g}, {running} running at once")
        if of_rights:
            may = rights.set_rights(
                connection,
                tenant,
                may_read=_places(may_read),
                may_write=_places(may_write),
                max_queued=_number(int, max_queued, "--max-queued"),
                rate=_number(float, rate, "--rate"),
                burst=_number(int, burst, "--burst"),
                jobs_days=_number(int, jobs_days, "--jobs-days"),
                everybodys_days=KeeperSettings.load().jobs_days,
                reason=reason,
                who=who,
            )
            said.append(_told(may))
    out.print(cell(f"{tenant}: {', '.join(said)}"), soft_wrap=True)


def _places(stated: list[str] | None) -> list[str] | Literal["any"] | None:
    if not stated:
        return None
    if {_ANY, _NONE} & set(stated) and len(stated) > 1:
        raise typer.BadParameter("give places, or any, or none")
    return "any" if stated == [_ANY] else [] if stated == [_NONE] else stated


def _number(kind: type[Number], stated: str | None, option: str) -> Number | Literal["any"] | None:
    if stated is None:
        return None
    try:
        return "any" if stated == _ANY else kind(stated)
    except ValueError:
        raise typer.BadParameter(f"{option} is a number, or any, not {stated!r}") from None


def _told(may: Rights) -> str:
    rate = "any rate" if may.rate is None else f"{may.rate:g} requests per second"
    burst = "" if may.burst is None else f", {may.burst} at once"
    waiting = "any number" if may.max_queued is None else may.max_queued
    days = "" if may.jobs_days is None else f", jobs kept for {may.jobs_days} days"
    return (
        f"reads {_listed(may.places.may_read)}, writes {_listed(may.places.may_write)}, "
        f"{waiting} waiting, {rate}{burst}{days}"
    )


def _listed(places: tuple[str, ...] | None) -> str:
    return "anywhere" if places is None else " ".join(places) or "nowhere"


def _show(rows: list[dict[str, Any]], output: Form) -> None:
    if output is Form.JSON:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    left = {"tenant", "may read", "may write"}
    columns = ("tenant", "weight", "max running", "queued", "running")
    for column in (*columns, "max queued", "rate", "burst", "jobs days", "may read", "may write"):
        table.add_column(column, justify="left" if column in left else "right")
    for row in rows:
        table.add_row(*(cell(_cell(value)) for value in row.values()))
    out.print(table)


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(value) or _NONE
    return _ANY if value is None else f"{value:g}" if isinstance(value, float) else str(value)
