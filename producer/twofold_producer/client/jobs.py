"""Looking at jobs and submissions, waiting for them, changing one's mind."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from twofold_producer.client.calls import Call, Flow, listed, post
from twofold_producer.progress import OnProgress
from twofold_schema.errors import ApiFailed, JobNotFound, WaitTimeout
from twofold_schema.settings import LONGEST_WAIT_SECONDS
from twofold_schema.states import JobState
from twofold_schema.wire import (
    Attempt,
    Cancelled,
    JobPage,
    JobReport,
    ResultLink,
    SubmissionStatus,
)

#: Jobs that are asked for at once by their ids.
AT_ONCE: Final = 100


def get(job_id: UUID, *, wait: float = 0.0) -> Flow[JobReport]:
    """One job, once it has ended or as it is after so long."""
    wait = min(wait, LONGEST_WAIT_SECONDS)
    query = [("wait", f"{wait:g}")] if wait else []
    answer = yield Call(method="GET", path=f"/v1/jobs/{job_id}", query=query, waits=wait)
    return JobReport.model_validate_json(answer.body)


def get_by_key(key: str) -> Flow[JobReport]:
    """The job of a key."""
    answer = yield Call(method="GET", path="/v1/jobs", query=[("key", key)])
    found = JobPage.model_validate_json(answer.body).items
    if not found:
        raise JobNotFound(f"No job has the key {key!r}, or no more.")
    return found[0]


def get_many(job_ids: Sequence[UUID]) -> Flow[list[JobReport]]:
    """Jobs by their ids; those that are not yours are left out."""
    found: list[JobReport] = []
    for begin in range(0, len(job_ids), AT_ONCE):
        query = [("id", str(job_id)) for job_id in job_ids[begin : begin + AT_ONCE]]
        answer = yield Call(method="GET", path="/v1/jobs", query=query)
        found += JobPage.model_validate_json(answer.body).items
    return found


def ended_of(job_ids: Sequence[UUID]) -> Flow[list[JobReport]]:
    """Those of some jobs that have ended; an id that no job has ends the flow in an error.

    No more reports are held of the others than are asked for at once.
    """
    ended: list[JobReport] = []
    for begin in range(0, len(job_ids), AT_ONCE):
        asked = job_ids[begin : begin + AT_ONCE]
        found = {job.id: job for job in (yield from get_many(asked))}
        for job_id in asked:
            if job_id not in found:
                # For the service's own words.
                found[job_id] = yield from get(job_id)
        ended += [job for job in found.values() if job.done]
    return ended


def page(path: str) -> Flow[JobPage]:
    """A page of jobs."""
    return JobPage.model_validate_json((yield Call(method="GET", path=path)).body)


def wait_for_jobs(
    job_ids: Sequence[UUID], *, timeout: float | None, on_progress: OnProgress | None = None
) -> Flow[list[JobReport]]:
    """Jobs once all of them have ended, in the order given."""
    deadline = None if timeout is None else time.monotonic() + timeout
    ended: dict[UUID, JobReport] = {}
    count = len(set(job_ids))
    for job_id in job_ids:
        while job_id not in ended:
            left = LONGEST_WAIT_SECONDS if deadline is None else deadline - time.monotonic()
            job = yield from get(job_id, wait=max(0.0, left))
            if job.done:
                ended[job_id] = job
                if on_progress is not None:
                    on_progress(len(ended), count)
            elif left <= 0:
                raise WaitTimeout(
                    f"{count - len(ended)} of {count} jobs had not ended when they were looked at; "
                    "they go on, wait again."
                )
    return [ended[job_id] for job_id in job_ids]


def submission(submission_id: UUID, *, wait: float = 0.0) -> Flow[SubmissionStatus]:
    """How far a submission is, once it has ended or after so long."""
    wait = min(wait, LONGEST_WAIT_SECONDS)
    query = [("wait", f"{wait:g}")] if wait else []
    path = f"/v1/submissions/{submission_id}"
    answer = yield Call(method="GET", path=path, query=query, waits=wait)
    return SubmissionStatus.model_validate_json(answer.body)


def wait_for_submission(submission_id: UUID, *, timeout: float | None) -> Flow[SubmissionStatus]:
    """A submission once it has ended."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = LONGEST_WAIT_SECONDS if deadline is None else deadline - time.monotonic()
        found = yield from submission(submission_id, wait=max(0.0, left))
        if found.done:
            return found
        if left <= 0:
            raise WaitTimeout(
                f"{found.unfinished} of {found.total} jobs of the submission {submission_id} have "
                "not ended; they go on, wait again."
            )


def attempts(job_id: UUID) -> Flow[list[Attempt]]:
    """How a job's claims ended."""
    return (yield from listed(f"/v1/jobs/{job_id}/attempts", Attempt))


def cancel(job_id: UUID) -> Flow[Cancelled]:
    """Call a job off."""
    answer = yield post(f"/v1/jobs/{job_id}/cancel")
    return Cancelled.model_validate_json(answer.body)


def retry(
    job_id: UUID, *, start_by: datetime | None, finish_by: datetime | None
) -> Flow[JobReport]:
    """Give a job a new generation."""
    times = {"start_by": start_by, "finish_by": finish_by}
    stated = {name: time.isoformat() for name, time in times.items() if time}
    content = json.dumps(stated).encode()
    answer = yield post(f"/v1/jobs/{job_id}/retry", content, repeatable=False)
    return JobReport.model_validate_json(answer.body)


def result(job_id: UUID) -> Flow[bytes]:
    """The bytes of a job's result."""
    answer = yield Call(method="GET", path=f"/v1/jobs/{job_id}/result")
    link = ResultLink.model_validate_json(answer.body)
    found = (yield Call(method="GET", path=link.url)).body
    if sha256(found).hexdigest() != link.sha256:
        raise ApiFailed(f"What came from {link.uri} is not that job's result; ask for it again.")
    return found


def jobs_path(
    *,
    states: Iterable[JobState] = (),
    submission_id: UUID | None = None,
    metadata: Mapping[str, str] | None = None,
    before: UUID | None = None,
    limit: int = 200,
) -> str:
    """The path and query of the first page of jobs."""
    query: list[tuple[str, str]] = [("limit", str(limit))]
    query += [("state", state.value) for state in states]
    query += [("metadata", f"{name}={value}") for name, value in (metadata or {}).items()]
    query += [("submission", str(submission_id))] if submission_id else []
    query += [("before", str(before))] if before else []
    return f"/v1/jobs?{urlencode(query)}"
