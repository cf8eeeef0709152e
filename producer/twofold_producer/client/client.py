"""The client, for threads."""

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

import httpx2

from twofold_producer.client import calls, connecting
from twofold_producer.client.answers import Answer
from twofold_producer.client.calls import Call, Flow
from twofold_producer.client.following import Behind, Stream, query
from twofold_producer.client.retrying import Tries
from twofold_producer.progress import OnProgress
from twofold_producer.submit.submission import OnAnswers, Submission
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.states import JobClass, JobState
from twofold_schema.wire import (
    Attempt,
    Autoscale,
    Cancelled,
    EventReport,
    JobReport,
    OperationReport,
    QueueReport,
    SubmissionStatus,
    WorkerReport,
)

Value = TypeVar("Value")


class Client:
    """Submits jobs over HTTP and follows them. Threads may share one; close it, or use `with`.

    Errors are those of the Python door, by their codes; `members` has the request's id.

    Args:
        url: Of the service; None for TWOFOLD_URL.
        api_key: None for TWOFOLD_API_KEY.
        timeout: What a request may take, in seconds, besides a wait that was asked for.
        max_retries: How often a request is sent again that found nobody, or was refused for now.
        http_client: Another one, as with a proxy; its own to close.

    Raises:
        ConfigError: There is no URL or no key.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        max_retries: int = 3,
        http_client: httpx2.Client | None = None,
    ) -> None:
        self._service = connecting.service(url, api_key, timeout=timeout, max_retries=max_retries)
        self._owns = http_client is None
        self._http = http_client or httpx2.Client()

    def submit(
        self,
        source: str | Path | bytes,
        *,
        key: str | None = None,
        wait: float = 0.0,
        **options: Any,  # noqa: ANN401 - checked by JobBody, field by field
    ) -> JobReport:
        """Submit one job.

        Args:
            source: A URI; or the path of a file, or a file's bytes, which are uploaded first.
            key: Your own name for the job: the same call again is the same job.
            wait: Seconds to wait for its end.
            options: The other fields of `JobBody`.

        Raises:
            SubmitError: It was not accepted.
        """
        uri = self.upload(source)
        return self._run(calls.submit(uri, options, key=key, wait=wait))

    def upload(self, source: str | Path | bytes) -> str:
        """Store what is to be a source; returns its URI, which is a new one each time.

        Args:
            source: The path of a file, or a file's bytes. A URI is returned as it is.

        Raises:
            SourceUnreadable: It cannot be read, or is of no kind that is taken.
        """
        if isinstance(source, str) and "://" in source:
            return source
        data = source if isinstance(source, bytes) else connecting.read(source)
        link = self._run(calls.upload(connecting.media_type(data)))
        return self._run(calls.put(link, data))

    def submit_many(
        self,
        items: Iterable[Mapping[str, Any]],
        *,
        key: str | None = None,
        on_answers: OnAnswers | None = None,
    ) -> Submission:
        """Submit many jobs, however many: they are written to a temporary file, and sent from it.

        Args:
            items: The fields of `JobBody`, each; taken one by one.
            key: Your own name for all of them together: the same call again goes on where it was.
            on_answers: Told what came of each item, in order.
        """
        with tempfile.TemporaryFile() as lines:
            lines.writelines(calls.as_lines(items))
            flow = calls.submit_lines(lines, key=key, on_answers=on_answers)
            return self._run(flow)

    def submit_manifest(
        self,
        place: str | PathLike[str],
        *,
        key: str | None = None,
        on_answers: OnAnswers | None = None,
    ) -> Submission:
        """Submit the lines of a JSONL manifest: of a file here, or at a URI.

        Raises:
            SourceUnreadable: There is no such file here, or it cannot be read.
        """
        if isinstance(place, str) and "://" in place:
            return self._run(calls.submit_manifest(place, key=key, on_answers=on_answers))
        with connecting.opened(place) as lines:
            flow = calls.submit_lines(lines, key=key, on_answers=on_answers)
            return self._run(flow)

    def get(self, job_id: UUID) -> JobReport:
        """The job as it is now.

        Raises:
            JobNotFound: You have none with this id.
        """
        return self._run(calls.get(job_id))

    def get_many(self, job_ids: Sequence[UUID]) -> list[JobReport]:
        """Jobs in the order of their ids; those that you have none of are left out."""
        return self._run(calls.get_many(job_ids))

    def get_by_key(self, key: str) -> JobReport:
        """The job of a key.

        Raises:
            JobNotFound: You have none with this key, or no more.
        """
        return self._run(calls.get_by_key(key))

    def jobs(
        self,
        *,
        states: Iterable[JobState] = (),
        submission: UUID | None = None,
        metadata: Mapping[str, str] | None = None,
        before: UUID | None = None,
        page_size: int = 200,
    ) -> Iterator[JobReport]:
        """Your jobs, newest first, page by page.

        Args:
            states: Only in one of these; in any where there are none.
            submission: Only of this one.
            metadata: Only with all of these pairs.
            before: Only older than this job.
            page_size: How many are asked for at once, 1 to 1000.
        """
        path: str | None = calls.jobs_path(
            states=states,
            submission_id=submission,
            metadata=metadata,
            before=before,
            limit=page_size,
        )
        while path is not None:
            page = self._run(calls.page(path))
            yield from page.items
            path = page.next

    def wait(
        self,
        job_ids: UUID | Sequence[UUID],
        *,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[JobReport]:
        """Wait until jobs have ended, well or not.

        Args:
            job_ids: Theirs.
            timeout: In seconds; None waits for ever.
            on_progress: Told how many of how many are known to have ended, as that changes.

        Raises:
            WaitTimeout: Time is over; the work goes on.
        """
        ids = [job_ids] if isinstance(job_ids, UUID) else list(job_ids)
        flow = calls.wait_for_jobs(ids, timeout=timeout, on_progress=on_progress)
        return self._run(flow)

    def submission(self, submission_id: UUID) -> SubmissionStatus:
        """How far a submission is.

        Raises:
            SubmissionNotFound: You have none with this id.
        """
        return self._run(calls.submission(submission_id))

    def wait_for_submission(
        self, submission_id: UUID, *, timeout: float | None = None
    ) -> SubmissionStatus:
        """Wait until a submission has ended, and its manifests lie in storage.

        Raises:
            WaitTimeout: Time is over; the work goes on.
        """
        return self._run(calls.wait_for_submission(submission_id, timeout=timeout))

    def as_completed(self, work: Submission | Sequence[UUID]) -> Iterator[JobReport]:
        """Jobs as they end, each once. It goes on over lost connections where it was.

        Args:
            work: A submission, or ids.
        """
        left = dict.fromkeys(work.job_ids if isinstance(work, Submission) else work)
        cursor: str | None = None
        while left:
            stream = Stream(cursor)
            try:
                with self._followed([], cursor) as lines:
                    for line in lines:
                        for job in self._just_ended(stream.read(line), line, left):
                            del left[job.id]
                            yield job
                        if not left:
                            return
            except Behind:
                cursor = None
            else:
                cursor = stream.cursor

    def events(
        self,
        *,
        submission: UUID | None = None,
        job: UUID | None = None,
        after: str | None = None,
    ) -> Iterator[EventReport]:
        """What happens to your jobs, from now on or since an event; it ends with the connection.

        Args:
            submission: Only to this one's.
            job: Only to this one.
            after: The `position` of the last event that you had.

        Raises:
            Behind: More came than the service keeps for you.
        """
        stream = Stream(after)
        with self._followed(query(submission, job), after) as lines:
            for line in lines:
                event = stream.read(line)
                if event is not None:
                    yield event

    def map(
        self,
        items: Iterable[Mapping[str, Any]],
        *,
        window: int = 1000,
        ordered: bool = False,
    ) -> Iterator[JobReport]:
        """Submit items and give their jobs as they end: no more than a window's at once.

        Args:
            items: The fields of `JobBody`, each; taken as there is room.
            window: How many jobs are under way at most.
            ordered: In the order of the items, not of their ends.

        Raises:
            SubmitError: An item was not accepted; those before it go on.
        """
        before: Submission | None = None
        rest = iter(items)
        while chunk := list(islice(rest, max(1, window // 2))):
            # While one half is done, the other waits for its turn: the queue does not run dry.
            submission = self.submit_many(chunk)
            calls.refuse_faults(submission)
            if before is not None:
                yield from self._all_of(before, ordered=ordered)
            before = submission
        if before is not None:
            yield from self._all_of(before, ordered=ordered)

    def attempts(self, job_id: UUID) -> list[Attempt]:
        """How a job's claims ended, oldest first."""
        return self._run(calls.attempts(job_id))

    def cancel(self, job_id: UUID) -> Cancelled:
        """Call a job off: at once while it waits, when its worker confirms while it runs."""
        return self._run(calls.cancel(job_id))

    def retry(
        self,
        job_id: UUID,
        *,
        start_by: datetime | None = None,
        finish_by: datetime | None = None,
    ) -> JobReport:
        """Give a failed or expired job a new generation.

        Raises:
            JobNotRetryable: It has neither failed nor expired.
        """
        return self._run(calls.retry(job_id, start_by=start_by, finish_by=finish_by))

    def result(self, job_id: UUID) -> bytes:
        """The file of a job's result.

        Raises:
            ResultNotReady: It has not succeeded.
        """
        return self._run(calls.result(job_id))

    def cancel_where(
        self,
        where: JobFilter,
        *,
        reason: str,
        dry_run: bool = False,
        expected: int | None = None,
    ) -> OperationReport:
        """Have all jobs called off that match; with `dry_run` only count them.

        Args:
            where: Which of the jobs that were submitted before.
            reason: Why, for people.
            dry_run: Only count.
            expected: How many there are, if you counted them.

        Raises:
            InvalidOperation: The filter states nothing, or what no such job can be.
        """
        flow = calls.operate(
            OperationKind.CANCEL, where, reason=reason, dry_run=dry_run, expected=expected
        )
        return self._run(flow)

    def retry_where(
        self,
        where: JobFilter,
        *,
        reason: str,
        dry_run: bool = False,
        expected: int | None = None,
    ) -> OperationReport:
        """Have all failed and expired jobs retried that match, as `cancel_where` calls off."""
        flow = calls.operate(
            OperationKind.RETRY, where, reason=reason, dry_run=dry_run, expected=expected
        )
        return self._run(flow)

    def operations(
        self,
        *,
        kinds: Iterable[OperationKind] = (),
        unfinished: bool = False,
        before: UUID | None = None,
        limit: int = 50,
    ) -> list[OperationReport]:
        """A page of operations over your jobs, newest first: who asked for what, and why."""
        return self._run(calls.operations(kinds, before, limit, unfinished=unfinished))

    def operation(self, operation_id: UUID) -> OperationReport:
        """How far an operation is."""
        return self._run(calls.operation(operation_id))

    def stop_operation(self, operation_id: UUID) -> OperationReport:
        """End an operation before it is done; what it has done stays."""
        return self._run(calls.stop_operation(operation_id))

    def queues(self) -> list[QueueReport]:
        """How many of your jobs are in which state, by class."""
        return self._run(calls.queues())

    def pause(self, *, reason: str, job_class: JobClass | None = None) -> None:
        """Let no more of your jobs be claimed, of a class or of all."""
        self._run(calls.pause(job_class, reason))

    def resume(self, *, reason: str = "", job_class: JobClass | None = None) -> bool:
        """End such a pause; returns whether there was one."""
        return self._run(calls.resume(job_class, reason))

    def workers(self) -> list[WorkerReport]:
        """Who works."""
        return self._run(calls.workers())

    def autoscale(self, *, drain_seconds: float = 300.0) -> Autoscale:
        """What waits for GPUs."""
        return self._run(calls.autoscale(drain_seconds))

    def close(self) -> None:
        """Let connections go."""
        if self._owns:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _all_of(self, submission: Submission, *, ordered: bool) -> Iterator[JobReport]:
        if not ordered:
            yield from self.as_completed(submission)
            return
        ended = {job.id: job for job in self.as_completed(submission)}
        yield from (ended[job_id] for job_id in submission.job_ids)

    def _just_ended(
        self, event: EventReport | None, line: str, left: Mapping[UUID, None]
    ) -> list[JobReport]:
        """Those that have ended, as an event says, or as a look at all of them does now and then.

        The service sends a comment when it begins to follow, and while nothing happens.
        """
        if line.startswith(":"):
            asked = list(left)
        elif event is not None and event.state.is_final and event.job_id in left:
            asked = [event.job_id]
        else:
            return []
        return [job for job in self._run(calls.get_many(asked)) if job.done]

    def _run(self, flow: Flow[Value]) -> Value:
        """Carry a flow's calls out."""
        try:
            call = next(flow)
            while True:
                call = flow.send(self._answer(call))
        except StopIteration as end:
            value: Value = end.value
            return value

    def _answer(self, call: Call) -> Answer:
        tries = Tries(self._service.max_retries)
        while True:
            answer, lost = None, None
            try:
                answer = self._ask(call)
                if answer.is_good:
                    return answer
            except httpx2.TransportError as error:
                lost = error
            pause = tries.pause_after(answer, repeatable=call.repeatable)
            if pause is None:
                raise answer.error() if answer else connecting.unreachable(lost)
            time.sleep(pause)

    def _ask(self, call: Call) -> Answer:
        request = self._http.build_request(**self._service.request(call))
        response = self._http.send(request, stream=True)
        try:
            lines = call.on_line if response.status_code < 400 else None
            if lines is None:
                response.read()
                return connecting.answer(response)
            for line in response.iter_lines():
                lines(line)
            return Answer(response.status_code, dict(response.headers), b"")
        finally:
            response.close()

    @contextmanager
    def _followed(
        self, asked: Sequence[tuple[str, str]], after: str | None
    ) -> Iterator[Iterator[str]]:
        """The lines of the stream of events; they end with the connection."""
        call = calls.events(asked, after)
        tries = Tries(self._service.max_retries)
        while True:
            request = self._http.build_request(**self._service.request(call))
            answer, lost = None, None
            try:
                response = self._http.send(request, stream=True)
                if response.status_code < 400:
                    break
                response.read()
                answer = connecting.answer(response)
            except httpx2.TransportError as error:
                lost = error
            pause = tries.pause_after(answer, repeatable=True)
            if pause is None:
                raise answer.error() if answer else connecting.unreachable(lost)
            time.sleep(pause)
        try:
            yield _until_lost(response)
        finally:
            response.close()


def _until_lost(response: httpx2.Response) -> Iterator[str]:
    try:
        yield from response.iter_lines()
    except httpx2.TransportError:
        # As if it had ended well: who follows goes on from the last event.
        return
