"""The watchdog: ends a process that is stuck, and tells whoever watches from outside that it lives.

Its thread asks nobody anything. A database that is silent keeps the heartbeat waiting, and whoever
has something to settle, and no process is to die for that. `faulthandler`'s timer runs in a thread
of C that needs no GIL: unless every look winds it up again, it prints where each thread stands and
ends the process. So a process whose GIL is held dies like one whose stage hangs.

A heartbeat that waits for ever ends it only if the database answers others (`Progress.asking`). If
not, a new process could do no more: the lease ends in the database's clock, fences keep what is
late from doing harm, and TCP ends what waits for a peer that has vanished.
"""

import faulthandler
import threading
from collections.abc import Callable

from twofold_schema.errors import TwofoldError
from twofold_worker.progress import Progress

#: Looks per lease.
LOOKS = 5


class Stalled(TwofoldError):
    """A stage that holds work stands still; the process is replaced."""

    code = "stalled"


class Watchdog:
    """Looks until told to stop, in a thread of its own.

    Args:
        lease_seconds: The run's lease; a process that is stuck for so long is ended.
        progress: Of the stages and the heartbeat.
        draining: Whether the process takes no more work.
        drain: Called with every look once that is so.
        broken: Called when a stage stalls: the process must end.
        alive: Called with every look, for whoever watches from outside.
    """

    def __init__(
        self,
        *,
        lease_seconds: float,
        progress: Progress,
        draining: Callable[[], bool],
        drain: Callable[[], None],
        broken: Callable[[BaseException], None],
        alive: Callable[[], None],
    ) -> None:
        self._lease_seconds = lease_seconds
        self._progress = progress
        self._draining = draining
        self._drain = drain
        self._broken = broken
        self._alive = alive
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._wind_up()
        self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._stop.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def let_go(self) -> None:
        """Wind the timer up no more: whatever the process still does, it ends within a lease."""
        self._stop.set()

    def _wind_up(self) -> None:
        # Beyond its lease the process is of no use: others may have its jobs.
        faulthandler.dump_traceback_later(self._lease_seconds, exit=True)

    def _watch(self) -> None:
        while not self._stop.wait(self._lease_seconds / LOOKS):
            self._wind_up()
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - what nobody watches must not live on
                return self._broken(error)
        return None

    def _look(self) -> None:
        stalled = self._progress.stalled()
        if stalled:
            raise Stalled(f"{', '.join(stalled)} got no further; the process is replaced.")
        self._alive()
        if self._draining():
            self._drain()
