"""Clients that cost little beside the service: requests that are ready, over bare sockets."""

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from benchmarks.queue.crew import Shift

_PATIENCE_SECONDS: Final = 30.0
_BLOCK_BYTES: Final = 2**16
_LOOK_SECONDS: Final = 0.1
_HEAD_ENDS: Final = b"\r\n\r\n"


class Line:
    """A connection over which requests go one by one.

    Args:
        url: Of the service.
        key: An API key.
    """

    def __init__(self, url: str, key: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None  # noqa: S101 - as the service said
        self._tail = f" HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {key}\r\n\r\n"
        self.socket = socket.create_connection(
            (address.hostname, address.port), timeout=_PATIENCE_SECONDS
        )
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def request(self, path: str) -> bytes:
        """A request of a path, ready to be sent."""
        return f"GET {path}{self._tail}".encode()

    def ask(self, request: bytes) -> int:
        """Send a request, read all of the answer, and return its status."""
        self.socket.sendall(request)
        got = b""
        while (end := got.find(_HEAD_ENDS)) < 0:
            got += self.more()
        head = got[:end].lower()
        length = 0
        if b"content-length:" in head:
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        left = length - (len(got) - end - len(_HEAD_ENDS))
        while left > 0:
            left -= len(self.more())
        return int(head[9:12])

    def more(self) -> bytes:
        """What comes next.

        Raises:
            RuntimeError: Nothing more will.
        """
        block = self.socket.recv(_BLOCK_BYTES)
        if not block:
            raise RuntimeError("the service hung up")
        return block

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()


@dataclass(frozen=True, slots=True)
class Asking:
    """Asks for paths in turn, one request after the other.

    Attributes:
        status: That each answer has to have.
    """

    url: str
    key: str
    paths: Sequence[str]
    status: int

    def __call__(self, shift: Shift) -> None:
        """Ask until the shift is over.

        Raises:
            RuntimeError: An answer is another one.
        """
        with Line(self.url, self.key) as line:
            requests = cycle([line.request(path) for path in self.paths])
            shift.begin()
            while not shift.over:
                if (status := line.ask(next(requests))) != self.status:
                    raise RuntimeError(f"the answer was {status}, not {self.status}")
                shift.did(1)


@dataclass(frozen=True, slots=True)
class Listening:
    """Follows the events over many connections, and counts the bytes that came."""

    url: str
    key: str
    connections: int

    def __call__(self, shift: Shift) -> None:
        """Listen until the shift is over; tells how many events each connection had at least.

        Raises:
            RuntimeError: The service hangs up.
        """
        lines = [Line(self.url, self.key) for _ in range(self.connections)]
        came = dict.fromkeys(range(len(lines)), 0)
        with selectors.DefaultSelector() as ready:
            for number, line in enumerate(lines):
                line.socket.sendall(line.request("/v1/events"))
                ready.register(line.socket, selectors.EVENT_READ, number)
            deadline = time.monotonic() + _PATIENCE_SECONDS
            following: set[int] = set()
            while len(following) < len(lines):
                if time.monotonic() > deadline:
                    raise RuntimeError("the listeners are not answered")
                for key, _ in ready.select(_LOOK_SECONDS):
                    if b": following" in lines[key.data].more():
                        following.add(key.data)
            shift.begin()
            while not shift.over:
                for key, _ in ready.select(_LOOK_SECONDS):
                    events = lines[key.data].more().count(b"event: job")
                    came[key.data] += events
                    shift.did(events)
        for line in lines:
            line.socket.close()
        shift.tell(min(came.values()))
