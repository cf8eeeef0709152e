"""A signature allows one request for a while, and nothing like it."""

from dataclasses import replace
from datetime import timedelta
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from twofold_schema.storage.signing import (
    Permission,
    SignedRoute,
    UrlExpired,
    UrlRefused,
    sign,
    verify,
)

SECRET = "s" * 32
WRITE = Permission(method="PUT", path="a/b.png", expires_at=1000, content_type="image/png")


def test_what_was_signed_is_accepted_until_it_expires() -> None:
    verify(WRITE, sign(WRITE, SECRET), SECRET, now=999.9)
    with pytest.raises(UrlExpired):
        verify(WRITE, sign(WRITE, SECRET), SECRET, now=1000)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "GET"},
        {"path": "a/c.png"},
        {"path": "a/b.pngimage/", "content_type": "png"},
        {"expires_at": 1001},
        {"content_type": "text/html"},
        {"content_type": ""},
    ],
)
def test_anything_else_is_refused(changes: dict[str, str]) -> None:
    other = replace(WRITE, **changes)  # type: ignore[arg-type]

    with pytest.raises(UrlRefused):
        verify(other, sign(WRITE, SECRET), SECRET, now=0)


@pytest.mark.parametrize("signature", ["", "0" * 64, "é"])
def test_no_signature_or_another_secrets_is_refused(signature: str) -> None:
    for shown in (signature, sign(WRITE, "another secret"), sign(WRITE, SECRET)[:-1]):
        with pytest.raises(UrlRefused):
            verify(WRITE, shown, SECRET, now=0)


def test_a_forged_url_is_refused_before_it_is_called_expired() -> None:
    """Or strangers could learn which requests were ever signed."""
    with pytest.raises(UrlRefused) as refused:
        verify(WRITE, "0" * 64, SECRET, now=10**6)
    assert not isinstance(refused.value, UrlExpired)


@pytest.mark.parametrize("path", ["a/b c.png", "größe/%2f+&?#.png"])
def test_a_url_carries_its_permission(path: str) -> None:
    route = SignedRoute(url="https://files.example.com/base/", secret=SECRET)

    url = urlsplit(route.sign("GET", path, expires=timedelta(minutes=1)))

    assert unquote(url.path) == f"/base/{path}"
    query = parse_qs(url.query)
    permission = Permission(method="GET", path=path, expires_at=int(query["expires"][0]))
    verify(permission, query["signature"][0], SECRET)
