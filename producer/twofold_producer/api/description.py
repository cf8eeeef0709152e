"""What OpenAPI says of answers beside what FastAPI finds by itself: errors, and headers.

A route states the statuses of its own errors with `errors`; those that every route has are added
to all of them.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from twofold_schema.wire import Problem

#: Answers by their status, as a route states them.
Answers: TypeAlias = dict[int | str, dict[str, Any]]

PROBLEM: Final = "application/problem+json"


def _header(description: str, **schema: object) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", **schema}}


_REQUEST_ID: Final = {"X-Request-Id": _header("Of the request, as in the log.")}
_RETRY_AFTER: Final = {
    "Retry-After": _header("After how many seconds to ask again.", type="integer", minimum=0)
}
_RATE: Final = {
    "RateLimit": _header("Requests that are left (draft-ietf-httpapi-ratelimit-headers-10)."),
    "RateLimit-Policy": _header("How many there are, and in how many seconds."),
}
_WHO: Final = {"WWW-Authenticate": _header("What a key is sent as.")}
LOCATION: Final = {"Location": _header("Where it is.", format="uri-reference")}
ETAG: Final = {"ETag": _header("Of the job as it is now, for `If-None-Match`.")}
PREFERENCE: Final = {"Preference-Applied": _header("The wait that was granted.")}

#: What an error of each status means, and the headers that it may have.
_ERRORS: Final[Mapping[int, tuple[str, Mapping[str, Any]]]] = {
    400: ("The request cannot be read, or lacks its `Idempotency-Key`.", {}),
    401: ("There is no API key, or it is nobody's, or no longer.", _WHO),
    403: ("The key is not for this, or the place is not yours.", {}),
    404: ("You have none with this id, or no more.", {}),
    409: ("Not as things are; `code` says why, `retryable` whether to try again.", _RETRY_AFTER),
    413: ("The body is longer than is taken.", {}),
    422: ("What was sent is not acceptable; `field` and `errors` say what of it.", {}),
    429: ("Too many requests, or too many jobs that wait.", {**_RETRY_AFTER, **_RATE}),
    500: ("It is not your fault; the log has more under the `request_id`.", {}),
    503: ("It is busy, or the database or the storage is away; try again.", _RETRY_AFTER),
}


def errors(*statuses: int) -> Answers:
    """Answers of a route that went wrong.

    Args:
        statuses: Of HTTP, each in the table of this module.
    """
    return {status: {"$ref": f"#/components/responses/Problem{status}"} for status in statuses}


#: Of every route, and of every route that asks for a key.
EVERY: Final = errors(500, 503)
KEYED: Final = EVERY | errors(401, 403, 429)


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the answers in it that routes refer to."""
    components = document["components"]
    model = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"]["Problem"] = model
    components["responses"] = {
        f"Problem{status}": {
            "description": description,
            "headers": {**_REQUEST_ID, **headers},
            "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, (description, headers) in _ERRORS.items()
    }
    for methods in document["paths"].values():
        for operation in methods.values():
            operation["responses"] = {
                status: _referred(answer)
                for status, answer in sorted(operation["responses"].items())
            }
    return document


def _referred(answer: dict[str, Any]) -> dict[str, Any]:
    # FastAPI writes a description beside the reference that the referred one already has.
    return {"$ref": answer["$ref"]} if "$ref" in answer else answer
