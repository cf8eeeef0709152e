"""`twofold db`, `keeper`, `api`, `worker`: what a deployment runs."""

import importlib.util
import os
import sys
from typing import Annotated

import typer

from twofold_producer.cli.app import out
from twofold_producer.cli.door import database_settings
from twofold_producer.keeper import process
from twofold_schema import database, log
from twofold_schema.errors import ConfigError
from twofold_schema.settings import (
    ApiSettings,
    BrokerSettings,
    KeeperSettings,
    LimitSettings,
    LogSettings,
    StorageSettings,
    WebhookSettings,
)

database_app = typer.Typer(no_args_is_help=True, add_completion=False, help="The job table.")
worker_app = typer.Typer(add_completion=False)


@database_app.command()
def migrate() -> None:
    """Bring the job table to this version. Safe to repeat."""
    database.migrate(database_settings())
    out.print("The job table is up to date.")


def keeper() -> None:
    """Promote, expire, rescue, ring, operate, add up, publish, collect, tell, until SIGTERM.

    Run one or more.
    """
    log.configure(LogSettings.load())
    process.run(
        KeeperSettings.load(),
        database_settings(),
        BrokerSettings.load(),
        StorageSettings.load(),
        LimitSettings.load(),
        webhooks=WebhookSettings.load(),
    )


def api(
    *,
    host: Annotated[str | None, typer.Option(help="Listen here, not on TWOFOLD_API_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 for a free one.")] = None,
) -> None:
    """Serve the HTTP API until SIGTERM. Run one or more."""
    if importlib.util.find_spec("fastapi") is None:
        raise ConfigError("The API is not installed; run `pip install 'twofold[api]'`.")
    from twofold_producer.api import app

    log.configure(LogSettings.load())
    stated = {"api_host": host, "api_port": port}
    settings = ApiSettings.load().model_copy(
        update={name: value for name, value in stated.items() if value is not None}
    )
    service = app.build(
        settings,
        database_settings(),
        BrokerSettings.load(),
        StorageSettings.load(),
        LimitSettings.load(),
    )
    app.server(service, settings).run()


# Its options are the worker's own.
@worker_app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def worker(context: typer.Context) -> None:
    """Run GPU worker processes until SIGTERM. `twofold worker --help` has its options."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("The worker is not installed; run `pip install 'twofold[worker]'`.")
    # In this process's place, so that signals and the exit code need no passing on.
    command = [sys.executable, "-m", "twofold_worker", *context.args]
    os.execv(sys.executable, command)  # noqa: S606 - no shell, and all of it is ours
