"""What is asked of the service, and what is made of its answers; nothing here does I/O.

A flow is a generator: it yields calls, is sent their answers, and returns what it was for. Both
clients run the same flows.
"""

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO, Final, TypeAlias, TypeVar
from urllib.parse import urlencode
from uuid import UUID, uuid4

from pydantic import BaseModel, TypeAdapter

from twofold_producer.client.answers import Answer
from twofold_producer.progress import OnProgress
from twofold_producer.submit.submission import Answer as Answered
from twofold_producer.submit.submission import JobIds, OnAnswers, Outcome, Submission
from twofold_schema.errors import ApiUnreachable, InvalidParameter, JobNotFound, WaitTimeout
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.settings import LONGEST_WAIT_SECONDS
from twofold_schema.states import JobClass, JobState
from twofold_schema.wire import (
    Attempt,
    Autoscale,
    Cancelled,
    JobBody,
    JobPage,
    JobReport,
    OperationReport,
    QueueReport,
    ResultLink,
    Resumed,
    SubmissionStatus,
    Submitted,
    UploadLink,
    WorkerReport,
)

Value = TypeVar("Value")
#: A flow that returns a value.
Flow: TypeAlias = Generator["Call", Answer, Value]
Body = TypeVar("Body", bound=BaseModel)

JSON_LINES: Final = "application/x-ndjson"
_KEY: Final = "Idempotency-Key"
#: What a large submission may take.
_LONG_SECONDS: Final = 600.0
_MOST_FAULTS: Final = 1000
#: Jobs that are asked for at once by their ids.
AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request. What is no path of the service's is sent no API key.

    Attributes:
        path: With a leading slash; or a whole URL, which is sent no API key.
        content: Sent as it is, from the start with every try.
        waits: Seconds that the service was asked to wait.
        repeatable: Whether to ask twice comes to the same as once.
        on_line: Told each line of a good answer as it comes, instead of a body at the end.
    """

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    content: bytes | BinaryIO | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    waits: float = 0.0
    repeatable: bool = True
    on_line: Callable[[str], None] | None = None


def new_key() -> str:
    """An Idempotency-Key that nobody has had."""
    return str(uuid4())


def submit(
    source: str, options: Mapping[str, Any], *, key: str | None, wait: float
) -> Flow[JobReport]:
    """Submit one job."""
    body = JobBody.model_validate({"source": source, **options})
    headers = {_KEY: key or new_key()}
    if wait:
        headers["Prefer"] = f"wait={min(wait, LONGEST_WAIT_SECONDS):.0f}"
    job = yield from _posted("/v1/jobs", body, JobReport, headers=headers, waits=wait)
    return job


def submit_lines(
    lines: BinaryIO, *, key: str | None, on_answers: OnAnswers | None = None
) -> Flow[Submission]:
    """Submit many: a JSON object a line, in a file that can be read again."""
    return (yield from _submit_many({"content": lines, "type": JSON_LINES}, key, on_answers))


def submit_manifest(
    uri: str, *, key: str | None, on_answers: OnAnswers | None = None
) -> Flow[Submission]:
    """Submit the lines of a manifest that the service can read."""
    body = {"content": json.dumps({"manifest": uri}).encode(), "type": "application/json"}
    return (yield from _submit_many(body, key, on_answers))


def _submit_many(
    body: Mapping[str, Any], key: str | None, on_answers: OnAnswers | None
) -> Flow[Submission]:
    came = _Came(on_answers)
    yield Call(
        method="POST",
        path="/v1/submissions",
        content=body["content"],
        headers={
            _KEY: key or new_key(),
            "Content-Type": body["type"],
            "Accept": JSON_LINES,
        },
        waits=_LONG_SECONDS,
        on_line=came.add,
    )
    return came.submission()


class _Came:
    """What came of items, a line for each, and what all of it came to in the last."""

    def __init__(self, on_answers: OnAnswers | None) -> None:
        self._on_answers = on_answers
        self._ids = bytearray()
        self._faults: list[Answered] = []
        self._next = 0
        self._summed: Submitted | None = None

    def add(self, line: str) -> None:
        said = json.loads(line)
        if "outcome" not in said:
            self._summed = Submitted.model_validate(said)
        elif said["position"] >= self._next:
            # An answer that was cut off half way begins anew with the next try.
            self._next = said["position"] + 1
            self._note(_answered(said))

    def _note(self, answer: Answered) -> None:
        if answer.job_id is not None:
            self._ids += answer.job_id.bytes
        elif len(self._faults) < _MOST_FAULTS:
            self._faults.append(answer)
        if self._on_answers is not None:
            self._on_answers([answer])

    def submission(self) -> Submission:
        if self._summed is None:
            raise ApiUnreachable("The answer was cut short; send all of it again.")
        return Submission(
            id=self._summed.id,
            created=self._summed.created,
            existing=self._summed.existing,
            invalid=self._summed.invalid,
            job_ids=JobIds(self._ids),
            faults=tuple(self._faults),
        )


def _answered(said: Mapping[str, Any]) -> Answered:
    job_id = said["job_id"] and UUID(said["job_id"])
    return Answered(**{**said, "outcome": Outcome(said["outcome"]), "job_id": job_id})


def upload(content_type: str) -> Flow[UploadLink]:
    """A place for a source."""
    body = json.dumps({"content_type": content_type}).encode()
    return UploadLink.model_validate_json((yield _post("/v1/uploads", body, {})).body)


def put(link: UploadLink, data: bytes) -> Flow[str]:
    """Put a source there; returns its URI."""
    yield Call(method="PUT", path=link.url, content=data, headers=link.headers)
    return link.uri


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
    return (yield from _listed(f"/v1/jobs/{job_id}/attempts", Attempt))


def cancel(job_id: UUID) -> Flow[Cancelled]:
    """Call a job off."""
    answer = yield _post(f"/v1/jobs/{job_id}/cancel", b"", {})
    return Cancelled.model_validate_json(answer.body)


def retry(
    job_id: UUID, *, start_by: datetime | None, finish_by: datetime | None
) -> Flow[JobReport]:
    """Give a job a new generation."""
    times = {"start_by": start_by, "finish_by": finish_by}
    stated = {name: time.isoformat() for name, time in times.items() if time}
    content = json.dumps(stated).encode()
    answer = yield _post(f"/v1/jobs/{job_id}/retry", content, {}, repeatable=False)
    return JobReport.model_validate_json(answer.body)


def result(job_id: UUID) -> Flow[bytes]:
    """The bytes of a job's result."""
    answer = yield Call(method="GET", path=f"/v1/jobs/{job_id}/result")
    link = ResultLink.model_validate_json(answer.body)
    return (yield Call(method="GET", path=link.url)).body


def queues() -> Flow[list[QueueReport]]:
    """What waits, by class."""
    return (yield from _listed("/v1/queues", QueueReport))


def pause(job_class: JobClass | None, reason: str) -> Flow[None]:
    """Let no more be claimed."""
    body = json.dumps({"job_class": job_class, "reason": reason}).encode()
    yield _post("/v1/queues/pause", body, {})


def resume(job_class: JobClass | None, reason: str) -> Flow[bool]:
    """End a pause; returns whether there was one."""
    body = json.dumps({"job_class": job_class, "reason": reason}).encode()
    answer = yield _post("/v1/queues/resume", body, {})
    return Resumed.model_validate_json(answer.body).ended


def operate(
    kind: OperationKind, where: JobFilter, *, reason: str, dry_run: bool, expected: int | None
) -> Flow[OperationReport]:
    """Cancel or retry by filter."""
    body = {
        "kind": kind,
        "where": where.to_json(),
        "reason": reason,
        "dry_run": dry_run,
        "expected": expected,
    }
    call = _post("/v1/operations", json.dumps(body).encode(), {}, repeatable=dry_run)
    answer = yield call
    return OperationReport.model_validate_json(answer.body)


def operations(
    kinds: Iterable[OperationKind], before: UUID | None, limit: int, *, unfinished: bool
) -> Flow[list[OperationReport]]:
    """A page of operations."""
    query = [("kind", kind.value) for kind in kinds]
    query += [("unfinished", "true")] if unfinished else []
    query += [("before", str(before))] if before else []
    query += [("limit", str(limit))]
    return (yield from _listed(f"/v1/operations?{urlencode(query)}", OperationReport))


def operation(operation_id: UUID) -> Flow[OperationReport]:
    """How far an operation is."""
    answer = yield Call(method="GET", path=f"/v1/operations/{operation_id}")
    return OperationReport.model_validate_json(answer.body)


def stop_operation(operation_id: UUID) -> Flow[OperationReport]:
    """End an operation."""
    answer = yield _post(f"/v1/operations/{operation_id}/stop", b"", {})
    return OperationReport.model_validate_json(answer.body)


def workers() -> Flow[list[WorkerReport]]:
    """Who works."""
    return (yield from _listed("/v1/workers", WorkerReport))


def autoscale(drain_seconds: float) -> Flow[Autoscale]:
    """What waits for GPUs."""
    query = [("drain_seconds", f"{drain_seconds:g}")]
    answer = yield Call(method="GET", path="/v1/autoscale", query=query)
    return Autoscale.model_validate_json(answer.body)


def events(asked: Sequence[tuple[str, str]], after: str | None) -> Call:
    """What follows the stream of events."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
    return Call(method="GET", path="/v1/events", query=asked, headers=headers)


def refuse_faults(submission: Submission) -> None:
    """Raise what is wrong with the first item that was not accepted.

    Raises:
        SubmitError: There is one.
    """
    for fault in submission.faults:
        problem = {"code": fault.code, "detail": fault.message}
        answer = Answer(422, {}, json.dumps(problem).encode())
        raise answer.error()


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


def as_lines(items: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Items as JSON lines.

    Raises:
        InvalidParameter: One has no source, or is no JSON.
    """
    for position, item in enumerate(items):
        if not isinstance(item, Mapping) or "source" not in item:
            raise InvalidParameter(f"Item {position} is no mapping with a source.")
        try:
            yield json.dumps(dict(item), default=_plain).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise InvalidParameter(f"Item {position} cannot be sent: {error}.") from None


def _plain(thing: object) -> str:
    if isinstance(thing, datetime):
        return thing.isoformat()
    if isinstance(thing, UUID):
        return str(thing)
    raise TypeError(f"a {type(thing).__name__} is no JSON")


def _post(
    path: str, content: bytes, headers: Mapping[str, str], *, repeatable: bool = True
) -> Call:
    typed = {"Content-Type": "application/json"} if content else {}
    return Call(
        method="POST",
        path=path,
        content=content,
        headers={**typed, **headers},
        repeatable=repeatable,
    )


def _posted(
    path: str, body: BaseModel, kind: type[Body], *, headers: Mapping[str, str], waits: float
) -> Flow[Body]:
    content = body.model_dump_json(exclude_unset=True).encode()
    typed = {"Content-Type": "application/json", **headers}
    call = Call(method="POST", path=path, content=content, headers=typed, waits=waits)
    return kind.model_validate_json((yield call).body)


def _listed(path: str, kind: type[Body]) -> Flow[list[Body]]:
    answer = yield Call(method="GET", path=path)
    return TypeAdapter(list[kind]).validate_json(answer.body)  # type: ignore[valid-type]
