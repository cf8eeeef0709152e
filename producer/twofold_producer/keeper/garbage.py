"""Results that no row names: of workers that died before they could complete, or came too late.

Only what this database can answer for is ever deleted: an object whose very name its job's row
would have given to a claim, whose claim is over, and which the row does not name as its result.
Objects of jobs that the database does not know are left alone, so that a keeper that is pointed
at an empty database deletes nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from uuid import UUID

import structlog
from sqlalchemy import Engine

from twofold_schema.artifacts import (
    CLAIM_FILE,
    ID,
    ArtifactUri,
    looks_claimed,
    preview_place,
    result_place,
)
from twofold_schema.errors import ResultDenied
from twofold_schema.job import Claim, Job
from twofold_schema.ledger import reads
from twofold_schema.states import JobState
from twofold_schema.storage.port import Entry, Storage

log = structlog.get_logger(__name__)

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found.

    Attributes:
        looked_at: How many objects were old enough to be judged.
        garbage: Those that no row names, in the order of their keys.
        ended: Whether it was the last page.
    """

    looked_at: int
    garbage: tuple[Entry, ...]
    ended: bool


class Collector:
    """Goes through the objects below a prefix, a page at a time, for ever.

    Args:
        engine: Of the database.
        storage: Where the objects lie.
        prefix: Below which results are stored.
        grace: Younger objects are left alone.
        dry_run: Only say what would be deleted.
    """

    def __init__(
        self,
        engine: Engine,
        storage: Storage,
        prefix: ArtifactUri,
        *,
        grace: timedelta,
        dry_run: bool = False,
    ) -> None:
        self._engine = engine
        self._storage = storage
        self._prefix = prefix
        self._grace = grace
        self._dry_run = dry_run
        self._after: ArtifactUri | None = None

    def look(self) -> Look:
        """Judge the next page, and delete its garbage unless this is a dry run.

        Raises:
            JobError: Storage is away, or does not let us.
        """
        page = list(islice(self._storage.list(self._prefix, after=self._after), _PAGE))
        before = datetime.now(UTC) - self._grace
        old = [entry for entry in page if entry.modified_at < before]
        garbage = tuple(self._unnamed(old))
        for entry in garbage:
            log.info("garbage", uri=str(entry.uri), bytes=entry.size, dry_run=self._dry_run)
            if not self._dry_run:
                self._delete(entry.uri)
        ended = len(page) < _PAGE
        self._after = None if ended else page[-1].uri
        return Look(len(old), garbage, ended)

    def _delete(self, uri: ArtifactUri) -> None:
        try:
            self._storage.delete(uri)
        except ResultDenied:
            # It may be kept for ever, by a lock say: the next look goes on behind it.
            self._after = uri
            raise

    def _unnamed(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        candidates = {entry: _ids(entry.uri) for entry in entries if looks_claimed(entry.uri)}
        if not candidates:
            return
        with self._engine.connect() as connection:
            known = reads.get_many(connection, list(set().union(*candidates.values())))
        jobs = {job.id: job for job in known}
        for entry, ids in candidates.items():
            if any(is_garbage(entry.uri, jobs[job_id]) for job_id in ids if job_id in jobs):
                yield entry


def is_garbage(uri: ArtifactUri, job: Job) -> bool:
    """Whether an object belongs to a claim of this job that is over and was not the winner's.

    A fence above the row's is of a future that this database has not seen: it was copied or
    restored, and another one may name the object.
    """
    named = CLAIM_FILE.fullmatch(uri.key.rpartition("/")[2])
    if named is None:
        return False
    claim = Claim(job_id=job.id, fence=int(named[1]), run_id=UUID(named[2]))
    if claim.fence > job.fence or uri not in {result_place(job, claim), preview_place(job, claim)}:
        return False
    under_way = job.state is JobState.RUNNING and job.claim == claim
    kept = {job.result.uri, job.result.preview} if job.result else set()
    return not under_way and str(uri) not in kept


def _ids(uri: ArtifactUri) -> set[UUID]:
    folder, _, _ = uri.key.rpartition("/")
    return {UUID(found) for found in ID.findall(folder)}
