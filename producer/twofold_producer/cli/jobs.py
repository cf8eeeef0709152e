"""`twofold jobs …`, and how jobs are printed and waited for."""

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from twofold_producer.cli import door
from twofold_producer.cli.app import (
    EXIT_INTERRUPTED,
    EXIT_JOBS_FAILED,
    cell,
    err,
    out,
    pairs,
    printable,
    say_more,
)
from twofold_producer.cli.door import Door
from twofold_producer.progress import Bar
from twofold_schema.artifacts import publish_place
from twofold_schema.states import JobState
from twofold_schema.wire import JobReport

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Look at jobs and change their course."
)

_COLOURS = {
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.EXPIRED: "red",
    JobState.CANCELLED: "yellow",
    JobState.RUNNING: "cyan",
}


class Output(StrEnum):
    """How lists are printed."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    IDS = "ids"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print.")]
JobIds = Annotated[list[UUID], typer.Argument(metavar="ID...", help="Ids of jobs.")]


@app.command("list")
def list_(
    context: typer.Context,
    *,
    state: Annotated[list[JobState] | None, typer.Option(help="Only these states.")] = None,
    submission: Annotated[UUID | None, typer.Option(help="Only this submission.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Only with this pair, of --tenant or the default."),
    ] = None,
    before: Annotated[UUID | None, typer.Option(help="The last id of the page before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """List jobs, newest first."""
    wanted = pairs(metadata or [])
    with door.opened() as opened:
        found = opened.find(
            tenant=tenant,
            states=state or (),
            submission=submission,
            metadata=wanted,
            before=before,
            limit=limit,
        )
    show(found, output)
    if len(found) == limit and output is Output.TABLE:
        say_more(context, found[-1].id)


@app.command()
def get(
    job_ids: JobIds,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they have ended.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait.")] = None,
    output: OutputOption = Output.JSON,
) -> None:
    """Show all there is to know about jobs."""
    with door.opened() as opened:
        if wait:
            wait_for(opened, job_ids, timeout, output)
        else:
            show(opened.get(job_ids), output)


def wait_for(asked: Door, job_ids: Sequence[UUID], timeout: float | None, output: Output) -> None:
    """Wait until jobs have ended, and print what came of them; ends with 3 if one did not succeed.

    Args:
        asked: For the jobs.
        job_ids: Theirs.
        timeout: In seconds; None waits for ever.
        output: How to print.
    """
    try:
        with Bar("upscaling", done="jobs have ended", console=err) as bar:
            ended = asked.wait(job_ids, timeout=timeout, on_progress=bar.tell)
    except KeyboardInterrupt:
        ids = " ".join(str(job_id) for job_id in job_ids)
        err.print(
            f"\nThe jobs go on. Wait again with: twofold jobs get --wait {ids}", soft_wrap=True
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if output is Output.TABLE:
        for job in ended:
            if job.result is not None:
                sys.stdout.write(f"{job.result.uri}\n")
            else:
                reason = f"{job.error.code}: {job.error.message}" if job.error else ""
                err.print(cell(f"{job.id} {job.state} {reason}"), soft_wrap=True)
        for name in filter(None, (publish_place(job) for job in ended if job.result)):
            err.print(cell(f"Soon also: {name}", "dim"), soft_wrap=True)
        _say_who_made(ended)
    else:
        show(ended, output)
    if any(job.state is not JobState.SUCCEEDED for job in ended):
        raise typer.Exit(EXIT_JOBS_FAILED)


def show(jobs: Sequence[JobReport], output: Output) -> None:
    """Print jobs."""
    if output is Output.IDS:
        for job in jobs:
            sys.stdout.write(f"{job.id}\n")
    elif output is Output.JSONL:
        for job in jobs:
            sys.stdout.write(json.dumps(job.model_dump(mode="json")) + "\n")
    elif output is Output.JSON:
        plain = [job.model_dump(mode="json") for job in jobs]
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("id", "state", "size", "attempts", "error", "source"):
            # The last two are what gives way on a narrow terminal.
            table.add_column(
                column,
                no_wrap=column not in {"error", "source"},
                min_width=36 if column == "id" else None,
            )
        for job in jobs:
            table.add_row(*_cells(job))
        out.print(table)
        _say_who_made(jobs)


def _say_who_made(jobs: Sequence[JobReport]) -> None:
    """The demo model's pictures must not be taken for the real one's."""
    models = sorted({job.result.model for job in jobs if job.result})
    if models:
        err.print(cell(f"Made by: {', '.join(models)}", "dim"), soft_wrap=True)


def _cells(job: JobReport) -> tuple[str | Text, ...]:
    flag = " (cancelling)" if job.cancelling else " (retrying)" if job.retrying else ""
    colour = _COLOURS.get(job.state, "white")
    size = f"{job.result.width}x{job.result.height}" if job.result else ""
    return (
        str(job.id),
        f"[{colour}]{job.state}{flag}[/]",
        size,
        f"{job.attempts}/{job.max_attempts}",
        _on_one_line(job.error.code if job.error else ""),
        _on_one_line(job.source),
    )


def _on_one_line(text: str) -> Text:
    # As Text: a name may look like markup.
    return Text(printable(text), no_wrap=True, overflow="ellipsis")
