"""The commands' door to the job table itself."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from twofold_producer.cli.app import login_name
from twofold_producer.producer import Producer
from twofold_producer.progress import OnProgress
from twofold_producer.submit.submission import OnAnswers, Submission
from twofold_schema import database
from twofold_schema.job import DEFAULT_TENANT
from twofold_schema.ledger import batches, operations, pauses, reads, requests, submissions
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.settings import DatabaseSettings
from twofold_schema.states import JobClass, JobState
from twofold_schema.wire import JobReport, OperationReport, PauseReport, SubmissionStatus


class LedgerDoor:
    """Asks the job table, and where jobs are submitted or waited for the `Producer`.

    Only a producer needs a broker and storage: who looks or calls off needs the database alone.
    """

    everything = "everything"

    def __init__(self) -> None:
        self._closing = ExitStack()

    @cached_property
    def _engine(self) -> Engine:
        engine = database.connect(DatabaseSettings.load())
        self._closing.callback(engine.dispose)
        return engine

    @cached_property
    def _producer(self) -> Producer:
        return self._closing.enter_context(Producer())

    def submit(
        self,
        sources: Sequence[str],
        asked: Mapping[str, Any],
        *,
        tenant: str | None,
        key: str | None,
    ) -> Submission:
        return self._producer.submit_many(
            ({"source": source, **asked} for source in sources),
            tenant=DEFAULT_TENANT if tenant is None else tenant,
            key=key,
            strict=len(sources) == 1,
        )

    def submit_manifest(
        self, place: str, *, tenant: str | None, key: str | None, on_answers: OnAnswers
    ) -> Submission:
        tenant = DEFAULT_TENANT if tenant is None else tenant
        lines = self._producer.manifest(place, tenant=tenant)
        return self._producer.submit_many(lines, tenant=tenant, key=key, on_answers=on_answers)

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
        with self._engine.connect() as connection:
            found = reads.find(
                connection,
                tenant=DEFAULT_TENANT if metadata and tenant is None else tenant,
                states=states or None,
                submission_id=submission,
                metadata=metadata,
                before=before,
                limit=limit,
            )
        return [JobReport.of(job) for job in found]

    def get(self, job_ids: Sequence[UUID]) -> Sequence[JobReport]:
        with self._engine.connect() as connection:
            return [JobReport.of(reads.get(connection, job_id)) for job_id in job_ids]

    def wait(
        self, job_ids: Sequence[UUID], *, timeout: float | None, on_progress: OnProgress
    ) -> Sequence[JobReport]:
        ended = self._producer.wait(job_ids, timeout=timeout, on_progress=on_progress)
        return [JobReport.of(job) for job in ended]

    def cancel(self, job_ids: Sequence[UUID]) -> Mapping[UUID, str]:
        with self._engine.begin() as connection:
            return requests.cancel(connection, list(job_ids))

    def retry(self, job_ids: Sequence[UUID]) -> Sequence[UUID]:
        self._producer.retry(job_ids)
        return job_ids

    def submission(self, submission_id: UUID) -> SubmissionStatus:
        with self._engine.connect() as connection:
            return SubmissionStatus.of(submissions.report(connection, submission_id))

    def count(self, kind: OperationKind, where: JobFilter) -> Mapping[str, int]:
        with self._engine.connect() as connection:
            return batches.count(connection, kind, where)

    def operate(
        self,
        kind: OperationKind,
        where: JobFilter,
        *,
        reason: str,
        who: str | None,
        expected: int,
    ) -> OperationReport:
        with self._engine.begin() as connection:
            begun = operations.begin(
                connection,
                kind,
                where,
                reason=reason,
                who=who or login_name(),
                expected=expected,
            )
        return OperationReport.of(begun)

    def operations(
        self,
        *,
        kinds: Sequence[OperationKind],
        unfinished: bool,
        before: UUID | None,
        limit: int,
    ) -> Sequence[OperationReport]:
        with self._engine.connect() as connection:
            found = operations.find(
                connection, kinds=kinds or None, unfinished=unfinished, before=before, limit=limit
            )
        return [OperationReport.of(one) for one in found]

    def operation(self, operation_id: UUID) -> OperationReport:
        with self._engine.connect() as connection:
            return OperationReport.of(operations.get(connection, operation_id))

    def stop(self, operation_id: UUID, *, who: str | None) -> OperationReport:
        with self._engine.begin() as connection:
            stopped = operations.stop(connection, operation_id, who=who or login_name())
        return OperationReport.of(stopped)

    def pause(
        self, *, tenant: str | None, job_class: JobClass | None, reason: str, who: str | None
    ) -> None:
        asker = who or login_name()
        with self._engine.begin() as connection:
            pauses.pause(connection, tenant=tenant, job_class=job_class, reason=reason, who=asker)

    def resume(
        self, *, tenant: str | None, job_class: JobClass | None, reason: str, who: str | None
    ) -> bool:
        asker = who or login_name()
        with self._engine.begin() as connection:
            return pauses.resume(
                connection, tenant=tenant, job_class=job_class, reason=reason, who=asker
            )

    def pauses(self) -> Sequence[PauseReport]:
        with self._engine.connect() as connection:
            return [PauseReport.model_validate(one) for one in pauses.in_force(connection)]

    def close(self) -> None:
        self._closing.close()
