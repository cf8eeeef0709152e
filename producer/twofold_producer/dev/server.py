"""What the local servers share: a folder of their own, a free port, readiness, an outage."""

import secrets
import signal
import socket
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from twofold_producer.dev.lifeline import Lifeline
from twofold_schema.errors import ConfigError

HOST = "127.0.0.1"
_READY_SECONDS = 60.0  # generous: Postgres replays its log first after a crash
_PORT_TRIES = 5
_LOG_TAIL_LENGTH = 4000  # characters
_LISTENS = "ready to accept connections"  # in the words of both servers


class Server(ABC):
    """A server on loopback that lives no longer than its owner.

    Attributes:
        name: What people call it.
        stop_signal: Asks it to shut down in good order.
        crash_signal: Ends it as a crash would.
        scratch: Its temporary folder, gone when the server is stopped or the owner is dead.
        log: What it prints; in the scratch folder unless the caller keeps a folder.
        port: The TCP port on 127.0.0.1.
        password: What clients must show.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    crash_signal: ClassVar[signal.Signals]

    def __init__(
        self, *, log: Path | None = None, user: str | None = None, hold: Collection[int] = ()
    ) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix=f"twofold-{self.name}-"))
        self.log = log or self.scratch / f"{self.name}.log"
        self.port = 0
        self.password = secrets.token_hex(16)
        self._user = user
        # Each process below holds this one, so the folder goes last, also when the owner is killed.
        self._guard = Lifeline.start(
            (), log=self.scratch / "lifeline.log", remove=[self.scratch], hold=hold
        )
        self._process: Lifeline | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect, with the password."""

    @abstractmethod
    def _command(self) -> Sequence[str | Path]:
        """How to start the server on `port`."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it serves a real request now."""

    @contextmanager
    def outage(self) -> Iterator[None]:
        """The server crashes, is away inside the block, and comes back on the same port after it.

        Raises:
            ConfigError: It did not come back.
        """
        if self._process is not None:
            self._process.stop(self.crash_signal)
        try:
            yield
        finally:
            self._come_up()

    def restart(self) -> None:
        """Crash and come back at once, on the same port.

        Raises:
            ConfigError: It did not come back.
        """
        with self.outage():
            pass

    def stop(self) -> None:
        """Shut down, wait for the end, remove the scratch folder; may be repeated."""
        if self._process is not None:
            self._process.stop()
        self._guard.stop()

    @contextmanager
    def _stopped_on_failure(self) -> Iterator[None]:
        with ExitStack() as undo:
            undo.callback(self.stop)
            yield
            undo.pop_all()

    def _open(self) -> None:
        """Come up on a free port; on another one when somebody took it in between."""
        for tries_left in reversed(range(_PORT_TRIES)):
            self.port = self._free_port()
            try:
                return self._come_up()
            except ConfigError as error:
                if not tries_left or "Address already in use" not in str(error):
                    raise
        return None

    def _come_up(self) -> None:
        before = self.log.stat().st_size if self.log.exists() else 0
        self._process = self._child(self._command())
        deadline = time.monotonic() + _READY_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            # Asked only once it says that it listens: a process that snatched the port before it
            # must not be sent the password.
            if _LISTENS in self._logged(before).lower() and self._answers():
                return
            time.sleep(0.01)
        self._process.stop()
        raise ConfigError(f"{self.name} did not start. {self.log} ends: {self._tail(before)}")

    def _child(self, command: Sequence[str | Path]) -> Lifeline:
        """Run a program in the scratch folder, as the server's user, in English."""
        return Lifeline.start(
            command,
            log=self.log,
            # None of the caller's: PGOPTIONS, PGDATESTYLE and others would change the server.
            env={"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"},
            cwd=self.scratch,
            user=self._user,
            stop_signal=self.stop_signal,
            hold=[self._guard.fileno()],
        )

    def _tail(self, since: int) -> str:
        """The end of what was logged after that many bytes."""
        return self._logged(since)[-_LOG_TAIL_LENGTH:].strip()

    def _logged(self, since: int) -> str:
        with self.log.open("rb") as file:
            file.seek(since)
            return file.read().decode(errors="replace")

    @staticmethod
    def _free_port() -> int:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
