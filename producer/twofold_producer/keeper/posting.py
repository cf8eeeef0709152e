"""One request to a receiver: signed, to an address that was checked, within its time.

A name may lead somewhere else each time that it is looked up, and whoever owns it may see to that
(DNS rebinding). So it is looked up once per try, what is found is checked, and the connection is
made to the very address that was, while TLS and the `Host` header keep the name. No connection is
kept for another try, no redirect is followed, no proxy of the environment is used, and of an answer
only the status and `Retry-After` are looked at.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any, Final, TypeAlias

import httpcore2
import structlog
from standardwebhooks import Webhook as Signer

from twofold_schema.egress import Egress, Receiver
from twofold_schema.errors import AddressRefused, InvalidWebhook
from twofold_schema.ledger.sending import Leased, Outcome

log = structlog.get_logger(__name__)

#: The addresses that a name has, as texts. Raises OSError where it has none.
Lookup: TypeAlias = Callable[[str, int], Sequence[str]]

#: Of an answer's body nothing is wanted; so much is taken for the sake of those who must send it.
_BODY_BYTES = 4096
#: Addresses of one name that are tried.
_MOST_ADDRESSES = 4
#: The longest time that a receiver may ask to be left alone, in seconds.
_LONGEST_WAIT = 86_400.0
_USER_AGENT = "Twofold-Webhooks/1"

#: What an error of a try is called in the log of a delivery, the first that fits.
_ERRORS: Final = (
    (httpcore2.TimeoutException, "timed_out"),
    (httpcore2.NetworkError, "connection_failed"),
    (httpcore2.ProtocolError, "no_http"),
)


def look_up(host: str, port: int) -> Sequence[str]:
    """The addresses that the system knows of a name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[4][0]) for address in found))


class Poster:
    """Sends messages; any number of threads may share one.

    Args:
        egress: What is open.
        seconds: What a try may take in all.
        threads: How many share it.
        lookup: How names are looked up.
        context: Whom receivers' certificates have to be signed by; None for whom the system trusts.
    """

    def __init__(
        self,
        egress: Egress,
        *,
        seconds: float,
        threads: int,
        lookup: Lookup = look_up,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._egress = egress
        self._seconds = seconds
        self._lookup = lookup
        self._context = context or ssl.create_default_context()
        # The system's resolver takes no time limit, so somebody else waits for it: more than there
        # are tries, because some still wait when their try has been given up.
        self._resolvers = ThreadPoolExecutor(2 * threads, "resolve")

    def send(self, message: Leased) -> Outcome:
        """Try once; what goes wrong is part of the outcome."""
        began = time.monotonic()
        try:
            status, wait = self._post(message, began + self._seconds)
        except (AddressRefused, InvalidWebhook) as refused:
            error = f"{refused.code}: {refused.message}"
        except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError) as e:
            code = next(code for kind, code in _ERRORS if isinstance(e, kind))
            error = f"{code}: {e}".removesuffix(": ")
        except Exception as e:
            # One message must not end the keeper, which would take it up again and again.
            log.exception("webhook_not_sent", delivery_id=str(message.id))
            error = f"not_sent: {type(e).__name__}"
        else:
            return Outcome(status=status, seconds=time.monotonic() - began, retry_after=wait)
        return Outcome(status=None, seconds=time.monotonic() - began, error=error)

    def close(self) -> None:
        """Look up nothing more."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    def _post(self, message: Leased, until: float) -> tuple[int, float]:
        receiver = self._egress.receiver(message.url)
        scheme, host, target = (
            part.encode() for part in (receiver.scheme, receiver.host, receiver.target)
        )
        url = httpcore2.URL(scheme=scheme, host=host, port=receiver.port, target=target)
        connection = httpcore2.HTTPConnection(
            origin=url.origin,
            ssl_context=self._context,
            network_backend=_Pinned(self._found, self._egress, until),
        )
        body = message.body.encode()
        with (
            contextlib.closing(connection),
            connection.stream(
                "POST", url, headers=_headers(message, receiver), content=body
            ) as answer,
        ):
            _take_some(answer)
            return answer.status, _wait(answer)

    def _found(self, host: str, port: int, seconds: float) -> Sequence[str]:
        asked = self._resolvers.submit(self._lookup, host, port)
        try:
            return asked.result(seconds)
        except TimeoutError:
            asked.cancel()
            raise httpcore2.ConnectTimeout("The name was not resolved in time.") from None
        except (OSError, UnicodeError):
            raise httpcore2.ConnectError("The name has no address.") from None


class _Pinned(httpcore2.NetworkBackend):
    """Connects to an address that was checked, of those that a name has.

    Args:
        found: Looks a name up within so many seconds.
        egress: What is open.
        until: The try's end, by the monotonic clock.
    """

    def __init__(
        self, found: Callable[[str, int, float], Sequence[str]], egress: Egress, until: float
    ) -> None:
        self._found = found
        self._egress = egress
        self._until = until

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the try's end counts
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """A connection.

        Raises:
            AddressRefused: None of the name's addresses is open.
        """
        addresses = map(ip_address, self._found(host, port, _rest(self._until)))
        left = [str(one) for one in addresses if self._egress.allows(one)][:_MOST_ADDRESSES]
        if not left:
            raise AddressRefused
        while True:
            address = left.pop(0)
            try:
                stream = httpcore2.SyncBackend().connect_tcp(
                    address,
                    port,
                    # Some time is left for those that come after.
                    timeout=_rest(self._until) / (len(left) + 1),
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if not left:
                    raise
            else:
                return _Timed(stream, self._until)


class _Timed(httpcore2.NetworkStream):
    """A connection that ends in time, however slowly its other end goes on."""

    def __init__(self, stream: httpcore2.NetworkStream, until: float) -> None:
        self._stream = stream
        self._until = until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - as above
        return self._stream.read(max_bytes, _rest(self._until))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - as above
        self._stream.write(buffer, _rest(self._until))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 - as above
    ) -> httpcore2.NetworkStream:
        rest = _rest(self._until)
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, rest), self._until)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - as the library has it
        return self._stream.get_extra_info(info)


def _rest(until: float) -> float:
    rest = until - time.monotonic()
    if rest <= 0:
        raise httpcore2.ReadTimeout("The receiver took too long.")
    return rest


def _headers(message: Leased, receiver: Receiver) -> list[tuple[str, str]]:
    """With a signature for each secret (Standard Webhooks 1.0.0, "Webhook headers")."""
    now = datetime.fromtimestamp(int(time.time()), UTC)
    signatures = (
        Signer(secret.get_secret_value()).sign(str(message.id), now, message.body)
        for secret in message.secrets
    )
    return [
        ("Host", receiver.authority),
        ("User-Agent", _USER_AGENT),
        ("Content-Type", "application/json"),
        ("Connection", "close"),
        ("webhook-id", str(message.id)),
        ("webhook-timestamp", str(int(now.timestamp()))),
        ("webhook-signature", " ".join(signatures)),
    ]


def _take_some(answer: httpcore2.Response) -> None:
    """Let a receiver send the beginning of its body; its status has told what there is to know."""
    taken = 0
    with contextlib.suppress(
        httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError
    ):
        for part in answer.iter_stream():
            taken += len(part)
            if taken >= _BODY_BYTES:
                return


def _wait(answer: httpcore2.Response) -> float:
    """What the receiver asks for by `Retry-After` (RFC 9110, 10.2.3), in seconds."""
    headers = {name.lower(): value for name, value in answer.headers}
    text = headers.get(b"retry-after", b"").decode("ascii", "replace").strip()
    if text.isascii() and text.isdigit():
        wait = float(text[:9])
    else:
        try:
            wait = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return min(max(wait, 0.0), _LONGEST_WAIT)
