"""The part of the client that looks at jobs, waits for them, and changes their course."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from twofold_producer.client import going_on, jobs
from twofold_producer.client.asynchronous.sending import AsyncSender
from twofold_producer.progress import OnProgress, watched
from twofold_schema.states import JobState
from twofold_schema.wire import Attempt, Cancelled, JobReport, SubmissionStatus


class AsyncJobs(AsyncSender):
    """Looks at jobs and submissions, and waits for them."""

    async def get(self, job_id: UUID) -> JobReport:
        """The job as it is now.

        Raises:
            JobNotFound: You have none with this id.
        """
        return await self._run(jobs.get(job_id))

    async def get_many(self, job_ids: Sequence[UUID]) -> list[JobReport]:
        """Jobs in the order of their ids; those that you have none of are left out."""
        return await self._run(jobs.get_many(job_ids))

    async def get_by_key(self, key: str) -> JobReport:
        """The job of a key.

        Raises:
            JobNotFound: You have none with this key, or no more.
        """
        return await self._run(jobs.get_by_key(key))

    async def jobs(
        self,
        *,
        states: Iterable[JobState] = (),
        submission: UUID | None = None,
        metadata: Mapping[str, str] | None = None,
        before: UUID | None = None,
        page_size: int = 200,
    ) -> AsyncIterator[JobReport]:
        """Your jobs, newest first, page by page.

        Args:
            states: Only in one of these; in any where there are none.
            submission: Only of this one.
            metadata: Only with all of these pairs.
            before: Only older than this job.
            page_size: How many are asked for at once, 1 to 1000.
        """
        path: str | None = jobs.jobs_path(
            states=states,
            submission_id=submission,
            metadata=metadata,
            before=before,
            limit=page_size,
        )
        while path is not None:
            page = await self._run(jobs.page(path))
            for job in page.items:
                yield job
            path = page.next

    async def wait(
        self,
        job_ids: UUID | Sequence[UUID],
        *,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
        progress: bool | None = None,
    ) -> list[JobReport]:
        """Wait until jobs have ended, well or not.

        Args:
            job_ids: Theirs.
            timeout: In seconds; None waits for ever.
            on_progress: Told how many of how many are known to have ended, as that changes.
            progress: Whether to show how far it is; None does on a terminal.

        Raises:
            WaitTimeout: Time is over; the work goes on.
        """
        ids = [job_ids] if isinstance(job_ids, UUID) else list(job_ids)
        with watched(
            "upscaling",
            done="jobs have ended",
            progress=progress,
            go_on=lambda: going_on.waiting(ids),
        ) as tell:

            def told(ended: int, count: int) -> None:
                tell(ended, count)
                if on_progress is not None:
                    on_progress(ended, count)

            tell(0, len(set(ids)))
            return await self._run(jobs.wait_for_jobs(ids, timeout=timeout, on_progress=told))

    async def submission(self, submission_id: UUID) -> SubmissionStatus:
        """How far a submission is.

        Raises:
            SubmissionNotFound: You have none with this id.
        """
        return await self._run(jobs.submission(submission_id))

    async def wait_for_submission(
        self, submission_id: UUID, *, timeout: float | None = None
    ) -> SubmissionStatus:
        """Wait until a submission has ended, and its manifests lie in storage.

        Raises:
            WaitTimeout: Time is over; the work goes on.
        """
        return await self._run(jobs.wait_for_submission(submission_id, timeout=timeout))

    async def attempts(self, job_id: UUID) -> list[Attempt]:
        """How a job's claims ended, oldest first."""
        return await self._run(jobs.attempts(job_id))

    async def cancel(self, job_id: UUID) -> Cancelled:
        """Call a job off: at once while it waits, when its worker confirms while it runs."""
        return await self._run(jobs.cancel(job_id))

    async def retry(
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
        return await self._run(jobs.retry(job_id, start_by=start_by, finish_by=finish_by))

    async def result(self, job_id: UUID) -> bytes:
        """The file of a job's result.

        Raises:
            ResultNotReady: It has not succeeded.
        """
        return await self._run(jobs.result(job_id))
