"""Servers go away and come back; a reply is lost. It costs time, never a job."""

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import redis
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session
from tests.conftest import settings_for
from tests.house import House, eventually
from tests.pictures import encoded
from tests.servers.relay import Relay

from twofold_producer.dev.postgres import Postgres
from twofold_producer.dev.redis import Redis
from twofold_schema import database, ticket
from twofold_schema.ledger import claims
from twofold_schema.settings import DatabaseSettings
from twofold_schema.states import JobState

#: So many beats are more than a lease.
LONG_IN_BEATS = 7
#: Longer than a supervisor waits for a sign of life: three leases of a house.
LONG_IN_SECONDS = 14
#: So many pauses, the first of half a second to one, are longer than those of three attempts.
LONG_IN_PAUSES = 5


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """A Postgres that tests may take away."""
    with Postgres.start() as server:
        yield server


@pytest.fixture
def fragile(house: House, own_postgres: Postgres, tmp_path: Path) -> Iterator[House]:
    """A house on that Postgres, in a database of the test's own."""
    name = f"twofold_test_{secrets.token_hex(6)}"
    server = database.connect(DatabaseSettings.model_validate({"database_url": own_postgres.url}))
    with server.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    server.dispose()
    settings = settings_for(own_postgres.url, name)
    database.migrate(settings)
    folder = tmp_path / "fragile"
    folder.mkdir()
    engine = database.connect(settings)
    url = settings.database_url.get_secret_value()
    environment = {**house.environment, "TWOFOLD_DATABASE_URL": url}
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
    lines = house.last_log().splitlines()
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


@contextmanager
def taking_no_writes(house: House) -> Iterator[None]:
    """Its database refuses them inside the block, as a standby does, or who has a full disk."""

    def change(setting: str) -> None:
        # No transaction can change settings of the server; this one takes effect in open sessions.
        with house.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text(f"ALTER SYSTEM {setting}"))
            connection.execute(text("SELECT pg_reload_conf()"))

    change("SET default_transaction_read_only = on")
    try:
        yield
    finally:
        change("RESET default_transaction_read_only")


def test_a_postgres_that_takes_no_writes_is_waited_out(fragile: House) -> None:
    """For longer than a lease, with results stored and not settled; and by who starts meanwhile."""
    pauses = fragile.marker("pauses")
    pauses.mkdir()
    (pauses / "store").touch()
    fragile.keeper()
    job_ids = fragile.producer().submit_many([encoded()] * 8).job_ids
    fragile.worker(f"--pause-in={pauses}", max_batch=2)
    eventually(
        lambda: sum(job.started_at is not None for job in fragile.jobs(job_ids)) >= 4,
        why=fragile.logs,
    )

    with taking_no_writes(fragile):
        (pauses / "store").unlink()
        eventually(lambda: beats_without_database(fragile) >= LONG_IN_BEATS, why=fragile.logs)
        held = [job.id for job in fragile.jobs(job_ids) if job.state is JobState.RUNNING]
        fragile.worker(max_batch=2)
        eventually(lambda: "database_away" in fragile.last_log(), why=fragile.logs)
    jobs = fragile.wait_ended(job_ids)
    fragile.wait_ready(runs=2)

    assert {(job.state, job.attempts, job.crashes) for job in jobs} == {(JobState.SUCCEEDED, 1, 0)}
    assert [job.errors for job in jobs] == [()] * 8
    assert len(held) >= 4
    assert {job.fence for job in jobs if job.id in held} == {1}
    assert {run["state"] for run in fragile.rows("SELECT state FROM runs")} == {"live"}


@contextmanager
def frozen(house: House) -> Iterator[None]:
    """Its Postgres takes connections and requests inside the block, and answers none."""
    (backend,) = house.rows("SELECT pg_backend_pid() AS pid")
    postmaster = psutil.Process(backend["pid"]).parent()
    assert postmaster is not None
    # The postmaster first: it starts no other process then.
    postmaster.suspend()
    processes = postmaster.children()
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in [*processes, postmaster]:
            process.resume()


def test_a_postgres_that_answers_nothing_is_waited_out_by_the_same_process(
    fragile: House,
) -> None:
    """For longer than a watchdog, a supervisor and a stage have patience with a stuck process."""
    pauses = fragile.marker("pauses")
    pauses.mkdir()
    (pauses / "upscale").touch()
    fragile.keeper()
    job_ids = fragile.producer().submit_many([encoded()] * 12).job_ids
    supervisor = fragile.supervised(f"--pause-in={pauses}", max_batch=2, stall_seconds=2)
    eventually(
        lambda: sum(job.started_at is not None for job in fragile.jobs(job_ids)) == 4,
        why=fragile.logs,
    )

    with frozen(fragile):
        (pauses / "upscale").unlink()
        (worker,) = psutil.Process(supervisor.pid).children()
        with pytest.raises(psutil.TimeoutExpired):
            worker.wait(LONG_IN_SECONDS)
    jobs = fragile.wait_ended(job_ids)

    assert worker.is_running()
    assert {(job.state, job.attempts, job.crashes) for job in jobs} == {(JobState.SUCCEEDED, 1, 0)}
    assert [job.errors for job in jobs] == [()] * 12
    assert [job.fence for job in jobs[:4]] == [1] * 4
    (run,) = fragile.rows("SELECT state FROM runs")
    assert run["state"] == "live"


def test_a_broken_worker_ends_though_postgres_answers_nothing(fragile: House) -> None:
    """What it cannot hand back is found once its lease is over."""
    fragile.keeper()
    marker = fragile.marker("stands-still")
    marker.touch()
    job_id = fragile.producer().submit(encoded()).job_id
    worker = fragile.worker("--pause-at=start", "--break-after=start", f"--marker={marker}")
    eventually(lambda: fragile.jobs([job_id])[0].started_at, why=fragile.logs)

    with frozen(fragile):
        marker.unlink()
        assert worker.wait(LONG_IN_SECONDS) != 0, fragile.logs()
    fragile.worker()
    (job,) = fragile.wait_ended([job_id])

    assert (job.state, job.crashes, job.fence) == (JobState.SUCCEEDED, 1, 2)


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


def listening(client: redis.Redis) -> bool:
    """Whether a worker waits for the next ticket."""
    return any(one["cmd"] == "brpop" for one in client.client_list())


def tries_in_vain(house: House) -> int:
    """How often the process started last found no broker that serves it."""
    return house._logs[-1].read_text().count("Cannot connect to redis")


#: What makes Redis refuse to write, and what ends that.
REFUSALS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    # As in a failover; the primary is on a port where nobody listens.
    "read-only": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "full": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
}


def test_a_redis_that_becomes_read_only_ends_no_worker(house: House, own_redis: Redis) -> None:
    """As in a failover: the worker finds work by itself, and hears the bell once it rings again."""
    refuse, accept = REFUSALS["read-only"]
    house.environment["TWOFOLD_BROKER_URL"] = own_redis.url
    house.supervised()
    with redis.Redis.from_url(own_redis.url) as client:
        eventually(lambda: listening(client), why=house.logs)
        client.execute_command(*refuse)
        eventually(lambda: not listening(client), why=house.logs)
        producer = house.producer()
        job_ids = [producer.submit(encoded(seed=seed)).job_id for seed in range(3)]
        jobs = house.wait_ended(job_ids)
        worker = psutil.Process(house.rows("SELECT pid FROM runs")[0]["pid"])
        opened, tries = worker.num_fds(), tries_in_vain(house)
        eventually(lambda: tries_in_vain(house) >= tries + 3, why=house.logs)
        # What each try opened is closed again; a process may not open much more.
        eventually(lambda: worker.num_fds() <= opened, why=house.logs)
        client.execute_command(*accept)
        eventually(lambda: listening(client), why=house.logs)

    assert {(job.state, job.fence) for job in jobs} == {(JobState.SUCCEEDED, 1)}
    (run,) = house.rows("SELECT state FROM runs")
    assert run["state"] == "live"


@pytest.mark.parametrize(("refuse", "accept"), REFUSALS.values(), ids=REFUSALS)
def test_a_worker_starts_while_redis_takes_no_writes(
    house: House, own_redis: Redis, refuse: Sequence[str], accept: Sequence[str]
) -> None:
    house.environment["TWOFOLD_BROKER_URL"] = own_redis.url
    with redis.Redis.from_url(own_redis.url) as client:
        client.execute_command(*refuse)
        house.supervised()
        (job,) = house.wait_ended([house.producer().submit(encoded()).job_id])
        client.execute_command(*accept)
        eventually(lambda: listening(client), why=house.logs)

    assert job.state is JobState.SUCCEEDED
    (run,) = house.rows("SELECT state FROM runs")
    assert run["state"] == "live"


def test_a_worker_whose_celery_fails_is_replaced(house: House, broker_url: str) -> None:
    """What Celery cannot read makes it give up."""
    house.supervised()
    with redis.Redis.from_url(broker_url) as client:
        eventually(lambda: listening(client), why=house.logs)
        client.lpush(ticket.QUEUE, "no message")
        house.wait_ready(runs=2)
        eventually(lambda: "celery_failed" in house.logs(), why=house.logs)
    (job,) = house.wait_ended([house.producer().submit(encoded()).job_id])

    assert job.state is JobState.SUCCEEDED
    assert f'"status": {os.EX_TEMPFAIL}' in house.logs()
    assert [run["state"] for run in house.rows("SELECT state FROM runs ORDER BY id")] == [
        "stopped",
        "live",
    ]


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
