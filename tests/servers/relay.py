"""A way to a server that a test can close: connections are cut, and new ones refused."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.servers.certificates import HOST

_BLOCK_BYTES = 2**16


class Relay:
    """Passes on what comes for a server over http; ended with its block.

    Attributes:
        url: Where it listens while it is open.
    """

    def __init__(self, url: str) -> None:
        """Open the way to the server at `url`."""
        there = urlsplit(url)
        self._there = (there.hostname or HOST, there.port or 80)
        self._port = 0
        self._open()
        self.url = f"http://{HOST}:{self._port}"

    @contextmanager
    def closed(self) -> Iterator[None]:
        """No way to the server inside the block."""
        self._close()
        try:
            yield
        finally:
            self._open()

    def _open(self) -> None:
        self._listener = socket.create_server((HOST, self._port))
        self._port = self._listener.getsockname()[1]
        self._sockets = ExitStack()
        threading.Thread(target=self._accept, args=(self._listener, self._sockets)).start()

    def _close(self) -> None:
        # Whoever waits in `accept` would hold the port otherwise.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._sockets.close()

    def _accept(self, listener: socket.socket, sockets: ExitStack) -> None:
        with suppress(OSError):
            while True:
                here, _ = listener.accept()
                there = socket.create_connection(self._there)
                for one, other in ((here, there), (there, here)):
                    sockets.callback(_end, one)
                    threading.Thread(target=_pass_on, args=(one, other)).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError), one:
        while block := one.recv(_BLOCK_BYTES):
            other.sendall(block)
    _end(other)


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
