"""Servers go away and come back; a reply is lost. It costs time, never a job."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from tests.house import House, eventually
from tests.pictures import encoded
from tests.servers.relay import Relay

from twofold_producer.dev.postgres import Postgres
from twofold_producer.dev.redis import Redis
from twofold_schema import database
from twofold_schema.ledger import claims
from twofold_schema.settings import DatabaseSettings
from twofold_schema.states import JobState

#: So many beats are more than a lease.
LONG_IN_BEATS = 7
#: So many pauses, the first of half a second to one, are longer than those of three attempts.
LONG_IN_PAUSES = 5


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """A Postgres that tests may take away."""
    with Postgres.start() as server:
        yield server


@pytest.fixture
def fragile(house: House, own_postgres: Postgres, tmp_path: Path) -> Iterator[House]:
    """A house on that Postgres."""
    settings = DatabaseSettings.model_validate({"database_url": own_postgres.url})
    database.migrate(settings)
    folder = tmp_path / "fragile"
    folder.mkdir()
    engine = database.connect(settings)
    environment = {**house.environment, "TWOFOLD_DATABASE_URL": own_postgres.url}
    with House(engine=engine, folder=folder, environment=environment) as fragile:
        yield fragile
    engine.dispose()


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    """A Redis that a test may take away or empty."""
    with Redis.start() as server:
        yield server


def beats_without_database(house: House) -> int:
    """How many heartbeats of the process started last found no database."""
    lines = house._logs[-1].read_text().splitlines()
    return sum("database_away" in line and "heartbeat" in line for line in lines)


def pauses_without_storage(house: House) -> int:
    """How often the process started last has paused because storage was away."""
    return house._logs[-1].read_text().count("storage_away")


def test_an_outage_of_postgres_in_the_middle_of_work_loses_and_charges_nothing(
    fragile: House, own_postgres: Postgres
) -> None:
    """Longer than a lease, with work in every stage; then two crashes while work flows."""
    pauses = fragile.marker("pauses")
    pauses.mkdir()
    (pauses / "upscale").touch()
    fragile.keeper()
    job_ids = fragile.producer().submit_many([encoded()] * 40).job_ids
    fragile.worker(f"--pause-in={pauses}", max_batch=2)
    eventually(
        lambda: sum(job.started_at is not None for job in fragile.jobs(job_ids)) == 4,
        why=fragile.logs,
    )

    with own_postgres.outage():
        (pauses / "upscale").unlink()
        eventually(lambda: beats_without_database(fragile) >= LONG_IN_BEATS, why=fragile.logs)
    for _ in range(2):
        own_postgres.restart()
    jobs = fragile.wait_ended(job_ids)

    assert {(job.state, job.attempts, job.crashes) for job in jobs} == {(JobState.SUCCEEDED, 1, 0)}
    assert [job.errors for job in jobs] == [()] * 40
    # What was in hand stayed in hand; elsewhere the reply to a claim may have been lost.
    assert [job.fence for job in jobs[:4]] == [1] * 4
    (run,) = fragile.rows("SELECT state FROM runs")
    assert run["state"] == "live"


def test_an_outage_of_storage_in_the_middle_of_work_is_charged_to_no_job(
    house: House, s3_endpoint: str
) -> None:
    """Longer than the pauses of three attempts: results wait for it, and sources are left alone."""
    pauses = house.marker("pauses")
    pauses.mkdir()
    (pauses / "upscale").touch()
    house.keeper()
    job_ids = house.producer().submit_many([encoded()] * 40).job_ids
    with Relay(s3_endpoint) as way:
        house.worker(f"--pause-in={pauses}", s3_endpoint_url=way.url, max_batch=2)
        eventually(
            lambda: sum(job.started_at is not None for job in house.jobs(job_ids)) == 4,
            why=house.logs,
        )
        with way.closed():
            (pauses / "upscale").unlink()
            eventually(
                lambda: (
                    pauses_without_storage(house) >= LONG_IN_PAUSES
                    or any(job.state is JobState.FAILED for job in house.jobs(job_ids))
                ),
                why=house.logs,
            )
        jobs = house.wait_ended(job_ids)

    assert {(job.state, job.attempts, job.crashes) for job in jobs} == {(JobState.SUCCEEDED, 1, 0)}
    assert [job.errors for job in jobs] == [()] * 40
    # What had been upscaled was kept; what was claimed to no avail was let go once or so.
    assert [job.fence for job in jobs[:4]] == [1] * 4
    assert max(job.fence for job in jobs) <= 3


def test_a_worker_without_credentials_leaves_the_jobs_to_others(house: House) -> None:
    job_ids = house.producer().submit_many([encoded()] * 8).job_ids
    nobody = {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_SHARED_CREDENTIALS_FILE": str(house.marker("none")),
        "AWS_CONFIG_FILE": str(house.marker("none")),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    known, house.environment = house.environment, house.environment | nobody
    house.worker(max_batch=2)
    eventually(
        lambda: (
            pauses_without_storage(house)
            or any(job.state is JobState.FAILED for job in house.jobs(job_ids))
        ),
        why=house.logs,
    )
    assert "credentials_refused" in house.logs()
    house.environment = known
    house.worker(max_batch=2)
    jobs = house.wait_ended(job_ids)

    assert {(job.state, job.attempts, job.errors) for job in jobs} == {(JobState.SUCCEEDED, 1, ())}


def test_without_redis_jobs_are_found_by_the_poll(house: House, own_redis: Redis) -> None:
    """Those that waited for the worker, and those that came while it ran."""
    house.environment["TWOFOLD_BROKER_URL"] = own_redis.url
    own_redis.stop()
    producer = house.producer()
    job_ids = [producer.submit(encoded(seed=seed)).job_id for seed in range(3)]
    house.worker()
    house.wait_ended(job_ids)
    job_ids += [producer.submit(encoded(seed=seed)).job_id for seed in range(3, 6)]

    jobs = house.wait_ended(job_ids)

    assert {(job.state, job.fence) for job in jobs} == {(JobState.SUCCEEDED, 1)}


def test_a_redis_that_is_emptied_again_and_again_delays_jobs_at_most(
    house: House, own_redis: Redis
) -> None:
    """With Celery's bindings gone too, tickets vanish without a word."""
    house.environment["TWOFOLD_BROKER_URL"] = own_redis.url
    house.keeper()
    house.worker()
    eventually(lambda: " ready." in house.logs(), why=house.logs)
    producer = house.producer()
    job_ids = []
    with redis.Redis.from_url(own_redis.url) as client:
        for seed in range(30):
            job_ids.append(producer.submit(encoded(seed=seed)).job_id)
            client.flushall()
    jobs = house.wait_ended(job_ids)

    assert {(job.state, job.attempts, job.fence) for job in jobs} == {(JobState.SUCCEEDED, 1, 1)}


def test_a_claim_whose_reply_was_lost_is_released_and_done(house: House, engine: Engine) -> None:
    """The ledger gave the job to a run that never heard of it."""
    house.worker()
    house.wait_ready()
    (run,) = house.rows("SELECT id FROM runs")
    with Session(engine) as session, session.begin():
        accepted = house.producer().submit(encoded(), session=session)
        claimed = claims.claim(
            session.connection(), run["id"], limit=1, run_deadline=timedelta(minutes=15)
        )
    assert [job.id for job in claimed] == [accepted.job_id]
    (job,) = house.wait_ended([accepted.job_id])

    assert (job.state, job.attempts, job.crashes, job.fence) == (JobState.SUCCEEDED, 1, 0, 2)
    assert "reply_lost" in house.logs()
