"""Where the service is, and how a request gets there."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Final

import httpx2

from twofold_producer.client.answers import Answer
from twofold_producer.client.calls import Call
from twofold_schema.errors import ApiUnreachable, ConfigError, SourceUnreadable
from twofold_schema.formats import sniff
from twofold_schema.settings import ClientSettings

#: Between the pings of a stream and what a network takes.
_STREAM_SECONDS: Final = 45.0
_BLOCK_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class Service:
    """The service, and who asks it.

    Attributes:
        url: Without a slash at its end.
        api_key: Sent to nobody else.
    """

    url: str
    api_key: str = field(repr=False)
    timeout: float
    max_retries: int

    def request(self, call: Call) -> dict[str, Any]:
        """What the HTTP client's `build_request` takes, besides the content."""
        own = call.path.startswith("/")
        streams = call.headers.get("Accept") == "text/event-stream"
        return {
            "method": call.method,
            "url": f"{self.url}{call.path}" if own else call.path,
            "params": list(call.query) or None,
            "headers": {
                **call.headers,
                **({"Authorization": f"Bearer {self.api_key}"} if own else {}),
            },
            "timeout": httpx2.Timeout(
                self.timeout,
                read=_STREAM_SECONDS if streams else self.timeout + call.waits,
            ),
        }


def service(url: str | None, api_key: str | None, *, timeout: float, max_retries: int) -> Service:
    """The service as it is stated, or as the environment says.

    Raises:
        ConfigError: There is no URL, one that is none, or no key.
    """
    stated = ClientSettings.load()
    if url is not None:
        stated = ClientSettings.load({"TWOFOLD_URL": url}).model_copy(
            update={"api_key": stated.api_key}
        )
    secret = api_key or (stated.api_key and stated.api_key.get_secret_value())
    if not stated.url or not secret:
        raise ConfigError("Say where the API is and who asks: TWOFOLD_URL and TWOFOLD_API_KEY.")
    return Service(stated.url, secret, timeout, max_retries)


def answer(response: httpx2.Response) -> Answer:
    """An answer that was read whole."""
    headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status_code, headers, response.content)


def unreachable(lost: Exception | None) -> ApiUnreachable:
    """What is said where nobody answered."""
    return ApiUnreachable(f"{ApiUnreachable().message} ({lost})")


def read(path: str | Path) -> bytes:
    """The bytes of a file that is to be uploaded.

    Raises:
        SourceUnreadable: It cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise SourceUnreadable(f"{str(path)!r} cannot be read: {error}.") from None


@contextmanager
def opened(path: str | PathLike[str]) -> Iterator[BinaryIO]:
    """A file whose lines are to be sent.

    Raises:
        SourceUnreadable: It cannot be read.
    """
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - closed below
    except (OSError, ValueError) as error:
        raise SourceUnreadable(f"{str(path)!r} cannot be read: {error}.") from None
    with file:
        yield file


def media_type(data: bytes) -> str:
    """Of a file that is to be uploaded, by its first bytes.

    Raises:
        SourceUnreadable: It is of no kind that is taken.
    """
    form = sniff(data)
    if form is None:
        raise SourceUnreadable(
            "These bytes are no PNG, JPEG or WebP picture and no safetensors or .npy latents."
        )
    return form.media_type


def body(content: bytes | BinaryIO | None) -> bytes | BinaryIO | None:
    """A body from its start, whatever an earlier try took of it."""
    if content is not None and not isinstance(content, bytes):
        content.seek(0)
    return content


def async_body(content: bytes | BinaryIO | None) -> bytes | AsyncIterator[bytes] | None:
    """The same, of which a file is read beside the event loop."""
    begun = body(content)
    return begun if begun is None or isinstance(begun, bytes) else _blocks(begun)


async def _blocks(file: BinaryIO) -> AsyncIterator[bytes]:
    while block := await asyncio.to_thread(file.read, _BLOCK_BYTES):
        yield block
