"""moto's S3 on loopback: all in memory, over http or TLS."""

import socket
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.house import eventually
from tests.servers.certificates import HOST, Certificates

from twofold_producer.dev.lifeline import Lifeline


class Moto:
    """A running moto, ended with this object. It takes every key and secret.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, certificates: Certificates | None = None) -> None:
        """Start it and wait until it answers; with certificates it speaks TLS."""
        with socket.create_server((HOST, 0)) as probe:
            self._port: int = probe.getsockname()[1]
        self.url = f"{'https' if certificates else 'http'}://{HOST}:{self._port}"
        self._command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self._port)]
        if certificates:
            self._command += ["-c", str(certificates.certificate), "-k", str(certificates.key)]
        self._folder = Path(tempfile.mkdtemp(prefix="twofold-moto-"))
        self._process = self._come_up()

    def restart(self) -> None:
        """End it and start it again at the same port."""
        self._process.stop()
        self._folder.mkdir()
        self._process = self._come_up()

    def stop(self) -> None:
        """End it; may be repeated."""
        self._process.stop()

    def _come_up(self) -> Lifeline:
        log = self._folder / "log"
        process = Lifeline.start(self._command, log=log, remove=[self._folder])

        def answers() -> bool:
            if process.poll() is not None:
                raise AssertionError(log.read_text())
            with socket.socket() as probe:
                return probe.connect_ex((HOST, self._port)) == 0

        try:
            eventually(answers, why=log.read_text)
        except BaseException:
            process.stop()
            raise
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
