"""Results under fixed names: copied after completion, looked at again, repaired where stale.

A job's own result is named by its fence and its run, and never changes. A fixed name may be
written by several jobs, and by a keeper that froze on the way and woke up late. So the copy
carries the job and the fence that it was made of, a name is written only over older ones, and a
job counts as published only once a later look has found its name in order.
"""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from twofold_schema.artifacts import ArtifactUri, publish_place
from twofold_schema.database import persevere
from twofold_schema.errors import InvalidUri, JobError
from twofold_schema.job import Job
from twofold_schema.ledger import objects, rights
from twofold_schema.ledger.rights import Rights
from twofold_schema.storage.port import Storage

log = structlog.get_logger(__name__)

_JOBS_PER_LOOK = 200
#: Each holds a connection while it copies; the smallest pool has as many.
_THREADS = 4
#: What a copy may take in a store that is never silent, in seconds.
_LEAST_PATIENCE = 10.0
#: A name that cannot be written is tried again after so many seconds, doubling up to the second.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0


class Publisher:
    """Brings fixed names up to date.

    Args:
        engine: Of the database.
        storage: Where results and names lie.
    """

    def __init__(self, engine: Engine, storage: Storage) -> None:
        self._engine = engine
        self._storage = storage
        self._patience = _LEAST_PATIENCE + storage.capabilities.silence_seconds
        self._pauses: dict[UUID, tuple[float, float]] = {}

    def publish(self) -> int:
        """Look at the names of all jobs that wait for theirs; returns how many were copied."""
        now = time.monotonic()
        paused = [job_id for job_id, (until, _) in self._pauses.items() if until > now]
        with self._engine.connect() as connection:
            jobs = objects.unpublished(connection, limit=_JOBS_PER_LOOK, but=paused)
            limited = rights.of_each(connection, {job.tenant for job in jobs}) if jobs else {}
        if not jobs:
            return 0
        with ThreadPoolExecutor(_THREADS, "publish") as pool:
            return sum(pool.map(lambda job: self._attempt(job, limited.get(job.tenant)), jobs))

    def _attempt(self, job: Job, limits: Rights | None) -> bool:
        try:
            if limits is not None and (name := publish_place(job)) is not None:
                # A tenant may have lost the place since it asked for it.
                limits.places.check_name(name)
            copied = self._bring_up_to_date(job)
        except (JobError, InvalidUri) as error:
            _, pause = self._pauses.get(job.id, (0.0, _FIRST_PAUSE / 2))
            pause = min(2 * pause, _LONGEST_PAUSE)
            self._pauses[job.id] = (time.monotonic() + pause, pause)
            log.warning("not_published", job_id=str(job.id), code=error.code, error=error.message)
            return False
        self._pauses.pop(job.id, None)
        return copied

    def _bring_up_to_date(self, job: Job) -> bool:
        """Mark the job if its name is in order, else copy its result there."""
        name = publish_place(job)
        if name is None or job.publish_to is None or job.result is None:
            return False
        copying = False
        try:
            with self._engine.begin() as connection:
                if not objects.try_name(connection, name, idle_seconds=self._patience):
                    return False
                holder = self._storage.read_metadata(name)
                if holder is not None and _version(holder) >= (job.id, job.fence):
                    objects.mark_published(connection, job.id)
                    return False
                copying = True
                self._copy(job, ArtifactUri.parse(job.result.uri), name, job.result.content_type)
        except DBAPIError:
            if copying:
                # The name was no longer ours when the copy landed: it may lie over a newer one.
                self._look_again(job.publish_to)
            raise
        return True

    def _copy(self, job: Job, result: ArtifactUri, name: ArtifactUri, content_type: str) -> None:
        metadata = self._storage.read_metadata(result) or {}
        whose = {"job": str(job.id), "fence": str(job.fence)}
        self._storage.copy(result, name, content_type=content_type, metadata={**metadata, **whose})

    def _look_again(self, publish_to: str) -> None:
        persevere(
            self._engine,
            lambda connection: objects.look_again(connection, publish_to),
            waiting=lambda error: log.warning("database_away", error=str(error.orig)),
        )


def _version(metadata: Mapping[str, str]) -> tuple[UUID, int]:
    """Which job's result a name holds, and of which fence; job ids are in the order of submits.

    Returns:
        What is older than every job where the object is none of ours.
    """
    try:
        return UUID(metadata["job"]), int(metadata["fence"])
    except (KeyError, ValueError):
        return UUID(int=0), 0
