"""`Idempotency-Key`, the key of what is submitted: draft-ietf-httpapi-idempotency-key-header-07."""

from typing import Annotated, Final, TypeAlias

from fastapi import Header

from twofold_schema.errors import BadRequest, IdempotencyKeyMissing

NAME: Final = "Idempotency-Key"
_WHAT: Final = "Yours, drawn once and sent again with every retry."

#: Of a request that may state its key elsewhere.
IdempotencyKey: TypeAlias = Annotated[
    str | None, Header(alias=NAME, max_length=180, description=_WHAT)
]
#: Of one that may not.
RequiredKey: TypeAlias = Annotated[
    str, Header(alias=NAME, min_length=1, max_length=180, description=_WHAT)
]


def required(header: str | None, stated: str | None = None) -> str:
    """The key of a request.

    Args:
        header: As it was sent. As a string of RFC 8941 it has quotes around it, which do not count.
        stated: In the body.

    Raises:
        IdempotencyKeyMissing: There is none.
        BadRequest: There are two.
    """
    key = header.strip() if header else None
    if key and len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if key and stated and key != stated:
        raise BadRequest("The Idempotency-Key is the job's key; state one, or both alike.")
    if not (key or stated):
        raise IdempotencyKeyMissing
    return key or str(stated)
