"""Errors as problem+json (RFC 9457)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException

from twofold_producer.api.description import PROBLEM
from twofold_producer.api.keys import NAME as IDEMPOTENCY_KEY
from twofold_schema import errors
from twofold_schema.database import is_transient
from twofold_schema.errors import (
    DatabaseUnavailable,
    InvalidRequest,
    RequestInProgress,
    TwofoldError,
)
from twofold_schema.wire import Problem

log = structlog.get_logger(__name__)

#: By kind of error, the first that fits; 422 for what was submitted, 500 for every other one.
_STATUS: Final[Sequence[tuple[type[TwofoldError], int]]] = (
    (errors.InvalidApiKey, 401),
    (errors.ScopeMissing, 403),
    (errors.PlaceNotAllowed, 403),
    (errors.JobNotFound, 404),
    (errors.SubmissionNotFound, 404),
    (errors.OperationNotFound, 404),
    (errors.NotFound, 404),
    (errors.MethodNotAllowed, 405),
    (errors.JobNotRetryable, 409),
    (errors.SubmissionSealed, 409),
    (errors.RequestInProgress, 409),
    (errors.ResultNotReady, 409),
    (errors.BodyTooLarge, 413),
    (errors.QueueFull, 429),
    (errors.RateLimited, 429),
    (errors.ApiBusy, 503),
    (errors.DatabaseUnavailable, 503),
    (errors.StorageUnavailable, 503),
    (errors.IdempotencyKeyMissing, 400),
    (errors.InvalidPosition, 400),
    (errors.BadRequest, 400),
    (errors.InvalidOperation, 422),
    (errors.SubmitError, 422),
    (errors.InvalidRequest, 422),
    (errors.JobError, 422),
)

#: What the server says by itself, as ours.
_SAID: Final[Mapping[int, type[TwofoldError]]] = {
    400: errors.BadRequest,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.BodyTooLarge,
}

#: Another request holds the key and has not ended.
_LOCK_NOT_AVAILABLE: Final = "55P03"
_RETRY_SECONDS: Final = 1


def install(app: FastAPI) -> None:
    """Let every error of the service become a problem."""
    app.add_exception_handler(TwofoldError, _on_ours)
    app.add_exception_handler(DBAPIError, _on_database)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_unforeseen)


def answer(
    request_id: str,
    error: TwofoldError,
    *,
    headers: Mapping[str, str] | None = None,
    **more: Any,  # noqa: ANN401 - members of the problem
) -> JSONResponse:
    """The answer to a request that went wrong.

    Args:
        request_id: Of the request.
        error: What went wrong.
        headers: Beside those that the error has.
        more: Members beside those that the error has.
    """
    status = next((number for kind, number in _STATUS if isinstance(error, kind)), 500)
    problem = Problem(
        type=f"urn:twofold:error:{error.code}",
        title=error.code.replace("_", " ").capitalize(),
        status=status,
        detail=error.message,
        code=error.code,
        retryable=error.retryable or status in {429, 503},
        request_id=request_id,
        **more,
    )
    own: dict[str, str] = {}
    if status == 401:
        own["WWW-Authenticate"] = 'Bearer realm="twofold"'
    if status in {409, 429, 503} and problem.retryable:
        own["Retry-After"] = str(getattr(error, "retry_after", None) or _RETRY_SECONDS)
    return JSONResponse(
        problem.model_dump(mode="json", exclude_none=True),
        status,
        headers={**own, **(headers or {})},
        media_type=PROBLEM,
    )


async def _on_ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TwofoldError)  # noqa: S101 - registered for it
    more: dict[str, Any] = dict(getattr(error, "members", {}))
    if "job_id" in request.path_params:
        more["job_id"] = request.path_params["job_id"]
    return answer(_id_of(request), error, **more)


async def _on_database(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DBAPIError)  # noqa: S101 - registered for it
    if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
        return answer(_id_of(request), RequestInProgress())
    if is_transient(error):
        log.warning("database_away", error=str(error.orig))
        return answer(_id_of(request), DatabaseUnavailable("The database is away; try again."))
    return await _on_unforeseen(request, error)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    faults = [
        {
            "field": ".".join(str(part) for part in fault["loc"][1:]) or str(fault["loc"][0]),
            "message": str(fault["msg"]).removeprefix("Value error, "),
        }
        for fault in error.errors()
    ]
    if any(_lacks_key(fault) for fault in error.errors()):
        return answer(_id_of(request), errors.IdempotencyKeyMissing())
    said = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults[:5])
    invalid = InvalidRequest(f"The request cannot be taken as it is: {said}.")
    return answer(_id_of(request), invalid, field=faults[0]["field"], errors=faults)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    if isinstance(error.__cause__, TwofoldError):
        # The framework takes whatever ends the reading of a body for a fault of the body's.
        return await _on_ours(request, error.__cause__)
    kind = _SAID.get(error.status_code, errors.BadRequest)
    headers = _allowed(request) if error.status_code == 405 else error.headers
    return answer(_id_of(request), kind(), headers=headers)


async def _on_unforeseen(request: Request, error: Exception) -> JSONResponse:
    # Told of by name only, to whoever asks; the log has the rest.
    log.error("request_failed", exc_info=error)
    return answer(_id_of(request), errors.ApiFailed())


def _lacks_key(fault: Mapping[str, Any]) -> bool:
    kinds = {"missing", "string_too_short"}
    return fault["type"] in kinds and fault["loc"] == ("header", IDEMPOTENCY_KEY)


def _allowed(request: Request) -> Mapping[str, str]:
    """All methods of a path: the framework names those of the first route only."""
    path = getattr(request.scope.get("route"), "path", "")
    methods = request.app.openapi()["paths"].get(path, {})
    return {"Allow": ", ".join(sorted(method.upper() for method in methods))}


def _id_of(request: Request) -> str:
    return str(request.scope.get("twofold.request_id", ""))
