# Made of asynchronous/operating.py by `python -m tools.sync_client`.
"""The part of the client that operates: many jobs by filter, pauses, and who works."""

from collections.abc import Iterable
from uuid import UUID

from twofold_producer.client import operating
from twofold_producer.client.synchronous.sending import Sender
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.states import JobClass
from twofold_schema.wire import Autoscale, KeyReport, OperationReport, QueueReport, WorkerReport


class Operator(Sender):
    """Cancels and retries by filter, pauses, and looks at the fleet."""

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
        flow = operating.operate(
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
        flow = operating.operate(
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
        return self._run(operating.operations(kinds, before, limit, unfinished=unfinished))

    def operation(self, operation_id: UUID) -> OperationReport:
        """How far an operation is."""
        return self._run(operating.operation(operation_id))

    def stop_operation(self, operation_id: UUID) -> OperationReport:
        """End an operation before it is done; what it has done stays."""
        return self._run(operating.stop_operation(operation_id))

    def queues(self) -> list[QueueReport]:
        """How many of your jobs are in which state, by class."""
        return self._run(operating.queues())

    def pause(self, *, reason: str, job_class: JobClass | None = None) -> None:
        """Let no more of your jobs be claimed, of a class or of all."""
        self._run(operating.pause(job_class, reason))

    def resume(self, *, reason: str = "", job_class: JobClass | None = None) -> bool:
        """End such a pause; returns whether there was one.

        Raises:
            ApiUnreachable: No answer came, so that nobody knows; `queues` says what is paused.
        """
        return self._run(operating.resume(job_class, reason))

    def key(self) -> KeyReport:
        """Whose your key is, what it is for, and of which version the service is.

        Raises:
            InvalidApiKey: It is in force no more, or never was.
        """
        return self._run(operating.key())

    def workers(self) -> list[WorkerReport]:
        """Who works."""
        return self._run(operating.workers())

    def autoscale(self, *, drain_seconds: float = 300.0) -> Autoscale:
        """What waits for GPUs."""
        return self._run(operating.autoscale(drain_seconds))
