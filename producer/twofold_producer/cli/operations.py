"""`twofold operations …`: what was asked for by filter; who paused, set shares, made keys."""

import json
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from twofold_producer.cli import door
from twofold_producer.cli.app import EXIT_INTERRUPTED, AskerOption, cell, err, out, say_more
from twofold_producer.cli.door import Door
from twofold_producer.cli.jobs import Output, OutputOption
from twofold_producer.cli.submissions import Form
from twofold_producer.progress import Bar
from twofold_schema.errors import WaitTimeout
from twofold_schema.operation import OperationKind
from twofold_schema.wire import OperationReport

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="What was asked for by filter, and by whom."
)

_LOOK_SECONDS = 0.3
_STILL_SECONDS = 10.0

_OperationId = Annotated[UUID, typer.Argument(metavar="ID", help="Id of an operation.")]


@app.command("list")
def list_(
    context: typer.Context,
    *,
    kind: Annotated[list[OperationKind] | None, typer.Option(help="Only these kinds.")] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Only those that go on.")
    ] = False,
    before: Annotated[UUID | None, typer.Option(help="The last id of the page before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what was asked for, newest first: cancels, retries, pauses, shares, rights, keys."""
    with door.opened() as opened:
        found = opened.operations(
            kinds=kind or (), unfinished=unfinished, before=before, limit=limit
        )
    if output is Output.TABLE:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("id", "kind", "of", "jobs", "state", "who", "when", "reason"):
            table.add_column(column, no_wrap=column in {"id", "kind"})
        for one in found:
            table.add_row(*map(cell, _cells(one)))
        out.print(table)
        if len(found) == limit and (last := found[-1].id):
            say_more(context, last)
    elif output is Output.JSON:
        sys.stdout.write(json.dumps([plain(one) for one in found], indent=2) + "\n")
    else:
        for one in found:
            line = str(one.id) if output is Output.IDS else json.dumps(plain(one))
            sys.stdout.write(f"{line}\n")


@app.command()
def get(
    operation_id: _OperationId,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it until it is done.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait.")] = None,
    output: Annotated[Form, typer.Option("--output", "-o", help="How to print.")] = Form.TABLE,
) -> None:
    """Show who asked for what and why, and how far it is."""
    with door.opened() as opened:
        if wait:
            show(watch(opened, operation_id, timeout=timeout), output)
        else:
            show(opened.operation(operation_id), output)


@app.command()
def stop(
    operation_id: _OperationId,
    *,
    who: AskerOption = None,
    output: Annotated[Form, typer.Option("--output", "-o", help="How to print.")] = Form.TABLE,
) -> None:
    """End a cancel or a retry before it is done; what it has done stays."""
    with door.opened() as opened:
        show(opened.stop(operation_id, who=who), output)


def watch(asked: Door, operation_id: UUID, *, timeout: float | None = None) -> OperationReport:
    """Follow an operation until it is done: a bar on a terminal, a line now and then elsewhere.

    Args:
        asked: How far it is.
        operation_id: Of the operation.
        timeout: In seconds; None waits for ever.

    Raises:
        OperationNotFound: None has this id.
        WaitTimeout: Time is over; the operation goes on.
    """
    follow = f"twofold operations get --wait {operation_id}"
    began = said = moved = time.monotonic()
    jobs = 0
    try:
        err.print(f"Operation {operation_id}", style="dim")
        with Bar("working", done="jobs are done", console=err) as bar:
            while True:
                operation, now = asked.operation(operation_id), time.monotonic()
                moved, jobs = (now if operation.jobs != jobs else moved), operation.jobs
                bar.tell(jobs, operation.expected, what=operation.kind)
                if operation.finished_at is not None:
                    return operation
                if timeout is not None and now - began > timeout:
                    raise WaitTimeout(f"The operation goes on. Follow it with: {follow}")
                if now - max(said, moved) > _STILL_SECONDS:
                    said = now
                    err.print(
                        "No job was done for a while. Does a keeper run? `twofold doctor` looks."
                    )
                time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        err.print(
            f"\nThe operation goes on. Follow it with: {follow}\n"
            f"Stop it with: twofold operations stop {operation_id}",
            soft_wrap=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None


def show(operation: OperationReport, output: Form) -> None:
    """Print an operation."""
    if output is Form.JSON:
        sys.stdout.write(json.dumps(plain(operation), indent=2) + "\n")
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in plain(operation).items():
        said = told(value) if isinstance(value, dict) else "" if value is None else str(value)
        table.add_row(Text(name, "bold"), cell(said))
    out.print(table)


def plain(operation: OperationReport) -> dict[str, Any]:
    """An operation as JSON has it, of its filter what is stated."""
    return operation.model_dump(mode="json") | {"filter": operation.filter.to_json()}


def told(counts: Mapping[str, Any]) -> str:
    """Counts, a filter or a change, in a line."""
    if counts and all(isinstance(count, int) for count in counts.values()):
        return ", ".join(f"{count} {answer}" for answer, count in sorted(counts.items()))
    return " ".join(f"{name}={_word(value)}" for name, value in counts.items()) or "none"


def _word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _cells(one: OperationReport) -> tuple[str, ...]:
    scope = one.filter.to_json() | dict(one.change or {})
    going = "goes on" if one.finished_at is None else "done"
    return (
        str(one.id),
        one.kind,
        told(scope) if scope else "everything",
        str(one.jobs) if one.counts else "",
        f"stopped by {one.stopped_by}" if one.stopped_by else going,
        one.who,
        f"{one.created_at:%Y-%m-%d %H:%M:%S%z}",
        one.reason,
    )
