"""`twofold db`, `twofold keeper`, `twofold worker`: what a deployment runs."""

import importlib.util
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import typer

from twofold_producer.broker import Bell
from twofold_producer.cli.app import out
from twofold_producer.keeper import Keeper, ledger_duties, storage_duties
from twofold_schema import database, log
from twofold_schema.errors import ConfigError
from twofold_schema.settings import (
    BrokerSettings,
    DatabaseSettings,
    KeeperSettings,
    LogSettings,
    StorageSettings,
)
from twofold_schema.storage.places import OpenPlaces

database_app = typer.Typer(no_args_is_help=True)


@database_app.callback()
def _group() -> None:
    """Keep `db` a group, though it has one command so far."""


@database_app.command()
def migrate() -> None:
    """Bring the job table to this version. Safe to repeat."""
    database.migrate(DatabaseSettings.load())
    out.print("The job table is up to date.")


def keeper() -> None:
    """Promote, expire, rescue, ring, publish, collect, until SIGTERM. Run one or more, always."""
    log.configure(LogSettings.load())
    settings = KeeperSettings.load()
    engine = database.connect(DatabaseSettings.load())
    bell = Bell(BrokerSettings.load())
    places = StorageSettings.load()
    every = settings.keeper_seconds
    of_rows = Keeper(ledger_duties(engine, bell, every_seconds=every), every_seconds=every)
    of_storage = Keeper(
        storage_duties(engine, OpenPlaces(places), places.results_uri, settings),
        every_seconds=every,
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # A keeper that does half of its duties is no keeper: one that fails ends the other too.
    with ThreadPoolExecutor(2, "keeper") as pool:
        kept = [pool.submit(_keep, one, stop) for one in (of_rows, of_storage)]
    bell.close()
    engine.dispose()
    for one in kept:
        one.result()


def _keep(one: Keeper, stop: threading.Event) -> None:
    try:
        one.run(stop)
    finally:
        stop.set()


def worker(context: typer.Context) -> None:
    """Run GPU worker processes until SIGTERM. `twofold worker --help` has its options."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("The worker is not installed; run `pip install 'twofold[worker]'`.")
    # In this process's place, so that signals and the exit code need no passing on.
    command = [sys.executable, "-m", "twofold_worker", *context.args]
    os.execv(sys.executable, command)  # noqa: S606 - no shell, and all of it is ours
