"""What is taken of a request's body: of whom, of which kind, how much, and how slowly it comes."""

import asyncio
import time
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from twofold_producer.api.caller import require_key
from twofold_schema.errors import BadRequest, BodyTooLarge

JSON_LINES: Final = "application/x-ndjson"
#: The one place that takes JSON lines.
SUBMISSIONS: Final = "/v1/submissions"
#: Who sends a body may fall so far behind so few bytes a second, which no line is too slow for: a
#: connection, or a turn to submit many, is not held by a byte now and then.
PATIENCE_SECONDS: Final = 30.0
LEAST_BYTES_A_SECOND: Final = 4000


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
    `BodyTooLarge`, or `BadRequest` where it comes too slowly.

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
    got, is_whole, patience = 0, False, PATIENCE_SECONDS

    async def following() -> Message:
        nonlocal got, is_whole, patience
        if is_whole:  # what may still come is the end of the connection, whenever that is
            return await receive()
        if not got:
            await require_key(Request(scope))
        # Only while the sender is waited for: what is written meanwhile takes none of its time.
        asked = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                message = await receive()
        except TimeoutError:
            scope["twofold.hangs_up"] = True
            raise _too_slow() from None
        came = len(message.get("body", b""))
        patience += asked - time.monotonic() + came / LEAST_BYTES_A_SECOND
        patience = min(patience, PATIENCE_SECONDS)
        got += came
        is_whole = not message.get("more_body", False)
        if got > most:
            raise _too_large(most)
        return message

    return following


def _too_slow() -> BadRequest:
    return BadRequest(
        f"The body came too slowly: {PATIENCE_SECONDS:g} s behind {LEAST_BYTES_A_SECOND} bytes a "
        "second. Send all of it again; under the same Idempotency-Key, if it had one, as what came "
        "before may be written."
    )


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body has more than {most} bytes; send less, or JSON lines.")
