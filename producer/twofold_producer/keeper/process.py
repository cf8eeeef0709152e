"""One keeper process: builds the real parts and does all duties until SIGTERM."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta

import structlog

from twofold_producer.broker import Bell
from twofold_producer.keeper.duties import (
    count_duties,
    fold_duties,
    ledger_duties,
    operation_duties,
    reporting_duties,
    storage_duties,
    webhook_duties,
)
from twofold_producer.keeper.loop import Keeper
from twofold_producer.keeper.webhooks import Outbox
from twofold_schema import database
from twofold_schema.settings import (
    BrokerSettings,
    DatabaseSettings,
    KeeperSettings,
    LimitSettings,
    StorageSettings,
    WebhookSettings,
)
from twofold_schema.storage.places import OpenPlaces

log = structlog.get_logger(__name__)

#: What a stopping loop may take beyond its last statement.
_FAREWELL_SECONDS = 5.0


def run(
    settings: KeeperSettings,
    wanted: DatabaseSettings,
    broker: BrokerSettings,
    places: StorageSettings,
    limits: LimitSettings,
    *,
    webhooks: WebhookSettings,
) -> None:
    """Keep until SIGTERM or SIGINT; raises what no waiting mends."""
    # Who only wants to know what `twofold` can do shall not pay for an HTTP client.
    from twofold_producer.keeper.posting import Poster

    # Two pools: what waits for storage with a connection in its hands leaves none for rescue.
    engine, for_storage = database.connect(wanted), database.connect(wanted)
    bell = Bell(broker)
    every = settings.keeper_seconds
    of_rows = Keeper(
        ledger_duties(
            engine,
            bell,
            every_seconds=every,
            seal_after=timedelta(hours=settings.seal_after_hours),
            largest_pool=limits.largest_pool,
        ),
        every_seconds=every,
    )
    of_counts = Keeper(count_duties(engine, settings), every_seconds=every)
    of_folds = Keeper(fold_duties(engine), every_seconds=every, hurries=True)
    of_operations = Keeper(operation_duties(engine, bell), every_seconds=every)
    storage, results = OpenPlaces(places), places.results_uri
    of_storage = Keeper(
        storage_duties(for_storage, storage, results, settings), every_seconds=every
    )
    of_submissions = Keeper(reporting_duties(for_storage, storage, results), every_seconds=every)
    threads = webhooks.webhook_threads
    poster = Poster(webhooks.egress, seconds=webhooks.webhook_timeout_seconds, threads=threads)
    outbox = Outbox(engine, poster.send, threads=threads)
    of_webhooks = Keeper(webhook_duties(engine, outbox, webhooks), every_seconds=every)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    together = Together(stop, patience_seconds=wanted.database_timeout_seconds + _FAREWELL_SECONDS)
    try:
        together.run(
            of_rows.run,
            of_counts.run,
            of_folds.run,
            of_operations.run,
            of_storage.run,
            of_submissions.run,
            of_webhooks.run,
        )
        outbox.close()
    finally:
        poster.close()
        bell.close()
        engine.dispose()
        for_storage.dispose()


class Together:
    """Loops that end together: a keeper that does half of its duties is no keeper.

    Args:
        stop: Set when all shall end; also by the end of one.
        patience_seconds: For those that are slow to end.
    """

    def __init__(self, stop: threading.Event, *, patience_seconds: float) -> None:
        self._stop = stop
        self._patience_seconds = patience_seconds
        self._failures: list[BaseException] = []

    def run(self, *loops: Callable[[threading.Event], None]) -> None:
        """Run loops until all have ended; raises what ended one of them.

        One that hangs on a silent store is left to its fate, and this process ends: all that a
        keeper does may be cut off anywhere.
        """
        threads = [threading.Thread(target=self._keep, args=(loop,), daemon=True) for loop in loops]
        for thread in threads:
            thread.start()
        while not self._stop.is_set():  # `wait` would keep its lock from the signal's handler
            threads[0].join(0.1)
        until = time.monotonic() + self._patience_seconds
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            log.warning("ended_while_storage_was_silent")
            for failure in self._failures:
                traceback.print_exception(failure)
            # The interpreter would wait for pools' threads.
            sys.stderr.flush()
            os._exit(1 if self._failures else 0)
        for failure in self._failures:
            raise failure

    def _keep(self, loop: Callable[[threading.Event], None]) -> None:
        try:
            loop(self._stop)
        except BaseException as failure:  # noqa: BLE001 - raised by `run`
            self._failures.append(failure)
        finally:
            self._stop.set()
