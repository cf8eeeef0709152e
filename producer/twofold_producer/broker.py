"""The bell: sends tickets over Celery. Ringing never raises and never waits for the broker."""

import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import redis
import structlog
from celery import Celery
from kombu import Connection
from kombu.exceptions import KombuError, OperationalError

from twofold_schema import ticket
from twofold_schema.settings import BrokerSettings

log = structlog.get_logger(__name__)

#: A process that ends waits this long for tickets that are on their way, in seconds.
FAREWELL_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisServer:
    """A Redis server that carries tickets.

    Attributes:
        version: As it says.
        eviction: What it does when its memory is full: `noeviction`, `allkeys-lru`, …
    """

    version: str
    eviction: str


def ask_redis(settings: BrokerSettings, *, timeout_seconds: float) -> RedisServer:
    """Ask Redis what it is, and write and remove a key of a moment.

    Args:
        settings: Of a Redis.
        timeout_seconds: What one step may take; silence ends after a few.

    Raises:
        redis.RedisError: It is away, or refuses something.
        ValueError: The URL cannot be taken apart.
    """
    patience = {"socket_connect_timeout": timeout_seconds, "socket_timeout": timeout_seconds}
    options = {**settings.transport_options, **patience, "max_retries": 0}
    # Through kombu, which reads the URL in its own way, as every ticket does.
    with Connection(settings.url, transport_options=options) as connection:
        client: redis.Redis = connection.channel().client  # type: ignore[attr-defined]  # Redis's
        told = client.info()
        key = f"{ticket.QUEUE}.doctor"
        client.set(key, "", ex=10)
        client.delete(key)
    return RedisServer(
        version=str(told.get("redis_version", "?")),
        eviction=str(told.get("maxmemory_policy", "noeviction")),
    )


def ask_folder(settings: BrokerSettings) -> Path:
    """Write and remove a file where a folder's tickets go.

    Raises:
        OSError: The folder is not there, or may not be written.
    """
    queue = Path(str(settings.transport_options["data_folder_in"]))
    control = Path(str(settings.transport_options["control_folder"]))
    for folder in (queue, control):
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-"):
            pass
    return queue.parent


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
