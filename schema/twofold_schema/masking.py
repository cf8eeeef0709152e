"""Secrets, as far as people may see them."""

import re
from collections.abc import Collection
from urllib.parse import unquote

MASK = "***"

_LEAST_WORD = 6

_SCHEME = r"(?P<scheme>postgres(?:ql)?(?:\+psycopg)?|rediss?|https?)://"

# One `@` at most, before any path; else a special character of the password may stand unescaped
# somewhere, and nobody can say where the password ends.
_URL = re.compile(
    _SCHEME + r"(?:(?P<user>[^:/?#@]*)(?P<colon>:)?(?P<password>[^/?#@]*)@)?"
    r"(?P<hosts>(?:[\w.-]*|\[[0-9a-fA-F:.]+\])(?::\d*)?(?:,[\w.:-]+)*)"
    r"(?P<path>/[^?#@]*)?"
    r"(?:\?(?P<query>[^#@]*))?"
)

#: Parameters of database and broker URLs that hold no secret. Others may.
_PLAIN_PARAMETERS = {
    "application_name",
    "connect_timeout",
    "dbname",
    "gssencmode",
    "host",
    "port",
    "socket_timeout",
    "ssl_cert_reqs",
    "sslmode",
    "target_session_attrs",
    "user",
    "username",
    "virtual_host",
}
#: Parameters whose name may be shown, but not their value.
_SECRET_PARAMETERS = {"password", "passfile", "sslkey", "sslpassword"}


def masked_url(url: str) -> str:
    """A URL without its secrets, and with its shape as far as that is beyond doubt."""
    if url.startswith("filesystem:///"):
        return url
    parts = _URL.fullmatch(url)
    if parts is None:
        scheme = re.match(_SCHEME, url)
        return f"{scheme[0]}{MASK}" if scheme else MASK
    shown = f"{parts['scheme']}://"
    if parts["user"] is not None:
        shown += f"{_shown_user(parts)}:{MASK}@" if parts["colon"] else f"{_shown_user(parts)}@"
    shown += parts["hosts"] + (parts["path"] or "")
    if parts["query"] is not None:
        shown += "?" + "&".join(_masked_parameter(pair) for pair in parts["query"].split("&"))
    return shown


def scrub(text: str, secrets: Collection[str]) -> str:
    """A text without any of these secrets: other people's errors may quote what they were given.

    Args:
        text: Any.
        secrets: Whole URLs, or bare secrets; words of under six letters are left, which as likely
            belong to the text.
    """
    words = {word for secret in secrets for word in _words(secret)}
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, MASK)
    return text


def _words(secret: str) -> set[str]:
    rest = secret.partition("://")[2]
    parts = _URL.fullmatch(secret)
    if parts is None:
        words = {secret, rest, rest.rpartition("@")[0].partition(":")[2]}
    else:
        pairs = [pair.partition("=") for pair in (parts["query"] or "").split("&")]
        hidden = {value for name, _, value in pairs if name not in _PLAIN_PARAMETERS}
        words = {parts["user"] or "", parts["password"] or "", *hidden}
        # What stands in the open beside it, as in twofold:twofold@, keeps no secret.
        words -= {_shown_user(parts), parts["hosts"], (parts["path"] or "").lstrip("/")}
    return {form for word in words for form in (word, unquote(word)) if len(form) >= _LEAST_WORD}


def _shown_user(parts: re.Match[str]) -> str:
    # Where a password alone is usual, who forgets a colon writes it in the name's place.
    user: str = parts["user"] or ""
    return user if parts["scheme"].startswith("postgres") or not user else MASK


def _masked_parameter(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    if name in _PLAIN_PARAMETERS:
        return pair
    return f"{name}={MASK}" if equals and name in _SECRET_PARAMETERS else MASK
