"""`/v1/jobs`: one job at a time, and pages of them."""

import hashlib
import re
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Final
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response, status
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from twofold_producer.api.caller import Owner, Reader, Submitter
from twofold_producer.api.description import ETAG, LOCATION, PREFERENCE, errors
from twofold_producer.api.keys import IdempotencyKey, required
from twofold_producer.api.service import PATIENCE_SECONDS, Parts, Service
from twofold_producer.submit.request import JobRequest
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import JobNotFound, ResultNotReady
from twofold_schema.job import NO_NUL, Job
from twofold_schema.ledger import keys, reads, requests
from twofold_schema.settings import LONGEST_WAIT_SECONDS
from twofold_schema.states import CancelAnswer, JobState
from twofold_schema.wire import (
    Attempt,
    Cancelled,
    JobBody,
    JobPage,
    JobReport,
    ResultLink,
    Retry,
)

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_PREFER_WAIT: Final = re.compile(r"(?:^|[,;])\s*wait=([0-9]{1,3})\s*(?:[,;]|$)")

WaitQuery = Annotated[
    float, Query(ge=0, le=LONGEST_WAIT_SECONDS, description="Seconds to wait until it has ended.")
]
Pairs = Annotated[
    list[Annotated[str, Field(pattern=r"^[^=\x00]+=[^\x00]*$")]] | None,
    Query(description="`name=value`: only with this pair in their metadata."),
]


@router.post(
    "",
    status_code=status.HTTP_202_ACCEPTED,
    responses=errors(400, 404, 409, 413, 422)
    | {
        200: {
            "model": JobReport,
            "description": "It has ended within the wait.",
            "headers": LOCATION | ETAG | PREFERENCE,
        },
        202: {"headers": LOCATION | ETAG | PREFERENCE},
    },
)
async def submit(
    body: JobBody,
    caller: Submitter,
    parts: Parts,
    response: Response,
    *,
    idempotency_key: IdempotencyKey = None,
    prefer: Annotated[str | None, Header(alias="Prefer")] = None,
) -> JobReport:
    """Submit one job. The `Idempotency-Key` is its key: the same request again is the same job.

    404 where that job is kept no more, and its key still is: nothing is done.
    """
    key = required(idempotency_key, body.key)
    job = await run_in_threadpool(_submit, parts, caller.submits_for, body, key)
    wanted = _PREFER_WAIT.search(prefer or "")
    if wanted is not None:
        seconds = min(float(wanted[1]), LONGEST_WAIT_SECONDS)
        job = await _ended(parts, job, seconds)
        response.headers["Preference-Applied"] = f"wait={seconds:g}"
    if job.state.is_final:
        response.status_code = status.HTTP_200_OK
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return _reported(job, response)


def _submit(parts: Service, tenant: str, body: JobBody, key: str) -> Job:
    request = JobRequest.of_fields(body.model_dump(exclude_unset=True) | {"key": key})
    accepted = parts.producer.submit(request, tenant=tenant, patience=PATIENCE_SECONDS)
    try:
        return parts.job(accepted.job_id, tenant)
    except JobNotFound:
        raise JobNotFound(
            f"The job of the key {key!r}, {accepted.job_id}, ended longer ago than jobs are kept. "
            "Nothing was done; use another key to have it done again."
        ) from None


@router.get("", responses=errors(422))
def find(
    caller: Reader,
    parts: Parts,
    *,
    state: Annotated[list[JobState] | None, Query(description="Only in these states.")] = None,
    submission: Annotated[UUID | None, Query(description="Only of this one.")] = None,
    key: Annotated[
        str | None, Query(max_length=200, pattern=NO_NUL, description="The one with this key.")
    ] = None,
    ids: Annotated[
        list[UUID] | None, Query(alias="id", max_length=100, description="These, in this order.")
    ] = None,
    metadata: Pairs = None,
    before: Annotated[UUID | None, Query(description="The last id of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> JobPage:
    """A page of jobs, newest first."""
    tenant = caller.tenant
    pairs = _pairs(metadata or [])
    with parts.reading() as connection:
        if key is not None:
            named = (caller.submits_for, key)
            held = keys.holders(connection, [named])
            ids = [UUID(bytes=held[named][0])] if named in held else []
        if ids is not None:
            jobs = reads.get_many(connection, ids, tenant=tenant)
            return JobPage(items=[JobReport.of(job) for job in jobs], next=None)
        jobs = reads.find(
            connection,
            tenant=caller.submits_for if pairs else tenant,
            states=state,
            submission_id=submission,
            metadata=pairs,
            before=before,
            limit=limit,
        )
    following = None
    if len(jobs) == limit:
        asked: list[tuple[str, object]] = [("state", one.value) for one in state or []]
        asked += [("metadata", pair) for pair in metadata or []]
        asked += [("submission", submission)] if submission else []
        following = "/v1/jobs?" + urlencode([*asked, ("before", jobs[-1].id), ("limit", limit)])
    return JobPage(items=[JobReport.of(job) for job in jobs], next=following)


@router.get(
    "/{job_id}",
    response_model=JobReport,
    responses=errors(404, 422)
    | {
        200: {"headers": ETAG},
        304: {"description": "It is as `If-None-Match` says.", "headers": ETAG},
    },
)
async def get(
    job_id: UUID,
    caller: Reader,
    parts: Parts,
    *,
    wait: WaitQuery = 0.0,
    if_none_match: Annotated[str | None, Header(alias="If-None-Match")] = None,
) -> Response:
    """One job; with `wait` once it has ended, or as it is after so long."""
    job = await parts.lookups.job(job_id, caller.tenant)
    if wait:
        job = await _ended(parts, job, wait, tenant=caller.tenant)
    body = JobReport.of(job).model_dump_json().encode()
    headers = {"ETag": _etag(body)}
    if if_none_match is not None and headers["ETag"] in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


@router.get("/{job_id}/attempts", responses=errors(404, 422))
def attempts(job_id: UUID, caller: Reader, parts: Parts) -> list[Attempt]:
    """How its claims ended, oldest first; those that were given back unused are left out."""
    job = parts.job(job_id, caller.tenant)
    ended = [
        Attempt(
            generation=error.generation,
            attempt=error.attempt,
            fence=error.fence,
            run_id=error.run_id,
            outcome="failed",
            error=error,
            at=error.at,
        )
        for error in job.errors
    ]
    if job.state in {JobState.RUNNING, JobState.SUCCEEDED}:
        over = job.state is JobState.SUCCEEDED
        last = Attempt(
            generation=job.generation,
            attempt=job.attempts if over else job.attempts + 1,
            fence=job.fence,
            run_id=job.run_id,
            outcome=job.state.value,
            error=None,
            at=job.finished_at if over else job.claimed_at,
        )
        ended.append(last)
    return ended


@router.post(
    "/{job_id}/cancel",
    status_code=status.HTTP_202_ACCEPTED,
    responses=errors(404, 409, 422),
)
def cancel(job_id: UUID, caller: Owner, parts: Parts) -> Cancelled:
    """Call it off: at once while it waits, when its worker confirms while it runs."""
    with parts.writing() as connection:
        answer = requests.cancel(connection, [job_id], tenant=caller.tenant)[job_id]
    if answer is CancelAnswer.NOT_FOUND:
        raise reads.not_found(job_id)
    return Cancelled(id=job_id, answer=answer.value)


@router.post(
    "/{job_id}/retry",
    status_code=status.HTTP_202_ACCEPTED,
    responses=errors(400, 404, 409, 413, 422) | {202: {"headers": LOCATION | ETAG}},
)
def retry(
    job_id: UUID, caller: Owner, parts: Parts, response: Response, body: Retry | None = None
) -> JobReport:
    """Give a failed or expired job a new generation, whose attempts start anew."""
    wanted = body or Retry()
    parts.producer.retry(
        job_id, tenant=caller.tenant, start_by=wanted.start_by, finish_by=wanted.finish_by
    )
    response.headers["Location"] = f"/v1/jobs/{job_id}"
    return _reported(parts.job(job_id, caller.tenant), response)


@router.get(
    "/{job_id}/result",
    status_code=status.HTTP_303_SEE_OTHER,
    responses=errors(404, 409, 422) | {303: {"headers": LOCATION}},
)
def result(job_id: UUID, caller: Reader, parts: Parts, response: Response) -> ResultLink:
    """Where its result can be fetched for a while; `Location` leads there."""
    job = parts.job(job_id, caller.tenant)
    if job.result is None:
        raise ResultNotReady(f"The job is {job.state}; only one that succeeded has a result.")
    expires = timedelta(seconds=parts.settings.api_link_seconds)
    place = ArtifactUri.parse(job.result.uri)
    link = parts.producer.storage.sign_read(place, expires=expires)
    response.headers["Location"] = link
    return ResultLink(
        url=link,
        expires_in_seconds=parts.settings.api_link_seconds,
        uri=job.result.uri,
        sha256=job.result.sha256,
        size_bytes=job.result.size_bytes,
        content_type=job.result.content_type,
    )


async def _ended(parts: Service, job: Job, seconds: float, *, tenant: str | None = None) -> Job:
    """The job once it has ended, or as it is after so long."""
    until = time.monotonic() + seconds
    while not job.state.is_final and (left := until - time.monotonic()) > 0:
        await parts.follower.wait_for_job(job.id, seconds=left)
        job = await parts.lookups.job(job.id, tenant)
    return job


def _reported(job: Job, response: Response) -> JobReport:
    report = JobReport.of(job)
    response.headers["ETag"] = _etag(report.model_dump_json().encode())
    return report


def _etag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def _pairs(given: list[str]) -> Mapping[str, str]:
    return {name: value for name, _, value in (one.partition("=") for one in given)}
