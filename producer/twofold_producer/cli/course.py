"""`twofold jobs cancel` and `twofold jobs retry`: by id, or by filter as an operation."""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer

from twofold_producer.cli import door, operations
from twofold_producer.cli.app import (
    EXIT_NOT_FOUND,
    AskerOption,
    YesOption,
    agree,
    err,
    given,
    out,
)
from twofold_producer.cli.jobs import app
from twofold_producer.cli.submissions import Form
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.states import CancelAnswer, JobClass, JobState


def _moment(said: str) -> datetime:
    try:
        moment = datetime.fromisoformat(said)
    except ValueError:
        raise typer.BadParameter(f"{said!r} is no time; write 2026-11-26T12:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_Ids = Annotated[
    list[UUID] | None, typer.Argument(metavar="ID...", help="Ids of jobs; without, a filter.")
]
_Tenant = Annotated[str | None, typer.Option(help="Only this tenant's jobs.")]
_Class = Annotated[JobClass | None, typer.Option("--class", help="Only this class.")]
_States = Annotated[list[JobState] | None, typer.Option("--state", help="Only these states.")]
_Submission = Annotated[UUID | None, typer.Option(help="Only this submission.")]
_After = Annotated[
    datetime | None,
    typer.Option(parser=_moment, metavar="TIME", help="Submitted then or later; UTC unless said."),
]
_Before = Annotated[
    datetime | None, typer.Option(parser=_moment, metavar="TIME", help="Submitted earlier.")
]
_Error = Annotated[str | None, typer.Option(metavar="CODE", help="Whose last error was this.")]
_Reason = Annotated[str | None, typer.Option(help="Why; must be said with a filter.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count; nothing is changed.")]
_Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Watch it until it is done.")]
_Output = Annotated[Form, typer.Option("--output", "-o", help="How to print the operation.")]

#: What is said of an operation, which ids make none of.
_BY_FILTER = {"reason", "who", "dry_run", "wait", "output"}


@app.command()
def cancel(
    context: typer.Context,
    job_ids: _Ids = None,
    *,
    tenant: _Tenant = None,
    job_class: _Class = None,
    states: _States = None,
    submission: _Submission = None,
    created_after: _After = None,
    created_before: _Before = None,
    reason: _Reason = None,
    who: AskerOption = None,
    dry_run: _DryRun = False,
    yes: YesOption = False,
    wait: _Wait = True,
    output: _Output = Form.TABLE,
) -> None:
    """Call jobs off, by id or by filter. A running one ends when its worker confirms."""
    where = JobFilter(
        tenant=tenant,
        job_class=job_class,
        states=tuple(states) if states else None,
        submission_id=submission,
        created_after=created_after,
        created_before=created_before,
    )
    if _by_id(context, job_ids, where):
        with door.opened() as opened:
            answers = opened.cancel(job_ids or [])
        for job_id, answer in answers.items():
            out.print(f"{job_id} {answer}")
        if CancelAnswer.NOT_FOUND in answers.values():
            raise typer.Exit(EXIT_NOT_FOUND)
        return
    _operate(
        OperationKind.CANCEL,
        where,
        reason=reason,
        who=who,
        dry_run=dry_run,
        yes=yes,
        wait=wait,
        output=output,
    )


@app.command()
def retry(
    context: typer.Context,
    job_ids: _Ids = None,
    *,
    tenant: _Tenant = None,
    job_class: _Class = None,
    states: _States = None,
    submission: _Submission = None,
    created_after: _After = None,
    created_before: _Before = None,
    error: _Error = None,
    reason: _Reason = None,
    who: AskerOption = None,
    dry_run: _DryRun = False,
    yes: YesOption = False,
    wait: _Wait = True,
    output: _Output = Form.TABLE,
) -> None:
    """Give failed or expired jobs a new generation, by id or by filter."""
    where = JobFilter(
        tenant=tenant,
        job_class=job_class,
        states=tuple(states) if states else None,
        submission_id=submission,
        created_after=created_after,
        created_before=created_before,
        error=error,
    )
    if _by_id(context, job_ids, where):
        with door.opened() as opened:
            for job_id in opened.retry(job_ids or []):
                out.print(f"{job_id} queued")
        return
    _operate(
        OperationKind.RETRY,
        where,
        reason=reason,
        who=who,
        dry_run=dry_run,
        yes=yes,
        wait=wait,
        output=output,
    )


def _by_id(context: typer.Context, job_ids: list[UUID] | None, where: JobFilter) -> bool:
    if bool(job_ids) == bool(where.to_json()):
        raise typer.BadParameter("give ids, or a filter (--tenant, --state, …)")
    if job_ids and given(context) & _BY_FILTER:
        raise typer.BadParameter(
            "with ids there is no --dry-run, --reason, --who, --wait or --output"
        )
    return bool(job_ids)


def _operate(
    kind: OperationKind,
    where: JobFilter,
    *,
    reason: str | None,
    who: str | None,
    dry_run: bool,
    yes: bool,
    wait: bool,
    output: Form,
) -> None:
    if not dry_run and not reason:
        raise typer.BadParameter("say why with --reason, for whoever reads it later")
    with door.opened() as opened:
        counts = opened.count(kind, where)
        total = sum(counts.values())
        if dry_run:
            _say_counts(counts, output)
            err.print("A dry run: nothing was changed.", style="dim")
            return
        if not total:
            err.print("No job matches; nothing was changed.")
            return
        agree(f"{kind.capitalize()} {total} jobs ({operations.told(counts)})?", yes=yes)
        operation = opened.operate(kind, where, reason=reason or "", who=who, expected=total)
        if wait and operation.id is not None:
            operation = operations.watch(opened, operation.id)
    operations.show(operation, output)


def _say_counts(counts: Mapping[str, Any], output: Form) -> None:
    if output is Form.JSON:
        sys.stdout.write(json.dumps(dict(counts)) + "\n")
    else:
        out.print(operations.told(counts))
