"""The commands' door over HTTP: an API key says whose jobs they are, and who asks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final
from uuid import UUID

import typer

from twofold_producer.client import Client
from twofold_producer.client.submitting import refuse_faults
from twofold_producer.progress import OnProgress
from twofold_producer.submit.submission import Answer, OnAnswers, Outcome, Submission
from twofold_schema.errors import JobNotFound, SubmitError
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.states import CancelAnswer, JobClass, JobState
from twofold_schema.wire import JobReport, OperationReport, PauseReport, SubmissionStatus

#: What the service accepts in a page.
_PAGE: Final = 1000


class HttpDoor:
    """Asks the API through a `Client` with TWOFOLD_URL and TWOFOLD_API_KEY."""

    everything = "all that this API key speaks for"

    def __init__(self) -> None:
        self._client = Client()

    def submit(
        self,
        sources: Sequence[str],
        asked: Mapping[str, Any],
        *,
        tenant: str | None,
        key: str | None,
    ) -> Submission:
        _refuse(tenant=tenant)
        faults, items, places = [], [], []
        for position, source in enumerate(sources):
            try:
                items.append({"source": self._client.upload(source), **asked})
            except SubmitError as error:
                if len(sources) == 1:
                    raise
                fault = (position, asked["key"], Outcome.INVALID, None, error.code, error.message)
                faults.append(Answer(*fault))
            else:
                places.append(position)
        submission = self._client.submit_many(items, key=key, progress=False)
        if len(sources) == 1:
            refuse_faults(submission)
        faults += [_in_place(fault, places) for fault in submission.faults]
        return replace(
            submission,
            invalid=len(sources) - len(submission.job_ids),
            faults=tuple(sorted(faults)),
        )

    def submit_manifest(
        self, place: str, *, tenant: str | None, key: str | None, on_answers: OnAnswers
    ) -> Submission:
        _refuse(tenant=tenant)
        return self._client.submit_manifest(place, key=key, on_answers=on_answers)

    def find(
        self,
        *,
        tenant: str | None,
        states: Sequence[JobState],
        submission: UUID | None,
        metadata: Mapping[str, str],
        before: UUID | None,
        limit: int,
    ) -> Sequence[JobReport]:
        _refuse(tenant=tenant)
        found = self._client.jobs(
            states=states,
            submission=submission,
            metadata=metadata,
            before=before,
            page_size=min(limit, _PAGE),
        )
        return list(islice(found, limit))

    def get(self, job_ids: Sequence[UUID]) -> Sequence[JobReport]:
        found = {job.id: job for job in self._client.get_many(job_ids)}
        for job_id in job_ids:
            if job_id not in found:
                # For the service's own words.
                found[job_id] = self._client.get(job_id)
        return [found[job_id] for job_id in job_ids]

    def wait(
        self, job_ids: Sequence[UUID], *, timeout: float | None, on_progress: OnProgress
    ) -> Sequence[JobReport]:
        # An unknown one is said at once, not when its turn to be waited for comes.
        self.get(job_ids)
        return self._client.wait(job_ids, timeout=timeout, on_progress=on_progress, progress=False)

    def cancel(self, job_ids: Sequence[UUID]) -> Mapping[UUID, str]:
        answers: dict[UUID, str] = {}
        for job_id in job_ids:
            try:
                answers[job_id] = self._client.cancel(job_id).answer
            except JobNotFound:
                answers[job_id] = CancelAnswer.NOT_FOUND
        return answers

    def retry(self, job_ids: Sequence[UUID]) -> Iterator[UUID]:
        for job_id in job_ids:
            yield self._client.retry(job_id).id

    def submission(self, submission_id: UUID) -> SubmissionStatus:
        return self._client.submission(submission_id)

    def count(self, kind: OperationKind, where: JobFilter) -> Mapping[str, int]:
        return self._operate(kind)(where, reason="a count", dry_run=True).counts

    def operate(
        self,
        kind: OperationKind,
        where: JobFilter,
        *,
        reason: str,
        who: str | None,
        expected: int,
    ) -> OperationReport:
        _refuse(who=who)
        return self._operate(kind)(where, reason=reason, expected=expected)

    def operations(
        self,
        *,
        kinds: Sequence[OperationKind],
        unfinished: bool,
        before: UUID | None,
        limit: int,
    ) -> Sequence[OperationReport]:
        return self._client.operations(
            kinds=kinds, unfinished=unfinished, before=before, limit=limit
        )

    def operation(self, operation_id: UUID) -> OperationReport:
        return self._client.operation(operation_id)

    def stop(self, operation_id: UUID, *, who: str | None) -> OperationReport:
        _refuse(who=who)
        return self._client.stop_operation(operation_id)

    def pause(
        self, *, tenant: str | None, job_class: JobClass | None, reason: str, who: str | None
    ) -> None:
        _refuse(tenant=tenant, who=who)
        self._client.pause(reason=reason, job_class=job_class)

    def resume(
        self, *, tenant: str | None, job_class: JobClass | None, reason: str, who: str | None
    ) -> bool:
        _refuse(tenant=tenant, who=who)
        return self._client.resume(reason=reason, job_class=job_class)

    def pauses(self) -> Sequence[PauseReport]:
        # A pause of all classes is said of each of them.
        found = {
            (one.tenant, one.job_class): one
            for queue in self._client.queues()
            for one in queue.pauses
        }
        return sorted(found.values(), key=lambda one: one.paused_at)

    def close(self) -> None:
        self._client.close()

    def _operate(self, kind: OperationKind) -> Callable[..., OperationReport]:
        cancels = kind is OperationKind.CANCEL
        return self._client.cancel_where if cancels else self._client.retry_where


def _refuse(**stated: str | None) -> None:
    for name, value in stated.items():
        if value is not None:
            raise typer.BadParameter(
                f"over HTTP the API key says whose jobs they are and who asks; leave --{name} out"
            )


def _in_place(fault: Answer, places: Sequence[int]) -> Answer:
    """A fault of an item as one of its source, which stands in no line."""
    message = (fault.message or "").removeprefix(f"Line {fault.line}: ")
    return fault._replace(position=places[fault.position], message=message, line=None)
