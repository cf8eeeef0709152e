"""What is decided about a request before anybody reads it: its id, its length, its way back."""

import re
import time
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twofold_producer.api import bodies, problems
from twofold_schema.errors import TwofoldError
from twofold_schema.ids import new_id

log = structlog.get_logger(__name__)

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")
_FORWARDED_PROTO: Final = re.compile(r'(?:^|;)\s*proto="?(https?)"?\s*(?:;|$)', re.IGNORECASE)

#: Nothing here is a page, nothing may be kept by anybody in between, nothing is sniffed.
_SECURITY: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_STRICT_TRANSPORT: Final = "max-age=31536000"


class Edge:
    """Gives each request an id, bounds what it sends, and notes what came of it.

    Args:
        app: What it goes to.
        max_body_bytes: Of a request.
        max_manifest_bytes: Of a submission as JSON lines.
        trust_proxy: Whether what stands before us says whether it was asked by TLS.
    """

    def __init__(
        self, app: ASGIApp, *, max_body_bytes: int, max_manifest_bytes: int, trust_proxy: bool
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_manifest_bytes = max_manifest_bytes
        self._trust_proxy = trust_proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        stated = headers.get("x-request-id", "")
        request_id = stated if _REQUEST_ID.fullmatch(stated) else str(new_id())
        scope["twofold.request_id"] = request_id
        is_secure = self._is_secure(scope, headers)
        begin, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = MutableHeaders(scope=message)
                for name, value in _SECURITY.items():
                    sent.setdefault(name, value)
                for name, value in scope.get("twofold.headers", {}).items():
                    sent[name] = value
                sent["X-Request-Id"] = request_id
                if "twofold.hangs_up" in scope:
                    sent["Connection"] = "close"
                if is_secure:
                    sent["Strict-Transport-Security"] = _STRICT_TRANSPORT
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                takes_lines = bodies.takes_lines(scope)
                most = self._max_manifest_bytes if takes_lines else self._max_body_bytes
                await self._app(scope, bodies.bounded(scope, receive, most), answer)
            except TwofoldError as error:
                if status:
                    raise
                await problems.answer(request_id, error)(scope, receive, answer)
            finally:
                route = getattr(scope.get("route"), "path", None)
                caller = scope.get("twofold.caller")
                log.info(
                    "request",
                    method=scope["method"],
                    route=route,
                    status=status,
                    seconds=round(time.perf_counter() - begin, 4),
                    tenant=getattr(caller, "tenant", None),
                    key=getattr(caller, "prefix", None),
                )

    def _is_secure(self, scope: Scope, headers: Headers) -> bool:
        if scope["scheme"] == "https":
            return True
        if not self._trust_proxy:
            return False
        # RFC 7239; the first entry is of who stands nearest to the caller.
        forwarded = headers.get("forwarded", "").split(",")[0]
        said = _FORWARDED_PROTO.search(forwarded)
        return (said[1] if said else headers.get("x-forwarded-proto", "")).lower() == "https"
