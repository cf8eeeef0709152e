"""A Redis server for one machine: loopback only, with a password, nothing kept on disk."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from twofold_producer.dev.binaries import redis_server
from twofold_producer.dev.server import HOST, Server


class Redis(Server):
    """A running Redis. After an outage it comes back empty."""

    name = "redis"
    stop_signal = signal.SIGTERM
    crash_signal = signal.SIGKILL

    def __init__(self, program: Path) -> None:
        super().__init__()
        self._program = program
        self._settings = self.scratch / "redis.conf"
        self._settings.touch(mode=0o600)
        with self._stopped_on_failure():
            self._open()

    @classmethod
    def start(cls) -> Self:
        """Start Redis and wait until it answers.

        Raises:
            ConfigError: There is no `redis-server`, or it did not start.
        """
        return cls(redis_server())

    @property
    def url(self) -> str:
        """`redis://:PASSWORD@127.0.0.1:PORT/0`."""
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    def _command(self) -> Sequence[str | Path]:
        # A file: everyone on this machine can read a process's arguments.
        self._settings.write_text(
            f"bind {HOST}\n"
            f"port {self.port}\n"
            f"requirepass {self.password}\n"
            'save ""\n'
            "appendonly no\n"
            "daemonize no\n"
        )
        return [self._program, self._settings]

    def _answers(self) -> bool:
        # No retries of the client's own: they wait for up to seconds.
        client = redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=2)
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        finally:
            client.close()
