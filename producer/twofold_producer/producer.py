"""The Python door: submit jobs, follow them, change one's mind about them."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Any, Self, overload
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from twofold_producer.broker import Bell
from twofold_producer.progress import OnProgress
from twofold_producer.submit.acceptance import Acceptance
from twofold_producer.submit.bulk import Tally, in_turn, overlapping
from twofold_producer.submit.chunks import CHUNK_ITEMS, Chunk, Item, gather
from twofold_producer.submit.known_places import KnownPlaces
from twofold_producer.submit.manifest import Line, read_manifest
from twofold_producer.submit.request import JobRequest, Source, check_key, check_tenant, is_uri
from twofold_producer.submit.submission import OnAnswers, Submission
from twofold_producer.submit.transaction import after_commit, connection_of
from twofold_producer.submit.writing import Writing
from twofold_schema import database
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import InvalidParameter, WaitTimeout
from twofold_schema.job import DEFAULT_TENANT, Job
from twofold_schema.ledger import (
    batches,
    operations,
    reads,
    requests,
    rights,
    runs,
    submissions,
    submit,
)
from twofold_schema.ledger.new_jobs import Accepted, Written
from twofold_schema.operation import JobFilter, Operation, OperationKind
from twofold_schema.settings import (
    BrokerSettings,
    DatabaseSettings,
    LimitSettings,
    StorageSettings,
)
from twofold_schema.states import CancelAnswer
from twofold_schema.storage.places import OpenPlaces
from twofold_schema.submission import SubmissionReport
from twofold_schema.tenant_places import TenantPlaces

_FIRST_LOOK, _LONGEST_LOOK = 0.05, 1.0
#: A chunk whose commit may have failed is written again after each of these, in seconds; so long is
#: asked what a tenant may name.
_PAUSES = (0.1, 0.5, 2.0)


class Producer:
    """Submits jobs and follows them. Threads may share one; close it, or use it in `with`.

    Settings that are not given are read from the environment.

    Raises:
        ConfigError: A setting is missing or wrong.
    """

    def __init__(
        self,
        *,
        database_settings: DatabaseSettings | None = None,
        broker: BrokerSettings | None = None,
        storage: StorageSettings | None = None,
        limits: LimitSettings | None = None,
    ) -> None:
        self._engine = database.connect(database_settings or DatabaseSettings.load())
        self._bell = Bell(broker or BrokerSettings.load())
        places = storage or StorageSettings.load()
        self._limits = limits or LimitSettings.load()
        self.storage = OpenPlaces(places)
        self._own = places.own
        self._places = KnownPlaces(self._read_places)
        self._acceptance = Acceptance(self.storage, places, self._limits, self._places.of)

    def submit(
        self,
        request: JobRequest | Source,
        *,
        tenant: str = DEFAULT_TENANT,
        session: Session | None = None,
        patience: float | None = None,
        **options: Any,  # noqa: ANN401 - checked by JobRequest, field by field
    ) -> Accepted:
        """Submit one job.

        Args:
            request: A whole request, or its source.
            tenant: Whose job it is.
            session: Write inside this session's transaction: the job is there if, and only if,
                the session commits. Pending changes are flushed first.
            patience: How long to wait for another transaction that holds the job's key, in
                seconds; None for as long as a statement may take.
            options: The fields of `JobRequest`, when only a source is given.

        Raises:
            SubmitError: The job was not accepted; nothing was written.
            JobError: The picture could not be uploaded; nothing was written.
        """
        check_tenant(tenant)
        new_job = self._acceptance.accept(JobRequest.of(request, options), tenant=tenant)
        with self._transaction(session) as (connection, ring):
            if patience is not None:
                database.bound_waits(connection, seconds=patience)
            (accepted,) = submit.insert_jobs(connection, [new_job], remember_keys=self._remember)
            ring(int(accepted.created))
        return accepted

    def submit_many(
        self,
        items: Iterable[Item],
        *,
        tenant: str = DEFAULT_TENANT,
        key: str | None = None,
        strict: bool = False,
        webhook: UUID | None = None,
        session: Session | None = None,
        on_answers: OnAnswers | None = None,
        chunk: int = CHUNK_ITEMS,
    ) -> Submission:
        """Submit jobs together, however many. One that is not accepted does not stop the others.

        They are taken and written in chunks of some thousand, each in a transaction of its own, up
        to three side by side over connections of their own. After one that cannot be written none
        is begun, but some later ones may be there. Whatever ends the call half way, give the items
        keys and the same call repeated goes on where it was; give the submission a key and that
        goes on in the same submission.

        Args:
            items: Requests, their fields, sources alone, or a manifest's lines; of any number,
                taken one by one, in the thread that calls.
            tenant: Whose jobs they are.
            key: Your own name for the submission. While it is remembered, another call with it
                adds to the same submission, until that is sealed, and seals it.
            strict: Raise at the first item that is not accepted. What earlier chunks wrote stays,
                and the submission stays open.
            webhook: The id of a webhook endpoint that is told of the submission's end, besides
                those that are told of everything; its jobs name their own.
            session: Write all of it inside this session's transaction: the jobs are there if,
                and only if, the session commits. Pending changes are flushed first. After an error
                the transaction is as it was before.
            on_answers: Told what came of each item, in order, whenever a chunk is committed; with
                a session, when it is written.
            chunk: The most items of a transaction.

        Returns:
            The submission, sealed: it takes no more jobs.

        Raises:
            InvalidParameter: The tenant's name is blank, the key is no key, or there is no such
                endpoint.
            SubmissionSealed: Some of the items are new, but the submission of this key is sealed.
            QueueFull: The tenant would have more jobs waiting than it may. What earlier chunks
                wrote stays, and the submission stays open.
            SubmitError: One of the items was not accepted, and `strict`.
            JobError: Storage is away, so that a picture could not be uploaded.
        """
        if isinstance(items, (str, bytes, bytearray, PathLike, Mapping)):
            raise InvalidParameter(
                f"submit_many takes several items, not one {type(items).__name__}; give it a "
                "list, or the one to submit."
            )
        check_tenant(tenant)
        if key is not None:
            check_key(key)
        writing = Writing(
            key, tenant=tenant, remember=self._remember, strict=strict, webhook=webhook
        )
        accept = partial(self._acceptance.accept, tenant=tenant)
        chunks = gather(items, accept, strict=strict, most=chunk)
        tally = Tally(on_answers)
        if session is None:
            write = partial(self._write_alone, writing)
            overlapping(chunks, write, tally, one_by_one=strict)
        else:
            with self._transaction(session) as (connection, ring):
                in_turn(chunks, partial(writing.write, connection, alone=False), tally)
                ring(tally.created)
        return tally.submission(writing.submission_id)

    def _write_alone(self, writing: Writing, chunk: Chunk) -> Written:
        """Write a chunk in a transaction of its own; again, while nobody knows whether it did."""
        pauses, again = iter(_PAUSES), False
        while True:
            try:
                with self._transaction(None) as (connection, ring):
                    written = writing.write(connection, chunk, alone=True, again=again)
                    ring(sum(written.created))
            except DBAPIError as error:
                pause = next(pauses, None)
                # What was written before is these ids: a commit whose reply was lost came after
                # this try had looked for them.
                is_ours = again and isinstance(error, IntegrityError)
                if pause is None or not (is_ours or database.is_transient(error)):
                    raise
            else:
                return written
            again = True
            time.sleep(pause)

    def manifest(
        self, place: str | PathLike[str], *, tenant: str = DEFAULT_TENANT
    ) -> Iterator[Line]:
        """The lines of a JSONL manifest, for `submit_many`: one request a line.

        Args:
            place: A URI in storage, or the path of a local file.
            tenant: Who has to be allowed to read a URI.

        Raises:
            SubmitError: The place is no good, or the file cannot be read.
            JobError: Storage does not have it, or is away; also while it is read.
        """
        check_tenant(tenant)
        if is_uri(place):
            self._places.of(tenant).check_source(ArtifactUri.parse(place), self._own)
        return read_manifest(place, self.storage)

    def submission(self, submission_id: UUID) -> SubmissionReport:
        """How far a submission is, and where its manifests lie once it has ended.

        Raises:
            SubmissionNotFound: No submission has this id.
        """
        with self._engine.connect() as connection:
            return submissions.report(connection, submission_id)

    def get(self, job_id: UUID) -> Job:
        """The job as it is now.

        Raises:
            JobNotFound: No job has this id.
        """
        with self._engine.connect() as connection:
            return reads.get(connection, job_id)

    @overload
    def wait(self, work: UUID, *, timeout: float | None = None) -> Job: ...

    @overload
    def wait(
        self,
        work: Submission | Sequence[UUID],
        *,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[Job]: ...

    def wait(
        self,
        work: UUID | Submission | Sequence[UUID],
        *,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Job | list[Job]:
        """Wait until jobs have ended, well or not.

        Args:
            work: A job's id, ids, or a submission.
            timeout: In seconds; None waits for ever.
            on_progress: Told whenever more jobs have ended.

        Returns:
            The job, or the jobs in the order given.

        Raises:
            JobNotFound: One of the ids is unknown.
            WaitTimeout: Time is over; the work goes on.
        """
        if isinstance(work, UUID):
            return self.wait([work], timeout=timeout)[0]
        ids = work.job_ids if isinstance(work, Submission) else list(work)
        if not isinstance(work, Submission):
            self._require(ids)
        deadline = None if timeout is None else time.monotonic() + timeout
        left, pause = set(ids), _FIRST_LOOK
        while True:
            with self._engine.connect() as connection:
                now_left = reads.unfinished(connection, left)
            if on_progress and (now_left != left or not now_left):
                on_progress(len(set(ids)) - len(now_left), len(set(ids)))
            pause = _FIRST_LOOK if now_left != left else min(pause * 1.5, _LONGEST_LOOK)
            left = now_left
            if not left:
                break
            rest = pause if deadline is None else deadline - time.monotonic()
            if rest <= 0:
                raise WaitTimeout(
                    f"{len(left)} of {len(ids)} jobs have not ended; they go on, wait again."
                )
            time.sleep(min(pause, rest))
        with self._engine.connect() as connection:
            return reads.get_many(connection, ids)

    def cancel(self, job_ids: UUID | Sequence[UUID]) -> dict[UUID, CancelAnswer]:
        """Call jobs off: waiting ones at once, running ones when their worker confirms."""
        with self._engine.begin() as connection:
            return requests.cancel(connection, _as_list(job_ids))

    def retry(
        self,
        job_ids: UUID | Sequence[UUID],
        *,
        tenant: str | None = None,
        start_by: datetime | None = None,
        finish_by: datetime | None = None,
    ) -> None:
        """Give failed or expired jobs a new generation, all or none; attempts start anew.

        Args:
            job_ids: Of the jobs.
            tenant: Whose they have to be, or they are unknown; None for whosoever.
            start_by: The new generation's deadlines; the old ones do not carry over.
            finish_by: As `start_by`.

        Raises:
            JobNotFound: One of the ids is unknown.
            JobNotRetryable: One of the jobs has neither failed nor expired.
        """
        ids = _as_list(job_ids)
        with self._transaction(None) as (connection, ring):
            requests.retry(connection, ids, tenant=tenant, start_by=start_by, finish_by=finish_by)
            ring(len(ids))

    def cancel_where(
        self, where: JobFilter, *, reason: str, who: str, expected: int | None = None
    ) -> Operation:
        """Have the keeper call off all jobs that match, as `cancel` does, however many.

        Args:
            where: Which of the jobs that were submitted before.
            reason: Why, for people.
            who: Asks for it.
            expected: How many there are, if you counted them.

        Returns:
            The operation, which has just begun; `operation` says how far it is.

        Raises:
            InvalidOperation: The filter states nothing, or what no such job can be.
        """
        with self._engine.begin() as connection:
            return operations.begin(
                connection,
                OperationKind.CANCEL,
                where,
                reason=reason,
                who=who,
                expected=expected,
            )

    def retry_where(
        self, where: JobFilter, *, reason: str, who: str, expected: int | None = None
    ) -> Operation:
        """Have the keeper give all failed or expired jobs that match a new generation, once each.

        As `cancel_where`, of jobs that have failed or expired before.
        """
        with self._engine.begin() as connection:
            return operations.begin(
                connection, OperationKind.RETRY, where, reason=reason, who=who, expected=expected
            )

    def count_where(self, kind: OperationKind, where: JobFilter) -> Mapping[str, int]:
        """How many jobs such an operation would concern now, by what would come of them.

        Raises:
            InvalidOperation: As of `cancel_where`.
        """
        with self._engine.connect() as connection:
            return batches.count(connection, kind, where)

    def operation(self, operation_id: UUID) -> Operation:
        """How far an operation is.

        Raises:
            OperationNotFound: None has this id.
        """
        with self._engine.connect() as connection:
            return operations.get(connection, operation_id)

    def stop_operation(self, operation_id: UUID, *, who: str) -> Operation:
        """End an operation before it is done; what it has done stays.

        Raises:
            OperationNotFound: None has this id.
        """
        with self._engine.begin() as connection:
            return operations.stop(connection, operation_id, who=who)

    def close(self) -> None:
        """Let tickets leave and connections go."""
        self._bell.close()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read_places(self, tenant: str) -> TenantPlaces:
        pauses = iter(_PAUSES)
        while True:
            try:
                with self._engine.connect() as connection:
                    return rights.get(connection, tenant).places
            except DBAPIError as error:
                pause = next(pauses, None)
                if pause is None or not database.is_transient(error):
                    raise
            time.sleep(pause)

    def _require(self, ids: Sequence[UUID]) -> None:
        with self._engine.connect() as connection:
            known = {job.id for job in reads.get_many(connection, ids)}
        for job_id in ids:
            if job_id not in known:
                raise reads.not_found(job_id)

    @property
    def _remember(self) -> timedelta:
        return timedelta(days=self._limits.key_days)

    @contextmanager
    def _transaction(
        self, session: Session | None
    ) -> Iterator[tuple[Connection, Callable[[int], None]]]:
        """A transaction, and a way to ring for jobs once it has committed."""
        tickets = 0
        connection: Connection

        def ring(jobs: int) -> None:
            nonlocal tickets
            # More tickets than idle runs wake nobody more; one, because a run may just fall idle.
            tickets = min(jobs, max(1, runs.count_idle(connection))) if jobs else 0

        if session is None:
            with self._engine.begin() as connection:
                yield connection, ring
            self._bell.ring(tickets)
            return
        connection = connection_of(session)
        # A caller may catch the error and commit: no key of a refused job may stay behind.
        with connection.begin_nested():
            yield connection, ring
        after_commit(session, lambda: self._bell.ring(tickets))


def _as_list(job_ids: UUID | Sequence[UUID]) -> list[UUID]:
    return [job_ids] if isinstance(job_ids, UUID) else list(job_ids)
