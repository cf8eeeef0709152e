"""The one reader of events of a process, for all who wait: none holds a thread or a connection.

The stream ends before the oldest transaction that is open, wherever on the server; who waits for
one job is told by a look at its row, too, now and then.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from uuid import UUID

import anyio.to_thread
import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from twofold_schema.ledger import events, reads, submissions
from twofold_schema.ledger.events import Event, Position

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

#: How often the stream is read while somebody listens, in seconds; a full page is followed at once.
_EVERY_SECONDS: Final = 0.2
_AWAY_SECONDS: Final = 2.0
_PAGE: Final = 1000
#: How often the rows are looked at of what somebody waits for: of jobs events tell first.
_LOOK_SECONDS: Final = 1.0
#: A listener that is so far behind is let go; it comes back with the last event that it had.
_BEHIND: Final = 2000
_THREADS: Final = 4
#: After so long without an event a listener is told so: proxies hang up on silence.
_SILENCE_SECONDS: Final = 15.0
#: A listener that comes back after more events than this has to begin anew.
REPLAY: Final = 20_000


class Behind(Exception):
    """Events are left out: too many for a listener or a replay, no longer kept, or unreadable."""


@dataclass(eq=False)
class Listener:
    """Who is told of events.

    Attributes:
        tenant: Only of this one's jobs; None for all.
        submission_id: Only of this submission.
        job_id: Only of this job.
        is_over: Whether it may be told nothing more.
    """

    tenant: str | None = None
    submission_id: UUID | None = None
    job_id: UUID | None = None
    is_over: bool = False
    _heard: list[Event] = field(default_factory=list)
    _is_behind: bool = False
    _stirred: asyncio.Event = field(default_factory=asyncio.Event)

    def concerns(self, event: Event) -> bool:
        """Whether it is to be told of an event."""
        return (
            (self.tenant is None or event.tenant == self.tenant)
            and (self.submission_id is None or event.submission_id == self.submission_id)
            and (self.job_id is None or event.job_id == self.job_id)
        )

    def hear(self, event: Event) -> None:
        """Take an event, for `next`; once one was left out, none that came after it."""
        if len(self._heard) >= _BEHIND:
            self.miss()
        if not self._is_behind:
            self._heard.append(event)
            self._stirred.set()

    def miss(self) -> None:
        """Take note that something is left out."""
        self._is_behind = True
        self._stirred.set()

    def end(self) -> None:
        """Tell it nothing more."""
        self.is_over = True
        self._stirred.set()

    async def next(self) -> Sequence[Event]:
        """The next events, all that there are; none after a while in which nothing came.

        Raises:
            Behind: Some were left out.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_SILENCE_SECONDS):
                await self._stirred.wait()
        if not self._is_behind:
            self._stirred.clear()
        elif not self._heard:
            raise Behind
        came, self._heard = self._heard, []
        return came


class Waiters:
    """Who waits for the end of what.

    Args:
        unfinished: Which of some ids have not ended.
    """

    def __init__(self, unfinished: Callable[[Connection, Collection[UUID]], set[UUID]]) -> None:
        self.unfinished = unfinished
        self._waiting: defaultdict[UUID, set[asyncio.Event]] = defaultdict(set)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def ids(self) -> Sequence[UUID]:
        """What is waited for."""
        return list(self._waiting)

    @contextmanager
    def waiting(self, waited: UUID) -> Iterator[asyncio.Event]:
        """An event that is set when it may have ended."""
        ended = asyncio.Event()
        self._waiting[waited].add(ended)
        try:
            yield ended
        finally:
            self._waiting[waited].discard(ended)
            if not self._waiting[waited]:
                del self._waiting[waited]

    def wake(self, waited: UUID) -> None:
        """Tell those who wait for it."""
        for ended in self._waiting.get(waited, ()):
            ended.set()


class Follower:
    """Reads the stream while somebody listens. Only its event loop may use it.

    Args:
        engine: Of the database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._listeners: set[Listener] = set()
        self._jobs = Waiters(reads.unfinished)
        self._submissions = Waiters(submissions.unfinished)
        # Of its own, so that it is never behind whoever keeps all others.
        self._threads = anyio.CapacityLimiter(_THREADS)
        self._wanted = asyncio.Event()
        self._position: Position | None = None
        self._looked = 0.0

    async def run(self) -> None:
        """Follow the stream, for ever."""
        while True:
            await self._wanted.wait()
            try:
                full = await self._read_on()
                await self._look()
            except Behind:
                self._pass_over()
                full = False
            except DBAPIError as error:
                log.warning("database_away", error=str(error.orig))
                await asyncio.sleep(_AWAY_SECONDS)
                continue
            except Exception:
                # Those who wait for it would wait in vain, and those who come.
                log.exception("follower_failed")
                await asyncio.sleep(_AWAY_SECONDS)
                continue
            if not full:
                await asyncio.sleep(_EVERY_SECONDS)

    async def wait_for_job(self, job_id: UUID, *, seconds: float) -> None:
        """Return when a job may have ended, or after so long."""
        await self._wait(self._jobs, job_id, seconds)

    async def wait_for_submission(self, submission_id: UUID, *, seconds: float) -> None:
        """Return when a submission may have ended, or after so long."""
        await self._wait(self._submissions, submission_id, seconds)

    async def _wait(self, waiters: Waiters, waited: UUID, seconds: float) -> None:
        with waiters.waiting(waited) as ended:
            self._notice()
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), seconds)
        self._notice()

    async def listen(
        self, listener: Listener, after: Position | None
    ) -> AsyncGenerator[Sequence[Event]]:
        """Events as they come; first none, once nothing is missed from then on.

        Args:
            listener: Of whom.
            after: The last one that it had; None for those that are still to come.

        Raises:
            Behind: It is too far behind, or becomes so.
        """
        self._listeners.add(listener)
        self._notice()
        try:
            end = await self._in_thread(self._end)
            # Meanwhile another may have begun; from where that is, this one is told as well.
            begin = self._position = self._position or end
            yield []
            if after is not None:
                async for some in self._replay(listener, after, begin):
                    yield some
                # Another process had told it more than this one has read.
                begin = max(begin, after)
            while True:
                came = await listener.next()
                yield [event for event in came if event.position > begin]
        finally:
            self._listeners.discard(listener)
            self._notice()

    async def _replay(
        self, listener: Listener, after: Position, until: Position
    ) -> AsyncIterator[Sequence[Event]]:
        """What a listener has missed.

        Raises:
            Behind: It is too much, or is not all kept.
        """
        passed = 0
        while page := await self._read(self._missed, after):
            missed = [event for event in page if event.position <= until]
            yield [event for event in missed if listener.concerns(event)]
            if len(missed) < len(page):
                return
            passed += len(page)
            if passed > REPLAY:
                raise Behind
            after = page[-1].position

    async def _read_on(self) -> bool:
        """Tell of the next events; whether there may be more already."""
        if self._position is None:
            end = await self._in_thread(self._end)
            # Unless somebody who listens has begun meanwhile, and somewhere before.
            self._position = self._position or end
            return True
        page = await self._read(self._page, self._position)
        for event in page:
            for listener in self._listeners:
                if listener.concerns(event):
                    listener.hear(event)
            if event.state.is_final:
                self._jobs.wake(event.job_id)
        if page and self._wanted.is_set():
            self._position = page[-1].position
        return len(page) == _PAGE

    async def _read(
        self, page: Callable[[Position], Sequence[Event]], after: Position
    ) -> Sequence[Event]:
        """A page of events.

        Raises:
            Behind: One of them cannot be read, or some are no longer kept.
        """
        try:
            return await self._in_thread(page, after)
        except (DBAPIError, Behind):
            raise
        except Exception as error:
            log.exception("events_unreadable", after=str(after))
            raise Behind from error

    def _pass_over(self) -> None:
        """Go on at the end of the stream, as all do who listen once they have been told so."""
        for listener in self._listeners:
            listener.miss()
        self._position = None

    async def _look(self) -> None:
        """Tell of what ended without a word yet."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for waiters in (self._jobs, self._submissions):
            asked = waiters.ids
            unfinished = await self._in_thread(self._unfinished, waiters, asked)
            for waited in asked:
                if waited not in unfinished:
                    waiters.wake(waited)

    def _notice(self) -> None:
        if self._listeners or self._jobs or self._submissions:
            self._wanted.set()
        else:
            # Whoever comes next begins where the stream ends then.
            self._wanted.clear()
            self._position = None

    async def _in_thread(self, do: Callable[..., Answer], *arguments: Any) -> Answer:  # noqa: ANN401
        return await anyio.to_thread.run_sync(do, *arguments, limiter=self._threads)

    def _page(self, after: Position) -> Sequence[Event]:
        with self._engine.connect() as connection:
            return events.read(connection, after, limit=_PAGE)

    def _missed(self, after: Position) -> Sequence[Event]:
        with self._engine.connect() as connection:
            page = events.read(connection, after, limit=_PAGE)
            # Days are dropped whole, the oldest first: while it is there, so is what came after it.
            if not events.is_kept(connection, after):
                raise Behind
            return page

    def _end(self) -> Position:
        with self._engine.connect() as connection:
            return events.end(connection)

    def _unfinished(self, waiters: Waiters, ids: Sequence[UUID]) -> set[UUID]:
        if not ids:
            return set()
        with self._engine.connect() as connection:
            return waiters.unfinished(connection, ids)
