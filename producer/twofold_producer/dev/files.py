"""The route behind a directory store's signed URLs, on loopback, for development only."""

import io
import re
import secrets
import threading
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import parse_qs, unquote, urlsplit

from twofold_producer.dev.server import HOST
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import (
    InvalidUri,
    ResultDenied,
    SourceDenied,
    SourceNotFound,
    StorageUnavailable,
    TwofoldError,
)
from twofold_schema.settings import LimitSettings
from twofold_schema.storage.directory import DirectoryStorage, OpenFile
from twofold_schema.storage.signing import Permission, SignedRoute, UrlRefused, verify

_PATH = "/files/"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")

_STATUS: dict[type[TwofoldError], HTTPStatus] = {
    UrlRefused: HTTPStatus.FORBIDDEN,
    SourceDenied: HTTPStatus.FORBIDDEN,
    ResultDenied: HTTPStatus.FORBIDDEN,
    InvalidUri: HTTPStatus.FORBIDDEN,
    SourceNotFound: HTTPStatus.NOT_FOUND,
    StorageUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}


class FileServer:
    """Serves one folder's files to whoever shows a signed URL; ends with its block.

    Attributes:
        route: What `DirectoryStorage` signs for this server.
    """

    def __init__(self, root: Path, *, max_bytes: int | None = None) -> None:
        """Listen on a free port, before the block begins.

        Args:
            root: The folder.
            max_bytes: The longest object that is taken; None for what a source may have.
        """
        longest = max_bytes or LimitSettings().max_source_bytes
        storage = DirectoryStorage(root)
        secret = secrets.token_hex(32)
        answer = partial(_Exchange, storage=storage, secret=secret, max_bytes=longest)
        self._server = ThreadingHTTPServer((HOST, 0), answer)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        )
        url = f"http://{HOST}:{self._server.server_port}{_PATH.rstrip('/')}"
        self.route = SignedRoute(url=url, secret=secret)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Exchange(BaseHTTPRequestHandler):
    """One request and its answer."""

    timeout: ClassVar[float] = 30.0  # seconds of silence

    def __init__(
        self, *arguments: object, storage: DirectoryStorage, secret: str, max_bytes: int
    ) -> None:
        self._storage = storage
        self._secret = secret
        self._max_bytes = max_bytes
        super().__init__(*arguments)  # type: ignore[arg-type] # it answers in here

    def do_GET(self) -> None:
        try:
            uri = self._allowed("GET")
            sidecar = self._storage.read_sidecar(uri)
            with self._storage.opened(uri) as found:
                self._send_file(found, sidecar.content_type if sidecar else "")
        except TwofoldError as error:
            self._refuse(error)

    do_HEAD = do_GET  # noqa: N815 - named by the library

    def do_PUT(self) -> None:
        stated = self.headers.get("Content-Length", "")
        if not stated.isdecimal():
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return
        length = int(stated)
        # Read before it is refused: who is still sending does not hear why.
        data = self.rfile.read(min(length, self._max_bytes))
        if length > self._max_bytes:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        content_type = self.headers.get("Content-Type", "")
        try:
            uri = self._allowed("PUT", content_type)
            if len(data) == length:
                self._storage.replace(uri, io.BytesIO(data), content_type=content_type, metadata={})
        except TwofoldError as error:
            self._refuse(error)
            return
        self._begin(HTTPStatus.OK if len(data) == length else HTTPStatus.BAD_REQUEST, 0)
        self.end_headers()

    def _allowed(self, method: str, content_type: str = "") -> ArtifactUri:
        """The object that the URL names, if its signature allows this."""
        asked = urlsplit(self.path)
        query = parse_qs(asked.query)
        path = unquote(asked.path.removeprefix(_PATH))
        expires = query.get("expires", [""])[0]
        permission = Permission(
            method=method,
            path=path,
            expires_at=int(expires) if expires.isdecimal() else 0,
            content_type=content_type,
        )
        verify(permission, query.get("signature", [""])[0], self._secret)
        return ArtifactUri.of_file(self._storage.root).child(path)

    def _send_file(self, found: OpenFile, content_type: str) -> None:
        part = _asked_part(self.headers.get("Range", ""), found.size)
        if part is not None and not part:
            self._begin(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0)
            self.send_header("Content-Range", f"bytes */{found.size}")
            self.end_headers()
            return
        bytes_sent = range(found.size) if part is None else part
        self._begin(HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT, len(bytes_sent))
        if part is not None:
            self.send_header("Content-Range", f"bytes {part.start}-{part.stop - 1}/{found.size}")
        self.send_header("Content-Type", content_type)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{found.version}"')
        self.end_headers()
        if self.command == "GET":
            found.file.seek(bytes_sent.start)
            with suppress(ConnectionError):  # they have seen enough
                self.wfile.write(found.file.read(len(bytes_sent)))

    def _begin(self, status: HTTPStatus, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        # What others uploaded runs nowhere: it is what it says that it is, and may do nothing.
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "sandbox")

    def _refuse(self, error: TwofoldError) -> None:
        kinds = (status for kind, status in _STATUS.items() if isinstance(error, kind))
        text = error.message.encode()
        self._begin(next(kinds, HTTPStatus.INTERNAL_SERVER_ERROR), len(text))
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing: the signatures in the paths are secrets."""


def _asked_part(header: str, size: int) -> range | None:
    """Which bytes are asked for, none if they lie behind the end; None for the whole file."""
    found = _RANGE.fullmatch(header)
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    return range(min(int(first), size), min(size, int(last) + 1 if last else size))
