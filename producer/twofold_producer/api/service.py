"""What the routes work with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Final
from uuid import UUID

from fastapi import Depends, Request
from sqlalchemy import Connection, Engine

from twofold_producer.api.bulks import Bulks
from twofold_producer.api.caller import Gate
from twofold_producer.api.counts import Counts
from twofold_producer.api.follower import Follower
from twofold_producer.api.lookups import Lookups
from twofold_producer.api.watch import Watch
from twofold_producer.producer import Producer
from twofold_schema import database
from twofold_schema.job import Job
from twofold_schema.ledger import reads
from twofold_schema.settings import ApiSettings, StorageSettings

#: So long a request waits for another that holds its key, or its job.
PATIENCE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts of the service.

    Attributes:
        producer: The Python door, which does what is asked for.
        engine: Of the database, for what is read.
        gate: Who may ask.
        follower: Who tells of what happens.
        watch: Who ends the streams of keys that have ended.
        lookups: Who reads a job for those that hold no thread.
        counts: Who counts the jobs of submissions that go on.
        bulks: Whose turn it is to submit many jobs at once.
    """

    settings: ApiSettings
    places: StorageSettings
    producer: Producer
    engine: Engine
    gate: Gate
    follower: Follower
    watch: Watch
    lookups: Lookups
    counts: Counts
    bulks: Bulks

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that waits no longer for another than its caller would."""
        with self.engine.begin() as connection:
            database.bound_waits(connection, seconds=PATIENCE_SECONDS)
            yield connection

    def job(self, job_id: UUID, tenant: str | None) -> Job:
        """One job of a tenant's, or of anybody's.

        Raises:
            JobNotFound: There is none.
        """
        with self.reading() as connection:
            return reads.get(connection, job_id, tenant=tenant)


# A coroutine, because a plain function would go through a thread.
async def _of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Parts = Annotated[Service, Depends(_of)]
