"""The Python door, against a real Postgres, Redis and S3."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
import redis
from sqlalchemy import ForeignKey, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tests.factories import begun, claimed, result_of, submitted
from tests.house import House, eventually
from tests.pictures import encoded

from twofold_producer.dev.redis import Redis
from twofold_producer.producer import Producer
from twofold_producer.submit.request import JobRequest
from twofold_schema import ticket
from twofold_schema.errors import (
    InvalidParameter,
    JobNotFound,
    JobNotRetryable,
    KeyReused,
    SourceTooLarge,
    StorageUnavailable,
    UnsupportedSession,
    WaitTimeout,
)
from twofold_schema.ids import new_id
from twofold_schema.ledger import outcomes
from twofold_schema.settings import (
    BrokerSettings,
    DatabaseSettings,
    LimitSettings,
    StorageSettings,
)
from twofold_schema.states import CancelAnswer, JobState

#: How much longer a submit may take when Redis is away than when it is there, in seconds.
SLOWER = 0.2
SOURCE = "s3://twofold/cat.png"


@pytest.fixture
def source(bucket: str) -> str:
    """The URI of a picture; nobody looks whether it is there."""
    return f"s3://{bucket}/cat.png"


@pytest.fixture
def tickets(broker_url: str) -> "Iterator[Tickets]":
    with redis.Redis.from_url(broker_url) as client:
        yield Tickets(client)


class Tickets:
    """The tickets that lie in Redis, because no worker runs."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def count(self) -> int:
        return int(self._client.llen(ticket.QUEUE))

    def eventually(self, number: int) -> None:
        """Return once so many have come; more must not follow the last one."""
        eventually(lambda: self.count() >= number, within=10)
        assert self.count() == number


def count_jobs(house: House) -> int:
    """How many jobs are committed."""
    return int(house.rows("SELECT count(*) AS n FROM jobs")[0]["n"])


def with_broker(house: House, url: str) -> Producer:
    """A producer of this house with another broker; the caller closes it."""
    return Producer(
        database_settings=DatabaseSettings.load(house.environment),
        broker=BrokerSettings.model_validate({"broker_url": url}),
        storage=StorageSettings.load(house.environment),
        limits=LimitSettings.load(house.environment),
    )


class TestKeys:
    def test_the_same_again_is_the_same_job(
        self, house: House, producer: Producer, source: str
    ) -> None:
        """Also where the seed was drawn: the caller asked for none."""
        first = producer.submit(source, key="cat", metadata={"a": "b"})
        again = producer.submit(source, key="cat", metadata={"a": "b"})

        assert (first.created, again.created) == (True, False)
        assert first.job_id == again.job_id
        assert count_jobs(house) == 1

    def test_another_payload_is_refused(
        self, house: House, producer: Producer, source: str
    ) -> None:
        job_id = producer.submit(source, key="cat").job_id
        others: list[dict[str, Any]] = [
            {"steps": 21},
            {"seed": 1},
            {"metadata": {"a": "b"}},
            {"width": 8, "height": 8},
            {"finish_by": datetime(2100, 1, 1, tzinfo=UTC)},
        ]
        for other in others:
            with pytest.raises(KeyReused, match=str(job_id)):
                producer.submit(source, key="cat", **other)
        assert count_jobs(house) == 1

    def test_a_half_finished_script_may_be_run_again(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        requests = [
            JobRequest(source=f"s3://{bucket}/{number}.png", key=str(number))
            for number in range(10)
        ]
        before = producer.submit_many(requests[:4])
        after = producer.submit_many(requests)

        assert (after.created, after.existing, after.invalid) == (6, 4, 0)
        assert after.job_ids[:4] == before.job_ids
        assert count_jobs(house) == 10

    def test_the_same_key_twice_in_one_call_is_one_job(
        self, house: House, producer: Producer, source: str
    ) -> None:
        submission = producer.submit_many([JobRequest(source=source, key="cat")] * 2)

        assert (submission.created, submission.existing) == (1, 1)
        assert len(set(submission.job_ids)) == 1
        assert count_jobs(house) == 1

    def test_of_many_threads_with_one_key_one_creates(
        self, house: House, producer: Producer, source: str
    ) -> None:
        accepted = []
        threads = [
            threading.Thread(target=lambda: accepted.append(producer.submit(source, key="cat")))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(answer.created for answer in accepted) == [False] * 5 + [True]
        assert len({answer.job_id for answer in accepted}) == 1
        assert count_jobs(house) == 1


class TestSubmitMany:
    def test_gives_the_jobs_in_order_in_one_sealed_submission(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        """Also when there are more than go into one statement."""
        sources = [f"s3://{bucket}/{number}.png" for number in range(1001)]

        submission = producer.submit_many(sources)

        jobs = house.jobs(submission.job_ids)
        assert [job.source for job in jobs] == sources
        assert {job.submission_id for job in jobs} == {submission.id}
        (row,) = house.rows("SELECT id, sealed_at FROM submissions")
        assert row["id"] == submission.id
        assert row["sealed_at"] is not None

    @pytest.mark.parametrize("tenant", ["", " "])
    def test_nobody_submits_nothing(self, house: House, producer: Producer, tenant: str) -> None:
        with pytest.raises(InvalidParameter, match="tenant"):
            producer.submit(SOURCE, tenant=tenant)
        with pytest.raises(InvalidParameter, match="tenant"):
            producer.submit_many([SOURCE], tenant=tenant)
        with pytest.raises(InvalidParameter, match="tenant"):
            producer.manifest(SOURCE, tenant=tenant)
        assert house.rows("SELECT FROM submissions UNION ALL SELECT FROM jobs") == []

    def test_of_nothing_is_an_empty_submission(self, producer: Producer) -> None:
        submission = producer.submit_many([])

        assert submission.job_ids == []
        assert producer.wait(submission, timeout=5) == []


class Base(DeclarativeBase):
    """Tables of a service that submits."""


class Album(Base):
    """What its pictures belong to."""

    __tablename__ = "albums"
    id: Mapped[int] = mapped_column(primary_key=True)


class Photo(Base):
    """What it wants to upscale."""

    __tablename__ = "photos"
    id: Mapped[int] = mapped_column(primary_key=True)
    album_id: Mapped[int] = mapped_column(ForeignKey("albums.id"))
    job_id: Mapped[UUID]


@pytest.fixture
def session(house: House) -> Iterator[Session]:
    with house.engine.begin() as connection:
        connection.execute(text("CREATE TABLE albums (id integer PRIMARY KEY)"))
        connection.execute(
            text(
                "CREATE TABLE photos (id integer PRIMARY KEY,"
                " album_id integer NOT NULL REFERENCES albums,"
                " job_id uuid NOT NULL REFERENCES jobs)"
            )
        )
    with Session(house.engine, autoflush=False) as session:
        yield session


class TestSession:
    """Submitting inside a transaction of the caller's."""

    def test_a_commit_brings_the_job_and_then_the_ticket(
        self, house: House, producer: Producer, session: Session, source: str, tickets: Tickets
    ) -> None:
        accepted = producer.submit(source, session=session)
        assert count_jobs(house) == 0
        assert tickets.count() == 0

        session.commit()

        assert [job.id for job in house.jobs([accepted.job_id])] == [accepted.job_id]
        tickets.eventually(1)

    def test_a_rollback_takes_the_job_and_no_bell_rings_then_or_later(
        self, house: House, producer: Producer, session: Session, source: str, tickets: Tickets
    ) -> None:
        producer.submit(source, session=session)
        session.rollback()
        session.execute(text("SELECT 1"))
        session.commit()
        # A ticket of the first would have come before this one.
        producer.submit(source)

        tickets.eventually(1)
        assert count_jobs(house) == 1

    def test_closing_is_a_rollback(
        self, house: House, producer: Producer, session: Session, source: str, tickets: Tickets
    ) -> None:
        producer.submit(source, session=session)
        session.close()
        session.execute(text("SELECT 1"))
        session.commit()
        producer.submit(source)

        tickets.eventually(1)
        assert count_jobs(house) == 1

    def test_a_savepoint_that_is_rolled_back_takes_its_jobs_with_it(
        self, house: House, producer: Producer, session: Session, source: str
    ) -> None:
        kept = producer.submit(source, session=session)
        savepoint = session.begin_nested()
        lost = producer.submit(source, key="cat", session=session)
        savepoint.rollback()
        session.commit()

        assert [job.id for job in house.jobs([kept.job_id, lost.job_id])] == [kept.job_id]
        assert producer.submit(source, key="cat").created

    def test_a_released_savepoint_rings_nothing_before_the_outermost_commit(
        self, house: House, producer: Producer, session: Session, source: str, tickets: Tickets
    ) -> None:
        with session.begin_nested(), session.begin_nested():
            producer.submit(source, session=session)
        producer.submit(source)
        tickets.eventually(1)

        session.commit()

        tickets.eventually(2)
        assert count_jobs(house) == 2

    def test_a_session_serves_one_transaction_after_the_other(
        self, producer: Producer, session: Session, source: str, tickets: Tickets
    ) -> None:
        for number in range(1, 4):
            producer.submit(source, session=session)
            session.commit()
            tickets.eventually(number)

    def test_pending_objects_are_flushed_first_and_may_name_the_job(
        self, house: House, producer: Producer, session: Session, source: str
    ) -> None:
        session.add(Album(id=1))
        accepted = producer.submit(source, session=session)
        assert not session.new
        session.add(Photo(id=1, album_id=1, job_id=accepted.job_id))
        session.commit()

        assert house.rows("SELECT job_id FROM photos") == [{"job_id": accepted.job_id}]

    def test_many_are_written_with_it_too(
        self, house: House, producer: Producer, session: Session, source: str
    ) -> None:
        submission = producer.submit_many([source] * 3, session=session)
        session.rollback()
        assert house.jobs(submission.job_ids) == []

        submission = producer.submit_many([source] * 3, session=session)
        session.commit()
        assert len(house.jobs(submission.job_ids)) == 3

    def test_a_refused_submit_leaves_the_transaction_as_it_was(
        self, house: House, producer: Producer, session: Session, source: str
    ) -> None:
        """The caller may catch the error and commit: no key may point to a job that is not."""
        producer.submit(source, key="taken")
        session.add(Album(id=1))
        requests = [
            JobRequest(source=source, key="free"),
            JobRequest(source=source, key="taken", steps=3),
        ]
        with pytest.raises(KeyReused):
            producer.submit_many(requests, strict=True, session=session)
        session.commit()

        assert len(house.rows("SELECT * FROM albums")) == 1
        assert [row["key"] for row in house.rows("SELECT key FROM job_keys")] == ["taken"]
        assert producer.submit(source, key="free").created

    def test_a_session_that_cannot_carry_a_job_is_refused(
        self, producer: Producer, source: str, house: House
    ) -> None:
        unsupported: list[Any] = [
            # What an AsyncSession wraps; itself it is no Session, like the last two here.
            Session(create_engine("postgresql+psycopg_async://host/name")),
            Session(create_engine("postgresql+pg8000://host/name", module=psycopg)),
            Session(create_engine("sqlite://")),
            Session(),
            house.engine,
            "session",
        ]
        for session in unsupported:
            with pytest.raises(UnsupportedSession, match=r"Session|session"):
                producer.submit(source, session=session)


class TestBell:
    def test_rings_once_for_many_jobs_when_no_run_is_idle(
        self, producer: Producer, source: str, tickets: Tickets
    ) -> None:
        producer.submit_many([source] * 50)

        tickets.eventually(1)

    def test_rings_for_as_many_runs_as_are_idle(
        self, house: House, producer: Producer, source: str, tickets: Tickets
    ) -> None:
        for _ in range(3):
            begun(house.engine)
        producer.submit_many([source] * 2)
        tickets.eventually(2)

        producer.submit_many([source] * 50)
        tickets.eventually(5)

    def test_does_not_ring_for_a_job_that_was_known(
        self, producer: Producer, source: str, tickets: Tickets
    ) -> None:
        producer.submit(source, key="cat")
        tickets.eventually(1)
        producer.submit(source, key="cat")
        producer.submit(source)

        tickets.eventually(2)

    @pytest.mark.parametrize("kind", ["refuses", "never answers"])
    def test_a_broker_that_is_away_costs_a_submit_next_to_nothing(
        self, house: House, producer: Producer, source: str, kind: str
    ) -> None:
        with closed_door(listening=kind == "never answers") as url, with_broker(house, url) as deaf:
            for warming in (producer, deaf):
                warming.submit(source)
            usual = fastest(lambda: producer.submit(source))
            began = time.monotonic()
            accepted = deaf.submit(source)
            took = time.monotonic() - began
            closing = time.monotonic()
        closed = time.monotonic() - closing

        assert house.jobs([accepted.job_id])
        assert took < usual + SLOWER
        assert closed < 1.0

    def test_is_heard_again_once_the_broker_is_back(self, house: House, source: str) -> None:
        with Redis.start() as server, with_broker(house, server.url) as producer:
            producer.submit(source)
            eventually(lambda: length(server.url) == 1)
            with server.outage():
                producer.submit(source)

            def heard() -> bool:
                producer.submit(source)
                return length(server.url) > 0

            eventually(heard, within=20)


def length(url: str) -> int:
    """How many tickets lie in a Redis."""
    with redis.Redis.from_url(url) as client:
        return Tickets(client).count()


def fastest(act: Any) -> float:
    """The shortest of five calls, in seconds."""
    taken = []
    for _ in range(5):
        began = time.monotonic()
        act()
        taken.append(time.monotonic() - began)
    return min(taken)


@contextmanager
def closed_door(*, listening: bool) -> Iterator[str]:
    """The URL of a Redis that takes calls and never answers, or that refuses them."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        if listening:
            door.listen()
        yield f"redis://127.0.0.1:{door.getsockname()[1]}/0"


def complete(house: House, *, limit: int = 100) -> None:
    """Let a run take waiting jobs and end them well."""
    run_id = begun(house.engine)
    taken = claimed(house.engine, run_id, limit=limit, started=True)
    with house.engine.begin() as connection:
        outcomes.complete(connection, run_id, {claim: result_of(claim) for claim in taken})


class TestWait:
    def test_gives_the_job_once_it_has_ended(
        self, house: House, producer: Producer, source: str
    ) -> None:
        job_id = producer.submit(source).job_id
        worker = threading.Timer(0.2, complete, [house])
        worker.start()
        job = producer.wait(job_id, timeout=30)
        worker.join()

        assert (job.id, job.state) == (job_id, JobState.SUCCEEDED)

    def test_gives_the_jobs_in_order_and_tells_of_progress(
        self, house: House, producer: Producer, source: str
    ) -> None:
        submission = producer.submit_many([source] * 5)
        heard = []

        def on_progress(ended: int, total: int) -> None:
            heard.append((ended, total))
            complete(house, limit=3)

        complete(house, limit=1)
        jobs = producer.wait(submission, timeout=30, on_progress=on_progress)

        assert [job.id for job in jobs] == submission.job_ids
        assert heard == [(1, 5), (4, 5), (5, 5)]

    def test_ends_at_the_timeout_and_not_before(self, producer: Producer, source: str) -> None:
        job_id = producer.submit(source).job_id
        began = time.monotonic()

        with pytest.raises(WaitTimeout, match="1 of 1 jobs have not ended"):
            producer.wait(job_id, timeout=0.8)

        assert 0.8 <= time.monotonic() - began < 2.0
        assert producer.get(job_id).state is JobState.QUEUED

    def test_a_timeout_of_nothing_looks_once(
        self, house: House, producer: Producer, source: str
    ) -> None:
        job_id = producer.submit(source).job_id
        with pytest.raises(WaitTimeout):
            producer.wait(job_id, timeout=0)
        complete(house)

        assert producer.wait(job_id, timeout=0).state is JobState.SUCCEEDED

    def test_nobody_waits_for_a_job_that_is_not(self, producer: Producer, source: str) -> None:
        unknown = new_id()
        for work in (unknown, [unknown], [producer.submit(source).job_id, unknown]):
            with pytest.raises(JobNotFound, match=str(unknown)):
                producer.wait(work, timeout=30)


class TestCancel:
    def test_a_waiting_job_ends_at_once_and_a_running_one_is_told(
        self, house: House, producer: Producer, source: str
    ) -> None:
        running = producer.submit(source).job_id
        claimed(house.engine, begun(house.engine))
        queued = producer.submit(source).job_id
        scheduled = producer.submit(source, start_at=datetime(2100, 1, 1, tzinfo=UTC)).job_id
        unknown = new_id()

        answers = producer.cancel([running, queued, scheduled, unknown])

        assert answers == {
            running: CancelAnswer.CANCELLING,
            queued: CancelAnswer.CANCELLED,
            scheduled: CancelAnswer.CANCELLED,
            unknown: CancelAnswer.NOT_FOUND,
        }
        assert producer.get(running).cancelling
        assert producer.get(queued).state is JobState.CANCELLED

    def test_what_has_ended_stays_as_it_is(
        self, house: House, producer: Producer, source: str
    ) -> None:
        job_id = producer.submit(source).job_id
        complete(house)

        assert producer.cancel(job_id) == {job_id: CancelAnswer.SUCCEEDED}
        assert producer.get(job_id).state is JobState.SUCCEEDED


class TestRetry:
    def fail(self, house: House, source: str) -> UUID:
        """A job that has failed."""
        run_id = begun(house.engine)
        (job_id,) = submitted(house.engine)
        taken = claimed(house.engine, run_id)
        with house.engine.begin() as connection:
            outcomes.fail(connection, run_id, {claim: SourceTooLarge() for claim in taken})
        return job_id

    def test_begins_a_new_generation_and_rings(
        self, house: House, producer: Producer, source: str, tickets: Tickets
    ) -> None:
        job_id = self.fail(house, source)
        finish_by = datetime.now(UTC) + timedelta(days=1)

        producer.retry(job_id, finish_by=finish_by)

        job = producer.get(job_id)
        assert (job.state, job.generation, job.attempts) == (JobState.QUEUED, 2, 0)
        assert (job.finish_by, job.error, len(job.errors)) == (finish_by, None, 1)
        tickets.eventually(1)

    def test_is_for_all_or_for_none(
        self, house: House, producer: Producer, source: str, tickets: Tickets
    ) -> None:
        failed = self.fail(house, source)
        queued = producer.submit(source).job_id
        tickets.eventually(1)

        with pytest.raises(JobNotRetryable, match=str(queued)):
            producer.retry([failed, queued])
        with pytest.raises(JobNotFound):
            producer.retry([failed, new_id()])
        assert producer.get(failed).state is JobState.FAILED
        producer.submit(source)
        tickets.eventually(2)


def test_a_picture_that_cannot_be_stored_is_no_job(house: House) -> None:
    with closed_door(listening=False) as url:
        endpoint = url.replace("redis://", "http://").removesuffix("/0")
        producer = Producer(
            database_settings=DatabaseSettings.load(house.environment),
            broker=BrokerSettings.load(house.environment),
            storage=StorageSettings.load(house.environment | {"TWOFOLD_S3_ENDPOINT_URL": endpoint}),
            limits=LimitSettings(),
        )
        with producer, pytest.raises(StorageUnavailable):
            producer.submit(encoded())

    assert count_jobs(house) == 0
