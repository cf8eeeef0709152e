"""The part of the client that operates: many jobs by filter, pauses, and who works."""

from collections.abc import Iterable
from uuid import UUID

from twofold_producer.client import operating
from twofold_producer.client.asynchronous.sending import AsyncSender
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.states import JobClass
from twofold_schema.wire import Autoscale, KeyReport, OperationReport, QueueReport, WorkerReport


class AsyncOperator(AsyncSender):
    """Cancels and retries by filter, pauses, and looks at the fleet."""

    async def cancel_where(
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
        return await self._run(flow)

    async def retry_where(
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
        return await self._run(flow)

    async def operations(
        self,
        *,
        kinds: Iterable[OperationKind] = (),
        unfinished: bool = False,
        before: UUID | None = None,
        limit: int = 50,
    ) -> list[OperationReport]:
        """A page of operations over your jobs, newest first: who asked for what, and why."""
        return await self._run(operating.operations(kinds, before, limit, unfinished=unfinished))

    async def operation(self, operation_id: UUID) -> OperationReport:
        """How far an operation is."""
        return await self._run(operating.operation(operation_id))

    async def stop_operation(self, operation_id: UUID) -> OperationReport:
        """End an operation before it is done; what it has done stays."""
        return await self._run(operating.stop_operation(operation_id))

    async def queues(self) -> list[QueueReport]:
        """How many of your jobs are in which state, by class."""
        return await self._run(operating.queues())

    async def pause(self, *, reason: str, job_class: JobClass | None = None) -> None:
        """Let no more of your jobs be claimed, of a class or of all."""
        await self._run(operating.pause(job_class, reason))

    async def resume(self, *, reason: str = "", job_class: JobClass | None = None) -> bool:
        """End such a pause; returns whether there was one.

        Raises:
            ApiUnreachable: No answer came, so that nobody knows; `queues` says what is paused.
        """
        return await self._run(operating.resume(job_class, reason))

    async def key(self) -> KeyReport:
        """Whose your key is, what it is for, and of which version the service is.

        Raises:
            InvalidApiKey: It is in force no more, or never was.
        """
        return await self._run(operating.key())

    async def workers(self) -> list[WorkerReport]:
        """Who works."""
        return await self._run(operating.workers())

    async def autoscale(self, *, drain_seconds: float = 300.0) -> Autoscale:
        """What waits for GPUs."""
        return await self._run(operating.autoscale(drain_seconds))
