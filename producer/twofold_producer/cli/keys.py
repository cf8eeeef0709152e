"""`twofold keys …`: API keys, and what became of them."""

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from twofold_producer.cli.app import WhoOption, YesOption, agree, cell, err, out
from twofold_producer.cli.door import database_settings
from twofold_producer.cli.submissions import Form
from twofold_schema import database
from twofold_schema.api_key import ApiKey, NewApiKey, Scope
from twofold_schema.ledger import api_keys

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="API keys: who may ask over HTTP."
)

_OutputOption = Annotated[Form, typer.Option("--output", "-o", help="How to print.")]
_KeyId = Annotated[UUID, typer.Argument(metavar="ID", help="Id of a key.")]
_Reason = Annotated[str, typer.Option(help="Why.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="For people: who will use it.")],
    *,
    tenant: Annotated[str | None, typer.Option(help="For whom it speaks.")] = None,
    all_tenants: Annotated[
        bool, typer.Option("--all-tenants", help="It speaks for all: for read, operate or admin.")
    ] = False,
    scope: Annotated[list[Scope], typer.Option(help="What it is for; several times.")],
    days: Annotated[
        float | None, typer.Option(min=0, max=36_500, help="Days until it expires; else never.")
    ] = None,
    reason: _Reason,
    who: WhoOption,
    output: _OutputOption = Form.TABLE,
) -> None:
    """Make a key. Its secret is printed once, alone on standard output, and kept nowhere."""
    if (tenant is None) is not all_tenants:
        raise typer.BadParameter("give --tenant, or --all-tenants")
    engine = database.connect(database_settings())
    with engine.begin() as connection:
        made = api_keys.create(
            connection,
            name,
            tenant=tenant,
            scopes=scope,
            lifetime=None if days is None else timedelta(days=days),
            reason=reason,
            who=who,
        )
    _hand_over(made, output)


@app.command("list")
def list_(
    *,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's keys.")] = None,
    output: _OutputOption = Form.TABLE,
) -> None:
    """List all keys, newest first, those that are over included."""
    engine = database.connect(database_settings())
    with engine.connect() as connection:
        found = api_keys.every_key(connection, tenant=tenant)
    if output is Form.JSON:
        sys.stdout.write(json.dumps([_plain(key) for key in found], indent=2) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "key", "tenant", "name", "for", "state", "last used", "expires"):
        table.add_column(column, no_wrap=column in {"id", "key"})
    for key in found:
        table.add_row(*map(cell, _cells(key)))
    out.print(table)


@app.command()
def rotate(
    key_id: _KeyId,
    *,
    overlap_hours: Annotated[
        float, typer.Option(min=0, max=24 * 365, help="How long the old one stays good.")
    ] = 24.0,
    reason: _Reason,
    who: WhoOption,
    output: _OutputOption = Form.TABLE,
) -> None:
    """Make a key with the same rights; the old one stays good for a while, so that nobody is out.

    The new secret is printed once, alone on standard output.
    """
    engine = database.connect(database_settings())
    with engine.begin() as connection:
        made = api_keys.rotate(
            connection, key_id, overlap=timedelta(hours=overlap_hours), reason=reason, who=who
        )
    _hand_over(made, output)


@app.command()
def revoke(key_id: _KeyId, *, reason: _Reason, who: WhoOption, yes: YesOption = False) -> None:
    """End a key at once, for ever."""
    agree("Whoever uses this key is refused from now on. Revoke it?", yes=yes)
    engine = database.connect(database_settings())
    with engine.begin() as connection:
        key = api_keys.revoke(connection, key_id, reason=reason, who=who)
    out.print(cell(f"revoked {key.prefix} ({key.name})"))


def _hand_over(made: NewApiKey, output: Form) -> None:
    if output is Form.JSON:
        sys.stdout.write(json.dumps(_plain(made.key) | {"secret": made.secret}, indent=2) + "\n")
        return
    err.print(Text(f"Key {made.key.id}. Its secret is shown this once; keep it safe:", "dim"))
    sys.stdout.write(f"{made.secret}\n")


def _plain(key: ApiKey) -> dict[str, Any]:
    """A key as JSON has it."""
    mine = asdict(key) | {"scopes": sorted(key.scopes), "state": _state(key)}
    return json.loads(json.dumps(mine, default=str))  # type: ignore[no-any-return]


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
        return "expired"
    return "rotated" if key.rotated_to else "good"


def _cells(key: ApiKey) -> tuple[str, ...]:
    return (
        str(key.id),
        key.prefix,
        "all" if key.tenant is None else key.tenant,
        key.name,
        ", ".join(sorted(key.scopes)),
        _state(key),
        _moment(key.last_used_at),
        _moment(key.expires_at),
    )


def _moment(time: datetime | None) -> str:
    return "never" if time is None else f"{time:%Y-%m-%d %H:%M:%S%z}"
