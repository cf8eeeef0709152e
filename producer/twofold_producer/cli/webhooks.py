"""`twofold webhooks …`: who is told what happened, and whether that arrives."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import typer
from pydantic import SecretStr
from rich.table import Table
from rich.text import Text
from sqlalchemy import Engine

from twofold_producer.cli.app import WhoOption, cell, err, out, say_more
from twofold_producer.cli.door import database_settings
from twofold_producer.cli.jobs import Output, OutputOption
from twofold_producer.cli.submissions import Form
from twofold_schema import database
from twofold_schema.ledger import deliveries as outbox
from twofold_schema.ledger import webhooks as ledger
from twofold_schema.settings import WebhookSettings
from twofold_schema.webhook import Delivery, DeliveryState, EventType, Webhook

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Who is told what happened, and what arrives."
)

_WebhookId = Annotated[UUID, typer.Argument(metavar="ID", help="Id of an endpoint.")]
_FormOption = Annotated[Form, typer.Option("--output", "-o", help="How to print.")]
_ReasonOption = Annotated[str, typer.Option(help="Why.")]


@app.command()
def create(
    url: Annotated[str, typer.Argument(metavar="URL", help="https://… of the receiver.")],
    *,
    tenant: Annotated[str, typer.Option(help="Whose jobs it is told of.")] = "default",
    event: Annotated[
        list[EventType] | None, typer.Option(help="Only of these; of all unless stated.")
    ] = None,
    only_named: Annotated[
        bool, typer.Option("--only-named", help="Only of jobs and submissions that name it.")
    ] = False,
    reason: _ReasonOption = "",
    who: WhoOption,
    output: _FormOption = Form.TABLE,
) -> None:
    """Make an endpoint, and print its secret, which is never shown again."""
    egress = WebhookSettings.load().egress
    with _engine().begin() as connection:
        webhook, secret = ledger.create(
            connection,
            url,
            egress=egress,
            tenant=tenant,
            events=event or None,
            everything=not only_named,
            reason=reason,
            who=who,
        )
    _show_secret(webhook.id, secret, output)


@app.command("list")
def list_(
    *,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List endpoints, oldest first, and whether they hear."""
    with _engine().connect() as connection:
        found = ledger.find(connection, tenant=tenant)
    if output is not Output.TABLE:
        _print(found, output)
        return
    table = _table("id", "tenant", "url", "events", "of", "state")
    for one in found:
        table.add_row(*map(cell, _cells(one)))
    out.print(table)


@app.command()
def rotate(
    webhook_id: _WebhookId,
    *,
    keep_hours: Annotated[
        float, typer.Option(min=0, max=24 * 365, help="How long the old secret signs as well.")
    ] = ledger.KEEP_OLD / timedelta(hours=1),
    reason: _ReasonOption = "",
    who: WhoOption,
    output: _FormOption = Form.TABLE,
) -> None:
    """Give an endpoint another secret, and print it; the old one signs for a while longer."""
    with _engine().begin() as connection:
        keep = timedelta(hours=keep_hours)
        secret = ledger.rotate(connection, webhook_id, keep=keep, reason=reason, who=who)
    _show_secret(webhook_id, secret, output)


@app.command()
def disable(
    webhook_id: _WebhookId,
    *,
    reason: Annotated[str, typer.Option(help="Why, for whoever asks why nothing arrives.")],
    who: WhoOption,
) -> None:
    """Send an endpoint nothing more, and note nothing more down for it."""
    with _engine().begin() as connection:
        ledger.disable(connection, webhook_id, reason=reason, who=who)
    out.print(Text(f"disabled {webhook_id}"))


@app.command()
def enable(webhook_id: _WebhookId, *, reason: _ReasonOption = "", who: WhoOption) -> None:
    """Use an endpoint again: what waited for it is sent, what happened meanwhile is not."""
    with _engine().begin() as connection:
        ledger.enable(connection, webhook_id, reason=reason, who=who)
    out.print(Text(f"enabled {webhook_id}"))


@app.command()
def test(webhook_id: _WebhookId) -> None:
    """Send an endpoint a message that tells of nothing; prints its id."""
    with _engine().begin() as connection:
        delivery = outbox.send_test(connection, webhook_id)
    sys.stdout.write(f"{delivery.id}\n")
    err.print("The keeper sends it. `twofold webhooks deliveries` says what came of it.")


@app.command()
def deliveries(
    context: typer.Context,
    webhook_id: Annotated[
        UUID | None, typer.Argument(metavar="ID", help="Only to this endpoint.")
    ] = None,
    *,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    state: Annotated[DeliveryState | None, typer.Option(help="Only in this state.")] = None,
    before: Annotated[UUID | None, typer.Option(help="The last id of the page before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """List messages, newest first, and how their last try went; -o json has every try."""
    with _engine().connect() as connection:
        found = outbox.find(
            connection,
            webhook_id=webhook_id,
            tenant=tenant,
            state=state,
            before=before,
            limit=limit,
        )
    if output is not Output.TABLE:
        _print(found, output)
        return
    table = _table("id", "type", "of", "state", "tries", "last try", "next try", "when")
    for one in found:
        table.add_row(*map(cell, _delivery_cells(one)))
    out.print(table)
    if len(found) == limit:
        say_more(context, found[-1].id)


@app.command()
def redeliver(
    delivery_id: Annotated[
        UUID | None, typer.Argument(metavar="ID", help="Id of a delivery that has ended.")
    ] = None,
    *,
    webhook: Annotated[
        UUID | None, typer.Option(help="Instead: all that failed at this endpoint.")
    ] = None,
    since_hours: Annotated[
        float,
        typer.Option(min=0, max=24 * 3650, help="With --webhook: of what was told since then."),
    ] = 24.0,
) -> None:
    """Deliver messages anew, under their old ids."""
    if (delivery_id is None) == (webhook is None):
        raise typer.BadParameter("give the id of a delivery, or --webhook")
    engine, count = _engine(), 1
    if delivery_id is not None:
        with engine.begin() as connection:
            outbox.redeliver(connection, delivery_id)
    elif webhook is not None:
        count = _redeliver_failed(engine, webhook, datetime.now(UTC) - timedelta(hours=since_hours))
    out.print(f"{count} will be delivered")


def _redeliver_failed(engine: Engine, webhook_id: UUID, since: datetime) -> int:
    with engine.connect() as connection:
        ledger.get(connection, webhook_id)
    count = 0
    while True:
        with engine.begin() as connection:
            some = outbox.redeliver_failed(connection, webhook_id, since=since)
        count += some
        if not some:
            return count


def _engine() -> Engine:
    return database.connect(database_settings())


def _show_secret(webhook_id: UUID, secret: SecretStr, output: Form) -> None:
    plain = {"id": str(webhook_id), "secret": secret.get_secret_value()}
    if output is Form.JSON:
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return
    for name, value in plain.items():
        out.print(Text(f"{name:<6} {value}"), soft_wrap=True)
    err.print("Keep the secret: it is not shown again.", style="dim")


def _print(found: Sequence[Webhook] | Sequence[Delivery], output: Output) -> None:
    if output is Output.JSON:
        plain = [asdict(one) for one in found]
        sys.stdout.write(json.dumps(plain, indent=2, default=str) + "\n")
        return
    for one in found:
        line = str(one.id) if output is Output.IDS else json.dumps(asdict(one), default=str)
        sys.stdout.write(f"{line}\n")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column == "id")
    return table


def _cells(one: Webhook) -> tuple[str, ...]:
    state = "in use"
    if one.disabled_at is not None:
        state = f"disabled {_moment(one.disabled_at)}: {one.disabled_reason}"
    elif one.failing_since is not None:
        state = f"failing since {_moment(one.failing_since)}"
    return (
        str(one.id),
        one.tenant,
        one.url,
        "all" if one.events is None else ", ".join(one.events),
        "everything" if one.everything else "what names it",
        state,
    )


def _delivery_cells(one: Delivery) -> tuple[str, ...]:
    last = one.log[-1] if one.log else None
    return (
        str(one.id),
        one.type,
        str(one.job_id or one.submission_id or ""),
        one.state,
        str(one.tries),
        "" if last is None else last.error or f"{last.status} in {last.seconds:g} s",
        "" if one.next_try_at is None else _moment(one.next_try_at),
        _moment(one.created_at),
    )


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S%z}"
