"""The client: all of its parts, and what it sends through."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from itertools import islice
from types import TracebackType
from typing import Any, Self

import httpx2

from twofold_producer.client import connecting, going_on, submitting
from twofold_producer.client.asynchronous.following import AsyncFollower
from twofold_producer.client.asynchronous.jobs import AsyncJobs
from twofold_producer.client.asynchronous.operating import AsyncOperator
from twofold_producer.client.asynchronous.submitting import AsyncSubmitter
from twofold_producer.progress import watched
from twofold_producer.submit.submission import Submission
from twofold_schema.wire import JobReport


class AsyncClient(AsyncSubmitter, AsyncJobs, AsyncFollower, AsyncOperator):
    """Submits jobs over HTTP and follows them. It may be shared; close it, or let a block do it.

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
        http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        service = connecting.service(url, api_key, timeout=timeout, max_retries=max_retries)
        super().__init__(service, http_client or httpx2.AsyncClient())
        self._owns = http_client is None

    async def map(
        self,
        items: Iterable[Mapping[str, Any]],
        *,
        window: int = 1000,
        ordered: bool = False,
        progress: bool | None = None,
    ) -> AsyncIterator[JobReport]:
        """Submit items and give their jobs as they end: no more than a window's at once.

        Args:
            items: The fields of `JobBody`, each, whose source is a URI, as `upload` gives one of a
                file; taken as there is room.
            window: How many jobs are under way at most.
            ordered: In the order of the items, not of their ends.
            progress: Whether to show how far it is; None does on a terminal.

        Raises:
            SubmitError: An item was not accepted; those before it go on.
            JobNotFound: The job of an item's key is gone: jobs may be kept for less long than keys.
        """
        going: list[Submission] = []
        rest, taken, ended = iter(submitting.several(items)), 0, 0
        with watched(
            "upscaling",
            done="jobs have ended",
            progress=progress,
            go_on=lambda: going_on.mapping(going),
        ) as tell:
            while True:
                chunk = list(islice(rest, max(1, window // 2)))
                if chunk:
                    # While one half is done, the other waits for its turn: the queue does not run
                    # dry.
                    going.append(await self.submit_many(chunk, progress=False))
                    submitting.refuse_faults(going[-1])
                    taken += len(chunk)
                if not going:
                    return
                if chunk and len(going) == 1:
                    continue
                async with aclosing(self._all_of(going[0], ordered=ordered)) as found:
                    async for job in found:
                        ended += 1
                        tell(ended, taken)
                        yield job
                del going[0]

    async def close(self) -> None:
        """Let connections go."""
        if self._owns:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _all_of(self, submission: Submission, *, ordered: bool) -> AsyncGenerator[JobReport]:
        ids = submission.job_ids
        async with aclosing(self._ended(dict.fromkeys(ids))) as found:
            if not ordered:
                async for job in found:
                    yield job
                return
            ended = {job.id: job async for job in found}
        for job_id in ids:
            yield ended[job_id]
