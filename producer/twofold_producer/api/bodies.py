"""What is taken of a request's body: of whom, of which kind, how much, and how slowly it comes."""

import asyncio
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from twofold_producer.api.caller import require_key
from twofold_schema.errors import BadRequest, BodyTooLarge

JSON_LINES: Final = "application/x-ndjson"
#: The one place that takes JSON lines.
SUBMISSIONS: Final = "/v1/submissions"
#: Whoever sends nothing for so long has gone.
SILENCE_SECONDS: Final = 30.0


def are_lines(headers: Headers) -> bool:
    """Whether a body is JSON lines, by its media type; parameters say nothing of that."""
    kind, _, _ = headers.get("content-type", "").partition(";")
    return kind.strip().lower() == JSON_LINES


def takes_lines(scope: Scope) -> bool:
    """Whether a request's body is read as it comes, so that it may be long."""
    is_submission = scope["method"] == "POST" and scope["path"] == SUBMISSIONS
    return is_submission and are_lines(Headers(scope=scope))


def bounded(scope: Scope, receive: Receive, most: int) -> Receive:
    """Receive a body of no more than is allowed, and only of who shows a key.

    Routes read a body before they look at the key. What receives raises `InvalidApiKey`,
    `BodyTooLarge`, or `BadRequest` where nothing comes for too long.

    Raises:
        BodyTooLarge: It is known to be more.
        BadRequest: Its length is no number.
    """
    stated = Headers(scope=scope).get("content-length")
    if stated is not None:
        if not stated.isdecimal():
            raise BadRequest("Content-Length is no number.")
        if int(stated) > most:
            raise _too_large(most)
    got, is_whole = 0, False

    async def following() -> Message:
        nonlocal got, is_whole
        if is_whole:  # what may still come is the end of the connection, whenever that is
            return await receive()
        if not got:
            await require_key(Request(scope))
        message = await _in_time(scope, receive)
        got += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        if got > most:
            raise _too_large(most)
        return message

    return following


async def _in_time(scope: Scope, receive: Receive) -> Message:
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            return await receive()
    except TimeoutError:
        scope["twofold.hangs_up"] = True
        raise BadRequest(
            f"Nothing came for {SILENCE_SECONDS:g} s. Send all of it again; under the same "
            "Idempotency-Key, if it had one, as what came before may be written."
        ) from None


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body has more than {most} bytes; send less, or JSON lines.")
