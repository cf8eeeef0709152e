"""`/v1/submissions`: many jobs at once, inline or as JSON lines."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, Annotated, Any, Final
from uuid import UUID

import anyio
import anyio.from_thread
import structlog
from fastapi import APIRouter, Header, Query, Request, Response, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from twofold_producer.api.bodies import JSON_LINES, SUBMISSIONS, are_lines
from twofold_producer.api.caller import Reader, Submitter
from twofold_producer.api.description import LOCATION, errors
from twofold_producer.api.keys import RequiredKey, required
from twofold_producer.api.service import Parts, Service
from twofold_producer.submit.manifest import Line, lines
from twofold_producer.submit.submission import Answer, Submission
from twofold_schema.database import is_transient
from twofold_schema.errors import ApiFailed, BadRequest, DatabaseUnavailable, TwofoldError
from twofold_schema.ledger import submissions as ledger
from twofold_schema.settings import LONGEST_WAIT_SECONDS
from twofold_schema.submission import SubmissionReport
from twofold_schema.wire import Fault, SubmissionStatus, Submit, Submitted

log = structlog.get_logger(__name__)

router = APIRouter(prefix=SUBMISSIONS, tags=["submissions"])

_IN_MEMORY_BYTES: Final = 2**20

_LINES = {"schema": {"type": "string"}}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": Submit.model_json_schema()},
            JSON_LINES: {
                "schema": {"type": "string", "description": "A JobBody a line, however many."}
            },
        },
    }
}


@dataclass(frozen=True, slots=True)
class _Bulk:
    """What jobs have in common that are submitted together."""

    tenant: str
    key: str
    webhook: UUID | None


@router.post(
    "",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=Submitted,
    openapi_extra=_BODY,
    responses=errors(400, 409, 413, 422)
    | {202: {"headers": LOCATION, "content": {JSON_LINES: _LINES}}},
)
async def submit(
    request: Request,
    caller: Submitter,
    parts: Parts,
    *,
    idempotency_key: RequiredKey,
    webhook: Annotated[UUID | None, Query(description="The endpoint told of its end.")] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Submit many jobs. The same request again, whatever ended the first, goes on where it was.

    An item without a key has one made of the `Idempotency-Key` and its place. With `Accept:
    application/x-ndjson` the answer has a line for each item, and what it all came to in the last.
    """
    key = required(idempotency_key)
    if are_lines(request.headers):
        blocks = _blocks(request.stream())
        items = _keyed(lines(blocks), key)
    else:
        asked = _asked(await request.body())
        items = _items(asked, parts, caller.submits_for, key)
    bulk = _Bulk(caller.submits_for, key, webhook)
    if JSON_LINES not in (accept or ""):
        submission = await _in_thread(parts, bulk, items, None)
        body = Submitted.model_validate(_summed(submission))
        return JSONResponse(
            body.model_dump(mode="json"), status.HTTP_202_ACCEPTED, headers=_at(submission)
        )
    with ExitStack() as unless_sent:
        answers = unless_sent.enter_context(tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES))
        submission = await _in_thread(parts, bulk, items, answers)
        unless_sent.pop_all()
    return StreamingResponse(
        _sent(answers), status.HTTP_202_ACCEPTED, headers=_at(submission), media_type=JSON_LINES
    )


@router.get("/{submission_id}", responses=errors(404, 422))
async def get(
    submission_id: UUID,
    caller: Reader,
    parts: Parts,
    wait: Annotated[
        float, Query(ge=0, le=LONGEST_WAIT_SECONDS, description="Seconds to wait for its end.")
    ] = 0.0,
) -> SubmissionStatus:
    """How far it is, and where its manifests lie once it has ended.

    The counts of one that goes on and has many jobs may be some seconds old.
    """
    report = await _report(parts, submission_id, caller.tenant)
    until = time.monotonic() + wait
    while report.finished_at is None and (left := until - time.monotonic()) > 0:
        await parts.follower.wait_for_submission(submission_id, seconds=left)
        report = await _report(parts, submission_id, caller.tenant)
    return SubmissionStatus.of(report)


async def _report(parts: Service, submission_id: UUID, tenant: str | None) -> SubmissionReport:
    report = await run_in_threadpool(_row, parts, submission_id, tenant)
    if report.finished_at is None:
        return replace(report, counts=await parts.counts.of(submission_id))
    return report


def _row(parts: Service, submission_id: UUID, tenant: str | None) -> SubmissionReport:
    with parts.reading() as connection:
        return ledger.get(connection, submission_id, tenant=tenant)


def _asked(body: bytes) -> Submit:
    try:
        return Submit.model_validate_json(body)
    except ValidationError as invalid:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in invalid.errors()]
        raise RequestValidationError(faults) from None


def _items(asked: Submit, parts: Service, tenant: str, key: str) -> Iterator[Line]:
    """The lines that are asked for, read where they are submitted."""
    if asked.manifest is not None:
        yield from _keyed(parts.producer.manifest(asked.manifest, tenant=tenant), key)
    stated = enumerate(asked.items or [], 1)
    yield from _keyed((Line(number, json.dumps(item).encode()) for number, item in stated), key)


def _keyed(found: Iterable[Line], key: str) -> Iterator[Line]:
    return (Line(line.number, line.text, f"{key}/{line.number}") for line in found)


def _blocks(stream: AsyncIterator[bytes]) -> Iterator[bytes]:
    """A body as it comes, for a thread.

    Raises:
        BadRequest: Nothing can come any more.
    """

    async def following() -> bytes | None:
        return await anext(stream, None)

    try:
        while (block := anyio.from_thread.run(following)) is not None:
            yield block
    except ClientDisconnect:
        raise BadRequest(
            "The connection was lost half way: send all of it again with the same Idempotency-Key."
        ) from None


async def _in_thread(
    parts: Service, bulk: _Bulk, items: Iterable[Line], answers: IO[bytes] | None
) -> Submission:
    return await parts.bulks.run(bulk.tenant, partial(_submit, parts, bulk, items, answers))


def _submit(
    parts: Service, bulk: _Bulk, items: Iterable[Line], answers: IO[bytes] | None
) -> Submission:
    came = Counter[str]()

    def on_answers(written: Sequence[Answer]) -> None:
        came.update(answer.outcome.value for answer in written)
        if answers is not None:
            for answer in written:
                answers.write(json.dumps(answer._asdict(), default=str).encode() + b"\n")

    try:
        submission = parts.producer.submit_many(
            items,
            tenant=bulk.tenant,
            key=bulk.key,
            webhook=bulk.webhook,
            on_answers=on_answers,
        )
    except TwofoldError as error:
        raise _with_report(error, came) from error
    except DBAPIError as error:
        away: TwofoldError = DatabaseUnavailable(
            "The database went away half way; send all of it again with the same Idempotency-Key."
        )
        if not is_transient(error):
            log.exception("submission_failed")
            away = ApiFailed()
        raise _with_report(away, came) from error
    if answers is not None:
        answers.write(Submitted.model_validate(_summed(submission)).model_dump_json().encode())
        answers.write(b"\n")
        answers.seek(0)
    return submission


def _with_report(error: TwofoldError, came: Counter[str]) -> TwofoldError:
    """An error that says what was written before it."""
    error.members = {name: came[name] for name in ("created", "existing", "invalid")}
    return error


def _summed(submission: Submission) -> dict[str, Any]:
    return {
        "id": submission.id,
        "created": submission.created,
        "existing": submission.existing,
        "invalid": submission.invalid,
        "faults": [Fault.model_validate(fault) for fault in submission.faults],
    }


def _sent(answers: IO[bytes]) -> Iterator[bytes]:
    with answers:
        while block := answers.read(_IN_MEMORY_BYTES):
            yield block


def _at(submission: Submission) -> dict[str, str]:
    return {"Location": f"{SUBMISSIONS}/{submission.id}"}
