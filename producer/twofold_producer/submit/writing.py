"""The database's side of submitting many: one submission, chunk after chunk."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection

from twofold_producer.submit.chunks import Chunk
from twofold_schema.ids import new_id
from twofold_schema.ledger import submissions, submit
from twofold_schema.ledger.new_jobs import Written


class Writing:
    """Writes the chunks of one submission: the first and the last alone, others from any thread.

    Args:
        key: The caller's own name for the submission.
        tenant: Whose submission it is.
        remember: How long keys are held.
        strict: Raise at the first job that cannot be written.
        webhook: The endpoint that is told of the submission's end, whatever else is.

    Attributes:
        submission_id: Of the submission, once a chunk was written.
    """

    def __init__(
        self,
        key: str | None,
        *,
        tenant: str,
        remember: timedelta,
        strict: bool,
        webhook: UUID | None = None,
    ) -> None:
        self.submission_id: UUID = new_id()
        self._key = key
        self._tenant = tenant
        self._remember = remember
        self._strict = strict
        self._webhook = webhook
        # A script that is run again finds long stretches of keys that are held. A matter of speed
        # only, so that it does not matter which thread says so last.
        self._likely_new = True

    def write(
        self, connection: Connection, chunk: Chunk, *, alone: bool, again: bool = False
    ) -> Written:
        """Write a chunk; the last one seals the submission.

        Args:
            connection: In a transaction.
            chunk: Any, but for the first and the last.
            alone: Whether the transaction is this chunk's own.
            again: Whether this was tried before, and its commit may be what was lost.

        Raises:
            SubmissionSealed: Some of its jobs are new, but the submission takes no more.
            KeyReused: One of its keys belongs to another payload, and `strict`.
            QueueFull: Its tenant would have more jobs waiting than it may.
            InvalidParameter: The tenant has no such endpoint as the submission names, or as one of
                its jobs does, and `strict`.
        """
        if chunk.is_first:
            self.submission_id = submissions.begin(
                connection,
                submission_id=self.submission_id,
                tenant=self._tenant,
                key=self._key,
                webhook=self._webhook,
                remember_key=self._remember,
            )
        takes_more = submissions.join(
            connection, self.submission_id, to_seal=chunk.is_last or not alone
        )
        written = submit.insert_each(
            connection,
            chunk.jobs,
            job_ids=chunk.job_ids,
            submission_id=self.submission_id,
            remember_keys=self._remember,
            sealed=not takes_more,
            likely_new=self._likely_new,
            again=again,
        )
        if self._strict:
            for at, fault in written.faults.items():
                fault.add_note(f"It is item {chunk.positions[at]}.")
                raise fault
        if chunk.is_last:
            submissions.seal(connection, self.submission_id)
        self._likely_new = not written.created or bool(written.created[-1])
        return written
