"""The part of the client that hears what happens as it does."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from uuid import UUID

from twofold_producer.client import following, going_on, jobs
from twofold_producer.client.asynchronous.sending import AsyncSender
from twofold_producer.client.following import Behind, Stream
from twofold_producer.progress import watched
from twofold_producer.submit.submission import Submission
from twofold_schema.wire import EventReport, JobReport


class AsyncFollower(AsyncSender):
    """Follows the stream of events."""

    async def as_completed(
        self, work: Submission | Sequence[UUID], *, progress: bool | None = None
    ) -> AsyncIterator[JobReport]:
        """Jobs as they end, each once. It goes on over lost connections where it was.

        Args:
            work: A submission, or ids.
            progress: Whether to show how far it is; None does on a terminal.

        Raises:
            JobNotFound: You have none with one of these ids, or no more.
        """
        left = dict.fromkeys(work.job_ids if isinstance(work, Submission) else work)
        count = len(left)
        with watched(
            "upscaling",
            done="jobs have ended",
            progress=progress,
            go_on=lambda: going_on.waiting(work),
        ) as tell:
            tell(0, count)
            async with aclosing(self._ended(left)) as ended:
                async for job in ended:
                    tell(count - len(left), count)
                    yield job

    async def events(
        self,
        *,
        submission: UUID | None = None,
        job: UUID | None = None,
        after: str | None = None,
    ) -> AsyncIterator[EventReport]:
        """What happens to your jobs, from now on or since an event; it ends with the connection.

        Args:
            submission: Only to this one's.
            job: Only to this one.
            after: The `position` of the last event that you had.

        Raises:
            Behind: More came than the service keeps for you.
        """
        stream = Stream(after)
        async with self._followed(following.events(submission, job, after)) as lines:
            async for line in lines:
                event = stream.read(line)
                if event is not None:
                    yield event

    async def _ended(self, left: dict[UUID, None]) -> AsyncGenerator[JobReport]:
        """Jobs as they end; each is taken out of those that are left."""
        cursor: str | None = None
        while left:
            stream = Stream(cursor)
            try:
                async with self._followed(following.events(None, None, cursor)) as lines:
                    async for line in lines:
                        for job in await self._just_ended(stream.read(line), line, left):
                            del left[job.id]
                            yield job
                        if not left:
                            return
            except Behind:
                cursor = None
            else:
                cursor = stream.cursor

    async def _just_ended(
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
        return await self._run(jobs.ended_of(asked))
