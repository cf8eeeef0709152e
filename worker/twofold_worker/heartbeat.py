"""The heartbeat: renews the lease while work gets on, hears the ledger, rescues others' jobs.

It also holds the watchdog. `faulthandler`'s timer runs in a thread of C that needs no GIL: unless
every beat winds it up again, it prints where each thread stands and ends the process. So a process
whose GIL is held dies like one whose stage hangs.
"""

import faulthandler
import threading
from collections.abc import Callable
from uuid import UUID

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from twofold_schema.errors import TwofoldError
from twofold_schema.ledger import outcomes, runs, sweeps
from twofold_worker.holdings import Holdings
from twofold_worker.progress import Progress

log = structlog.get_logger(__name__)

#: Beats per lease: four may be lost.
BEATS = 5


class Stalled(TwofoldError):
    """A stage that holds work stands still; the process is replaced."""

    code = "stalled"


class Heartbeat:
    """Beats until told to stop, in a thread of its own.

    Args:
        run_id: Of this process's run.
        engine: Of the database.
        lease_seconds: The run's lease.
        progress: Of the stages.
        holdings: What the process has in hand.
        draining: Whether the process takes no more work.
        drain: Called with every beat once the process is to finish.
        broken: Called when the run is lost or a stage stalls: the process must end.
        alive: Called with every beat, for whoever watches from outside.
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
        alive: Callable[[], None],
    ) -> None:
        self._run_id = run_id
        self._engine = engine
        self._lease_seconds = lease_seconds
        self._progress = progress
        self._holdings = holdings
        self._draining = draining
        self._drain = drain
        self._broken = broken
        self._alive = alive
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat; the watchdog is wound up from now on."""
        self._wind_up()
        self._thread.start()

    def stop(self) -> None:
        """End the beat and the watchdog."""
        self._stop.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _wind_up(self) -> None:
        # Beyond its lease the process is of no use: others may have its jobs.
        faulthandler.dump_traceback_later(self._lease_seconds, exit=True)

    def _beat_on(self) -> None:
        every = self._lease_seconds / BEATS
        while not self._stop.wait(every):
            try:
                self._beat(every)
            except DBAPIError as error:
                # An outage is nobody's fault; rescue is patient after it.
                log.warning("database_away", error=str(error.orig))
            except Exception as error:  # noqa: BLE001 - a run that cannot beat must not live on
                return self._broken(error)
            self._wind_up()
        return None

    def _beat(self, every: float) -> None:
        stalled = self._progress.stalled()
        if stalled:
            raise Stalled(f"{', '.join(stalled)} got no further; the process is replaced.")
        self._alive()
        if self._draining():
            # Before the ledger is asked: its outage must not put off the end.
            self._drain()
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
