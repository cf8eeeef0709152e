"""The heartbeat: renews the lease, hears the ledger, rescues others' jobs.

It may wait for the database as long as that is silent; `watchdog` says what ends a process.
"""

import threading
from collections.abc import Callable
from uuid import UUID

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from twofold_schema.database import is_transient
from twofold_schema.ledger import outcomes, runs, sweeps
from twofold_worker.holdings import Holdings
from twofold_worker.progress import Progress

log = structlog.get_logger(__name__)

#: Beats per lease: four may be lost.
BEATS = 5


class Heartbeat:
    """Beats until told to stop, in a thread of its own.

    Args:
        run_id: Of this process's run.
        engine: Of the database.
        lease_seconds: The run's lease.
        progress: Of the process, of which each beat is a part.
        holdings: What the process has in hand.
        draining: Whether the process takes no more work.
        drain: Called with every beat that hears that the process is to finish.
        broken: Called when the run is lost, or the database refuses a beat for good: the process
            must end.
    """

    def __init__(
        self,
        *,
        run_id: UUID,
        engine: Engine,
        lease_seconds: float,
        progress: Progress,
        holdings: Holdings,
        draining: Callable[[], bool],
        drain: Callable[[], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self._run_id = run_id
        self._engine = engine
        self._lease_seconds = lease_seconds
        self._progress = progress
        self._holdings = holdings
        self._draining = draining
        self._drain = drain
        self._broken = broken
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """End the beat."""
        self._stop.set()
        self._thread.join()

    def _beat_on(self) -> None:
        every = self._lease_seconds / BEATS
        while not self._stop.wait(every):
            try:
                with self._progress.asking("heartbeat"):
                    self._beat(every)
            except Exception as error:  # noqa: BLE001 - a run that cannot beat must not live on
                if not (isinstance(error, DBAPIError) and is_transient(error)):
                    return self._broken(error)
                # An outage is nobody's fault; rescue is patient after it.
                log.warning("database_away", error=str(error.orig))
        return None

    def _beat(self, every: float) -> None:
        with self._engine.begin() as connection:
            renewal = runs.renew(connection, self._run_id, holding=len(self._holdings))
            if self._draining():
                runs.drain(connection, self._run_id)
        if renewal.drain:
            self._drain()
        lost_replies = self._holdings.reconcile(renewal.held)
        if lost_replies:
            log.info("claims_released", count=len(lost_replies), reason="reply_lost")
            with self._engine.begin() as connection:
                outcomes.release(connection, self._run_id, lost_replies)
        with self._engine.begin() as connection:
            rescued = sweeps.rescue(connection, every_seconds=every)
        if rescued:
            log.info("rescued", count=rescued)
