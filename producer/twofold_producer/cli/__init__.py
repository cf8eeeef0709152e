"""The command `twofold`. Data goes to standard output, everything else to standard error."""

import sys
from typing import NoReturn

from sqlalchemy.exc import DBAPIError

from twofold_producer.cli import (
    config,
    course,
    jobs,
    keys,
    local,
    operations,
    pauses,
    serve,
    submissions,
    tenants,
    webhooks,
)
from twofold_producer.cli.app import EXIT_CODES, app, err
from twofold_producer.cli.check import check
from twofold_producer.cli.collect import collect
from twofold_producer.cli.doctor import doctor
from twofold_producer.cli.submit import submit
from twofold_schema.database import is_transient
from twofold_schema.errors import DatabaseUnavailable, TwofoldError

__all__ = ["main"]

serve.database_app.command()(check)
jobs.app.command()(course.cancel)
jobs.app.command()(course.retry)
app.add_typer(jobs.app, name="jobs", help="Look at jobs and change their course.")
app.add_typer(submissions.app, name="submissions", help="Look at what was submitted together.")
app.add_typer(operations.app, name="operations", help="What was asked for by filter, and by whom.")
app.add_typer(tenants.app, name="tenants", help="What tenants are due, may do, and have.")
app.add_typer(keys.app, name="keys", help="API keys: who may ask over HTTP.")
app.add_typer(webhooks.app, name="webhooks", help="Who is told what happened, and what arrives.")
app.add_typer(serve.database_app, name="db", help="The job table.")
app.add_typer(config.app, name="config", help="The settings.")
for command in (
    submit,
    pauses.pause,
    pauses.resume,
    pauses.pauses,
    serve.keeper,
    serve.api,
    doctor,
    collect,
    local.dev,
    local.demo,
):
    app.command()(command)
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)(serve.worker)


def main() -> NoReturn:
    """Run the command line; errors become one line and an exit code."""
    try:
        app(prog_name="twofold")
    except TwofoldError as error:
        _end(error)
    except DBAPIError as error:
        if not is_transient(error):
            raise
        _end(DatabaseUnavailable(f"{DatabaseUnavailable().message} ({error.orig})"))
    sys.exit(0)


def _end(error: TwofoldError) -> NoReturn:
    err.print(f"[bold red]twofold:[/] {error.code}:", end=" ")
    err.print(error.message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(next((status for kind, status in EXIT_CODES if isinstance(error, kind)), 1))
