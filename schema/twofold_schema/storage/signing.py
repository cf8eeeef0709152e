"""Signed URLs of a store that has no server of its own: what one allows, and whether it still does.

    BASE/PATH?expires=UNIX_SECONDS&signature=HEX

The signature is the HMAC-SHA256 of method, path, expiry and media type, so that a URL to read
does not write, and one to write a picture does not write a page.
"""

import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import quote, urlencode

from twofold_schema.errors import TwofoldError
from twofold_schema.storage.port import whole_seconds


class UrlRefused(TwofoldError):
    """This signature does not allow this request; ask for a URL that does."""

    code = "url_refused"


class UrlExpired(UrlRefused):
    """This URL has expired; ask for a new one."""

    code = "url_expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """What a signature allows.

    Attributes:
        method: `GET` or `PUT`.
        path: Of the object, below the base URL; not quoted.
        expires_at: In seconds since 1970.
        content_type: Of what is PUT; empty for a GET.
    """

    method: str
    path: str
    expires_at: int
    content_type: str = ""


def sign(permission: Permission, secret: str) -> str:
    """The signature, in hex."""
    # JSON, unlike text that is merely joined, cannot be cut in two ways.
    fields = [
        permission.method,
        permission.path,
        permission.expires_at,
        permission.content_type,
    ]
    return hmac.new(secret.encode(), json.dumps(fields).encode(), hashlib.sha256).hexdigest()


def verify(
    permission: Permission, signature: str, secret: str, *, now: float | None = None
) -> None:
    """Accept a request that was signed and has not expired.

    Args:
        permission: What the request does, and the expiry that it states.
        signature: What it shows for it.
        secret: What it must have been signed with.
        now: Seconds since 1970; None for this machine's clock.

    Raises:
        UrlRefused: Something else was signed, or with another secret.
        UrlExpired: It was signed, and is over.
    """
    if not hmac.compare_digest(sign(permission, secret).encode(), signature.encode()):
        raise UrlRefused
    if permission.expires_at <= (time.time() if now is None else now):
        raise UrlExpired


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRoute:
    """The route that serves a store's signed URLs.

    Attributes:
        url: Where it begins.
        secret: What its URLs are signed with.
    """

    url: str
    secret: str

    def sign(self, method: str, path: str, *, expires: timedelta, content_type: str = "") -> str:
        """The URL that allows a request for a while.

        Raises:
            ValueError: It would expire before a second or after seven days.
        """
        permission = Permission(
            method=method,
            path=path,
            expires_at=int(time.time()) + whole_seconds(expires),
            content_type=content_type,
        )
        signature = sign(permission, self.secret)
        query = urlencode({"expires": permission.expires_at, "signature": signature})
        return f"{self.url.rstrip('/')}/{quote(path)}?{query}"
