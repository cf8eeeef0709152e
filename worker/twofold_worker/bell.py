"""How the worker hears the bell: Celery's consumer, which lasts while Redis refuses to serve."""

import time
from typing import TYPE_CHECKING

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

if TYPE_CHECKING:
    from kombu import Connection

#: As long as kombu waits after a connection that failed for the first time.
_PAUSE_SECONDS = 2


class Listener(Consumer):
    """Tries again and again, and keeps nothing open of the tries that failed.

    A Redis that is read-only or full can be connected to, so that Celery would try six times a
    second, with two sockets left open each time: in two minutes a process had no more to open.
    """

    # Celery's types leave it out.
    channel_errors: tuple[type[Exception], ...]

    _opened: "Connection | None" = None

    def ensure_connected(self, conn: "Connection") -> "Connection":
        """As Celery's."""
        self._opened = conn
        return super().ensure_connected(conn)

    def connect(self) -> "Connection":
        """As Celery's, but a connection whose first use failed is closed."""
        try:
            return super().connect()
        except Exception:
            if self._opened is not None:
                self._opened.release()
            raise

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """As Celery's, after which it begins anew."""
        super().on_connection_error_before_connected(exc)
        self._pause(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """As Celery's, after which it begins anew."""
        super().on_connection_error_after_connected(exc)
        self._pause(exc)

    def _pause(self, error: Exception) -> None:
        # Where the connection is what failed, connecting anew waits.
        if isinstance(error, self.channel_errors):
            for _ in range(_PAUSE_SECONDS):
                time.sleep(1)
                maybe_shutdown()
