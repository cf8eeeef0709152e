"""The bell: sends tickets over Celery. Ringing never raises and never waits for the broker."""

import threading

import structlog
from celery import Celery
from kombu.exceptions import KombuError, OperationalError

from twofold_schema import ticket
from twofold_schema.settings import BrokerSettings

log = structlog.get_logger(__name__)

#: A process that ends waits this long for tickets that are on their way, in seconds.
FAREWELL_SECONDS = 0.2


class Bell:
    """Rings for idle runs, from a thread of its own. May be shared between threads.

    A ticket that is lost costs the time until the next poll, so that a broker that is away is
    logged and otherwise ignored.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._changed = threading.Condition()
        self._wanted = 0
        self._busy = False
        self._thread: threading.Thread | None = None

    def ring(self, tickets: int) -> None:
        """Send so many tickets soon. Calls that come before they are sent run together."""
        if tickets < 1:
            return
        with self._changed:
            self._wanted = max(self._wanted, tickets)
            # After a fork the thread is gone and this starts another.
            if self._thread is None or not self._thread.is_alive():
                self._busy = False
                self._thread = threading.Thread(target=self._send_on, name="bell", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Give tickets that are on their way a moment to leave."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._wanted and not self._busy, timeout=FAREWELL_SECONDS
            )

    def _send_on(self) -> None:
        app = Celery("twofold", broker=self._settings.url, set_as_current=False)
        app.conf.update(
            broker_transport_options={
                **self._settings.transport_options,
                **({"socket_timeout": 5.0} if self._settings.is_redis else {}),
                "max_retries": 0,
            },
            broker_connection_timeout=self._settings.broker_timeout_seconds,
        )
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted)
                tickets, self._wanted, self._busy = self._wanted, 0, True
            try:
                for _ in range(tickets):
                    app.send_task(
                        ticket.TASK_NAME,
                        queue=ticket.QUEUE,
                        expires=ticket.EXPIRES_SECONDS,
                        ignore_result=True,
                        retry=False,
                    )
            except (KombuError, OperationalError, OSError) as error:
                log.warning("broker_away", error=str(error), tickets=tickets)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
