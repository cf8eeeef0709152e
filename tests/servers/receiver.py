"""A webhook receiver that answers what a test says, and remembers what it was sent."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers.certificates import HOST, Certificates


@dataclass(frozen=True)
class Received:
    """One request, with its headers' names in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """The message's id."""
        return self.headers["webhook-id"]


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        dribble: Whether it is header lines for ever, until the client closes the connection.
    """

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    dribble: bool = False


#: What is answered to a request; called from many threads.
Script = Callable[[Received], Answer]


class Receiver(ThreadingHTTPServer):
    """The server.

    Attributes:
        received: All requests, in the order of their arrival.
        connections: How many were made, whatever came of them.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, script: Script, host: str, port: int, certificates: Certificates | None
    ) -> None:
        self.script = script
        self.received: list[Received] = []
        self.connections = 0
        self.pace = threading.Event()
        self._certificates = certificates
        super().__init__((host, port), _Exchange)
        scheme = "https" if certificates else "http"
        self.url = f"{scheme}://{host}:{self.server_port}/hook"

    def get_request(self) -> Any:
        connection, address = super().get_request()
        self.connections += 1
        return connection, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        # Here, in the connection's own thread: who never says hello must not stop the others.
        if self._certificates is None:
            super().finish_request(request, client_address)
            return
        with self._certificates.serving().wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the game."""


class _Exchange(BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        headers = {name.lower(): text for name, text in self.headers.items()}
        body = self.rfile.read(int(headers["content-length"]))
        received = Received(self.path, headers, body)
        self.server.received.append(received)
        answer = self.server.script(received)
        self.send_response(answer.status)
        for name, text in answer.headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(answer.body)))
        while answer.dribble:
            self.send_header("X-More", "x" * 100)
            self.flush_headers()
            self.server.pace.wait(0.05)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def receiving(
    script: Script = lambda _: Answer(),
    *,
    host: str = HOST,
    port: int = 0,
    certificates: Certificates | None = None,
) -> Iterator[Receiver]:
    """A receiver that answers so, ended with the block."""
    with Receiver(script, host, port, certificates) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
