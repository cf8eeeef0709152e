"""`twofold pause`, `twofold resume`, `twofold pauses`: what is not claimed from for a while."""

import json
import sys
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from twofold_producer.cli import door
from twofold_producer.cli.app import EXIT_NOT_FOUND, AskerOption, YesOption, agree, cell, err, out
from twofold_producer.cli.submissions import Form
from twofold_schema.states import JobClass

_Tenant = Annotated[str | None, typer.Option(help="Only this tenant's jobs.")]
_Class = Annotated[JobClass | None, typer.Option("--class", help="Only this class.")]


def pause(
    *,
    tenant: _Tenant = None,
    job_class: _Class = None,
    reason: Annotated[str, typer.Option(help="Why, for whoever asks why nothing moves.")],
    who: AskerOption = None,
    yes: YesOption = False,
) -> None:
    """Let no worker take more of a tenant's jobs, of a class's, of both, or any at all.

    What runs goes on; what waits keeps its place, and its deadlines hold.
    """
    with door.opened() as opened:
        scope = scope_of(tenant, job_class, everything=opened.everything)
        if tenant is None and job_class is None:
            agree(f"Pause {scope}?", yes=yes)
        opened.pause(tenant=tenant, job_class=job_class, reason=reason, who=who)
    out.print(Text(f"paused {scope}"))


def resume(
    *,
    tenant: _Tenant = None,
    job_class: _Class = None,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    who: AskerOption = None,
) -> None:
    """End the pause of exactly this scope; ends with 5 if there is none."""
    with door.opened() as opened:
        scope = scope_of(tenant, job_class, everything=opened.everything)
        ended = opened.resume(tenant=tenant, job_class=job_class, reason=reason, who=who)
    if not ended:
        err.print(Text(f"There is no pause of {scope}; `twofold pauses` lists those there are."))
        raise typer.Exit(EXIT_NOT_FOUND)
    out.print(Text(f"resumed {scope}"))


def pauses(
    *, output: Annotated[Form, typer.Option("--output", "-o", help="How to print.")] = Form.TABLE
) -> None:
    """List what is paused, longest first."""
    with door.opened() as opened:
        found = opened.pauses()
    if output is Form.JSON:
        plain = [one.model_dump(mode="json") for one in found]
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("paused", "since", "who", "reason"):
        table.add_column(column)
    for one in found:
        since = f"{one.paused_at:%Y-%m-%d %H:%M:%S%z}"
        scope = scope_of(one.tenant, one.job_class, everything="everything")
        table.add_row(*map(cell, (scope, since, one.paused_by, one.reason)))
    out.print(table)


def scope_of(tenant: str | None, job_class: JobClass | None, *, everything: str) -> str:
    """A pause's scope in words."""
    named = [f"tenant {tenant}"] if tenant is not None else []
    named += [f"class {job_class}"] if job_class is not None else []
    return ", ".join(named) or everything
