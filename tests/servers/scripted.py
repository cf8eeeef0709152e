"""An S3 that answers what a test says, and remembers what it was asked."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers.certificates import HOST, Certificates


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        at: By the monotonic clock, in seconds.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    at: float


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        promised: The length that it states; None for that of its body.
        stall: Whether the connection then stays open until the client closes it.
        trickle: Whether its body comes a block at a time, again and again, for as long as the
            client listens.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    promised: int | None = None
    stall: bool = False
    trickle: bool = False


def error(status: int, code: str) -> Reply:
    """What S3 answers when it refuses; without a code, what a proxy before it does."""
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>" if code else ""
    return Reply(status, body.encode(), {"Content-Type": "application/xml"} if code else {})


#: What is answered to a request; called from many threads.
Script = Callable[[Asked], Reply]


class Scripted(ThreadingHTTPServer):
    """The server.

    Attributes:
        asked: All requests, in the order of their arrival.
        most_open: The most connections that were open at once.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script: Script, certificates: Certificates | None) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.most_open = 0
        self._open = 0
        self._lock = threading.Lock()
        super().__init__((HOST, 0), _Exchange)
        self.url = f"{'https' if certificates else 'http'}://{HOST}:{self.server_port}"
        if certificates:
            self.socket = certificates.serving().wrap_socket(self.socket, server_side=True)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open += 1
            self.most_open = max(self.most_open, self._open)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open -= 1
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the game."""


class _Exchange(BaseHTTPRequestHandler):
    server: Scripted
    protocol_version = "HTTP/1.1"  # as S3: connections are used again

    def answer(self) -> None:
        headers = {name.lower(): text for name, text in self.headers.items()}
        asked = Asked(self.command, self.path, headers, time.monotonic())
        self._take_body(headers)
        self.server.asked.append(asked)
        reply = self.server.script(asked)
        self.send_response(reply.status)
        for name, text in reply.headers.items():
            self.send_header(name, text)
        promised = len(reply.body) if reply.promised is None else reply.promised
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
        while reply.trickle and not threading.Event().wait(0.05):
            self.wfile.write(reply.body)
        if reply.stall:
            self.rfile.read(1)
        self.close_connection = reply.promised is not None

    do_GET = do_PUT = do_HEAD = do_DELETE = answer  # noqa: N815 - named by the library

    def _take_body(self, headers: Mapping[str, str]) -> None:
        if headers.get("transfer-encoding") == "chunked":
            while length := int(self.rfile.readline(), 16):
                self.rfile.read(length + 2)
            self.rfile.readline()
        self.rfile.read(int(headers.get("content-length", 0)))

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def scripted(script: Script, certificates: Certificates | None = None) -> Iterator[Scripted]:
    """A server that answers so, ended with the block."""
    with Scripted(script, certificates) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
