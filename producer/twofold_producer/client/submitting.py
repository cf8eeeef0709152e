"""Submitting: what is sent, and what came of it."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from os import PathLike
from typing import Any, BinaryIO, Final
from uuid import UUID, uuid4

from pydantic import ValidationError

from twofold_producer.client.answers import Answer
from twofold_producer.client.calls import Call, Flow, post
from twofold_producer.submit.submission import Answer as Answered
from twofold_producer.submit.submission import JobIds, OnAnswers, Outcome, Submission
from twofold_schema.errors import ApiUnreachable, InvalidParameter
from twofold_schema.settings import LONGEST_WAIT_SECONDS
from twofold_schema.wire import JobBody, JobReport, Submitted, UploadBody, UploadLink

_JSON_LINES: Final = "application/x-ndjson"
_KEY: Final = "Idempotency-Key"
_IN_A_HEADER: Final = re.compile(r"[!-~](?:[ -~]{0,178}[!-~])?")
#: What a large submission may take.
_LONG_SECONDS: Final = 600.0
_MOST_FAULTS: Final = 1000


def new_key() -> str:
    """A key that nobody has had."""
    return str(uuid4())


def key_of_many(stated: str | None) -> str:
    """The key of a submission, which travels in a header; drawn where none is stated.

    Raises:
        InvalidParameter: It would not arrive as it is.
    """
    key = stated or new_key()
    is_quoted = len(key) > 1 and key[0] == key[-1] == '"'
    if is_quoted or not _IN_A_HEADER.fullmatch(key):
        raise InvalidParameter(
            "key: over HTTP the key of a submission has 1 to 180 characters of ASCII, without "
            "spaces or quotes around them; use another, such as the SHA-256 of this one in hex."
        )
    return key


def submit(
    source: str, options: Mapping[str, Any], *, key: str | None, wait: float
) -> Flow[JobReport]:
    """Submit one job."""
    # In the body, which takes every key: a header takes no other letters, nor as many.
    content = _body({"source": source, "key": key or new_key(), **options})
    headers = {"Content-Type": "application/json"}
    if wait:
        headers["Prefer"] = f"wait={min(wait, LONGEST_WAIT_SECONDS):.0f}"
    call = Call(method="POST", path="/v1/jobs", content=content, headers=headers, waits=wait)
    return JobReport.model_validate_json((yield call).body)


def _body(fields: Mapping[str, Any]) -> bytes:
    try:
        return JobBody.model_validate(fields).model_dump_json(exclude_unset=True).encode()
    except ValidationError as invalid:
        faults = (
            f"{'.'.join(map(str, fault['loc'])) or 'request'}: "
            f"{fault['msg'].removeprefix('Value error, ')}"
            for fault in invalid.errors(include_url=False, include_input=False)
        )
        raise InvalidParameter(f"The job was not accepted: {'; '.join(faults)}.") from None


def submit_lines(
    lines: BinaryIO,
    *,
    key: str | None,
    on_answers: OnAnswers | None = None,
    on_answer: Callable[[int], None] | None = None,
) -> Flow[Submission]:
    """Submit many: a JSON object a line, in a file that can be read again.

    Args:
        lines: The file.
        key: Of the submission.
        on_answers: Told what came of each.
        on_answer: Told of how many it is known what came of them.
    """
    came = _Came(on_answers, on_answer)
    body = {"content": lines, "type": _JSON_LINES}
    return (yield from _submit_many(body, key, came))


def submit_manifest(
    uri: str, *, key: str | None, on_answers: OnAnswers | None = None
) -> Flow[Submission]:
    """Submit the lines of a manifest that the service can read."""
    body = {"content": json.dumps({"manifest": uri}).encode(), "type": "application/json"}
    return (yield from _submit_many(body, key, _Came(on_answers)))


def _submit_many(body: Mapping[str, Any], key: str | None, came: "_Came") -> Flow[Submission]:
    yield Call(
        method="POST",
        path="/v1/submissions",
        content=body["content"],
        headers={
            _KEY: key_of_many(key),
            "Content-Type": body["type"],
            "Accept": _JSON_LINES,
        },
        waits=_LONG_SECONDS,
        on_line=came.add,
    )
    return came.submission()


class _Came:
    """What came of items, a line for each, and what all of it came to in the last."""

    def __init__(
        self, on_answers: OnAnswers | None, on_answer: Callable[[int], None] | None = None
    ) -> None:
        self._on_answers = on_answers
        self._on_answer = on_answer
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
        if self._on_answer is not None:
            self._on_answer(self._next)

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


def upload(content_type: str, sha256: str) -> Flow[UploadLink]:
    """A place for a source, by its content: the same one the next time."""
    body = UploadBody(content_type=content_type, sha256=sha256).model_dump_json().encode()
    return UploadLink.model_validate_json((yield post("/v1/uploads", body)).body)


def put(link: UploadLink, data: bytes) -> Flow[str]:
    """Put a source there; returns its URI."""
    yield Call(method="PUT", path=link.url, content=data, headers=link.headers)
    return link.uri


def refuse_faults(submission: Submission) -> None:
    """Raise what is wrong with the first item that was not accepted.

    Raises:
        SubmitError: There is one.
    """
    for fault in submission.faults:
        problem = {"code": fault.code, "detail": fault.message}
        answer = Answer(422, {}, json.dumps(problem).encode())
        raise answer.error()


def several(items: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """What is to be submitted together.

    Raises:
        InvalidParameter: It is one thing, which would be taken apart.
    """
    if isinstance(items, (str, bytes, bytearray, PathLike, Mapping)):
        raise InvalidParameter(
            f"This takes several items, not one {type(items).__name__}; give it a list, or submit "
            "the one."
        )
    return items


def as_lines(items: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Items as JSON lines.

    Raises:
        InvalidParameter: One has no source, or is no JSON; or they are one thing, not several.
    """
    for position, item in enumerate(several(items)):
        source = item.get("source") if isinstance(item, Mapping) else item
        if isinstance(source, (bytes, bytearray, memoryview, PathLike)):
            raise InvalidParameter(
                f"Item {position} has a {type(source).__name__} for a source, and many are not "
                'uploaded by themselves; give {"source": client.upload(…)}, which is its URI.'
            )
        if not isinstance(item, Mapping) or "source" not in item:
            raise InvalidParameter(
                f"Item {position} is no mapping with a source; give "
                '{"source": "s3://bucket/key"} and the fields that you need.'
            )
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
