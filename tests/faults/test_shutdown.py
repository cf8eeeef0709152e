"""A worker that is told to end does so in good order, whoever says it and whatever is away."""

import os
import select
import signal
import socket
import sys
from collections import UserDict
from collections.abc import Callable, Iterator, KeysView, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psutil
import pytest
from celery import Celery
from sqlalchemy import Engine, text
from tests.house import House, eventually
from tests.pictures import encoded
from tests.servers.scripted import Asked, Reply, scripted

from twofold_producer.dev.redis import Redis
from twofold_schema.ledger import runs
from twofold_schema.settings import WorkerSettings
from twofold_schema.states import JobState
from twofold_worker.supervisor import Supervisor

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: Seconds; far less than a supervisor waits before it kills.
SOON = 20

EXIT_CONFIG = 78
KILLED_BY_SIGTERM = 128 + signal.SIGTERM


@pytest.fixture
def pauses(house: House) -> Iterator[Path]:
    """A folder in which a file of a verb's name makes workers stand still after that verb."""
    folder = house.marker("pauses")
    folder.mkdir()
    yield folder
    go_on(folder)


def go_on(pauses: Path) -> None:
    for pause in pauses.iterdir():
        pause.unlink()


def the_run(house: House) -> Mapping[str, Any]:
    (run,) = house.rows("SELECT * FROM runs")
    return run


def wait_started(house: House, *job_ids: UUID) -> None:
    eventually(lambda: all(job.started_at for job in house.jobs(job_ids)), why=house.logs)


def wait_connected(house: House) -> None:
    """Return when Celery has said that it listens to the broker."""
    eventually(lambda: " ready." in house.logs(), why=house.logs)


def test_sigterm_finishes_what_is_on_the_device_and_gives_the_rest_back(
    house: House, pauses: Path, s3: "S3Client", bucket: str
) -> None:
    """With work in every stage: stored, on the device, ready for it, queued."""
    producer = house.producer()
    supervisor = house.supervised(f"--pause-in={pauses}", max_batch=1)
    (pauses / "store").touch()
    stored = producer.submit(encoded()).job_id
    prefix = f"results/{stored}/"
    eventually(lambda: s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["KeyCount"], why=house.logs)
    (pauses / "upscale").touch()
    on_device = producer.submit(encoded()).job_id
    wait_started(house, on_device)
    rest = producer.submit_many([encoded()] * 3).job_ids
    wait_started(house, rest[0])

    house.signal(supervisor, "TERM")
    eventually(lambda: the_run(house)["state"] == "draining", why=house.logs)
    go_on(pauses)

    assert supervisor.wait(SOON) == 0, house.logs()
    assert [job.state for job in house.jobs([stored, on_device])] == [JobState.SUCCEEDED] * 2
    given_back = house.jobs(rest)
    assert {(job.state, job.attempts, job.crashes) for job in given_back} == {
        (JobState.QUEUED, 0, 0)
    }
    assert [job.fence for job in given_back] == [1, 0, 0]
    assert the_run(house)["state"] == "stopped"


def test_a_process_that_was_drained_is_not_replaced(house: House, engine: Engine) -> None:
    supervisor = house.supervised()
    house.wait_ready()
    with engine.begin() as connection:
        runs.order_drain(connection, the_run(house)["id"])

    assert supervisor.wait(SOON) == 0, house.logs()
    assert the_run(house)["state"] == "stopped"


def test_a_drain_order_ends_the_process_in_good_order(
    house: House, pauses: Path, engine: Engine
) -> None:
    worker = house.worker(f"--pause-in={pauses}")
    (pauses / "upscale").touch()
    job_id = house.producer().submit(encoded()).job_id
    wait_started(house, job_id)
    with engine.begin() as connection:
        runs.order_drain(connection, the_run(house)["id"])
    eventually(lambda: the_run(house)["state"] == "draining", why=house.logs)
    go_on(pauses)

    assert worker.wait(SOON) == 0, house.logs()
    assert house.jobs([job_id])[0].state is JobState.SUCCEEDED
    assert the_run(house)["state"] == "stopped"


def test_celerys_remote_shutdown_ends_a_worker_for_which_more_work_waits(
    house: House, pauses: Path, broker_url: str
) -> None:
    (pauses / "upscale").touch()
    worker = house.worker(f"--pause-in={pauses}", max_batch=1)
    wait_connected(house)
    job_ids = house.producer().submit_many([encoded()] * 20).job_ids
    wait_started(house, job_ids[0])
    with Celery(broker=broker_url, set_as_current=False) as app:
        app.control.shutdown()
    eventually(lambda: the_run(house)["state"] == "draining", why=house.logs)
    go_on(pauses)

    assert worker.wait(SOON) == 0, house.logs()
    first, *others = house.jobs(job_ids)
    assert first.state is JobState.SUCCEEDED
    assert {(job.state, job.attempts) for job in others} == {(JobState.QUEUED, 0)}


def test_a_worker_whose_supervisor_was_killed_finishes_and_ends_by_itself(
    house: House, pauses: Path
) -> None:
    """Nobody would replace it, so that it must not take more work than it has."""
    (pauses / "upscale").touch()
    supervisor = house.supervised(f"--pause-in={pauses}", max_batch=1)
    job_ids = house.producer().submit_many([encoded()] * 4).job_ids
    wait_started(house, job_ids[0])
    worker = psutil.Process(the_run(house)["pid"])
    house.signal(supervisor, "KILL")
    eventually(lambda: the_run(house)["state"] == "draining", why=house.logs)
    go_on(pauses)

    worker.wait(SOON)
    assert the_run(house)["state"] == "stopped"
    first, *others = house.jobs(job_ids)
    assert first.state is JobState.SUCCEEDED
    assert {(job.state, job.attempts) for job in others} == {(JobState.QUEUED, 0)}


MOMENTS: Mapping[str, Callable[[House], object]] = {
    "at once": lambda _house: True,
    "as the process starts": lambda house: "worker_started" in house.logs(),
    "as the run begins": lambda house: house.rows("SELECT FROM runs"),
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_sigterm_while_a_worker_starts_leaves_nothing_behind(
    house: House, moment: Callable[[House], object]
) -> None:
    supervisor = house.supervised()
    eventually(lambda: moment(house), why=house.logs)
    house.signal(supervisor, "TERM")

    assert supervisor.wait(SOON) in {0, KILLED_BY_SIGTERM}, house.logs()
    assert house.rows("SELECT FROM runs WHERE state <> 'stopped'") == []


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    """A Redis that a test may take away."""
    with Redis.start() as server:
        yield server


@pytest.mark.parametrize("was_there", [True, False], ids=["gone again", "never there"])
def test_sigterm_is_heard_while_redis_is_away(
    house: House, own_redis: Redis, *, was_there: bool
) -> None:
    url = own_redis.url
    if not was_there:
        own_redis.stop()
    worker = house.worker(broker_url=url)
    if was_there:
        wait_connected(house)
        own_redis.stop()
    eventually(lambda: "onnection" in house.logs(), why=house.logs)
    house.signal(worker, "TERM")

    assert worker.wait(SOON) == 0, house.logs()
    assert the_run(house)["state"] == "stopped"


def test_sigterm_waits_for_no_source(house: House) -> None:
    """Of a store that takes connections and never answers."""
    job_ids = house.producer().submit_many([encoded()] * 12).job_ids
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        supervisor = house.supervised(s3_endpoint_url=endpoint, io_threads=4)
        eventually(lambda: select.select([silent], [], [], 0)[0], why=house.logs)
        house.signal(supervisor, "TERM")

        assert supervisor.wait(SOON) == 0, house.logs()

    assert the_run(house)["state"] == "stopped"
    assert {(job.state, job.attempts, job.crashes) for job in house.jobs(job_ids)} == {
        (JobState.QUEUED, 0, 0)
    }


def test_a_result_that_cannot_be_stored_before_the_supervisor_kills_is_given_back(
    house: House,
) -> None:
    picture = Reply(200, encoded(), {"ETag": '"1"'})
    hanging = Reply(200, promised=1, stall=True)
    puts: list[Asked] = []

    def script(asked: Asked) -> Reply:
        if asked.method != "PUT":
            return picture
        puts.append(asked)
        return hanging

    job_id = house.producer().submit(encoded()).job_id
    with scripted(script) as server:
        supervisor = house.supervised(s3_endpoint_url=server.url, stop_seconds=5)
        eventually(lambda: puts, why=house.logs)
        house.signal(supervisor, "TERM")

        assert supervisor.wait(SOON) == 0, house.logs()

    assert the_run(house)["state"] == "stopped"
    house.keeper()
    eventually(lambda: house.jobs([job_id])[0].state is JobState.QUEUED, why=house.logs)
    (job,) = house.jobs([job_id])
    assert (job.attempts, job.crashes, job.errors) == (0, 0, ())


def test_a_heartbeat_under_way_does_not_take_a_run_that_ends_for_lost(
    house: House, engine: Engine
) -> None:
    """The end of a run is made to last for several beats."""
    worker = house.worker()
    wait_connected(house)
    with engine.begin() as connection:
        connection.execute(
            text("""
                CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql
                AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
                CREATE TRIGGER dawdle AFTER UPDATE ON runs FOR EACH ROW
                WHEN (NEW.state = 'stopped') EXECUTE FUNCTION dawdle();
            """)
        )
    house.signal(worker, "TERM")

    assert worker.wait(SOON) == 0, house.logs()
    assert the_run(house)["state"] == "stopped"


class Interrupting(UserDict[str, str]):
    """An environment during whose reading the process is told to end."""

    def keys(self) -> KeysView[str]:
        os.kill(os.getpid(), signal.SIGTERM)
        return super().keys()


@pytest.mark.usefixtures("own_signals")
def test_a_signal_that_comes_while_a_process_is_being_started_reaches_it() -> None:
    supervisor = Supervisor(
        WorkerSettings(stop_seconds=5),
        [sys.executable, "-c", "import signal; signal.pause()"],
    )
    (child,) = supervisor._children
    child.environment = Interrupting()

    assert supervisor.run() == 0


WRONG = {
    "out of range": {"lease_seconds": "0"},
    "no number": {"max_batch": "many"},
    "another part's": {"database_url": "mysql://root@localhost/test"},
    "misspelt": {"lease_second": "30"},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_setting_stops_the_supervisor_at_once_and_is_named(
    house: House, wrong: Mapping[str, str]
) -> None:
    supervisor = house.process(["-m", "twofold_worker"], **wrong)

    assert supervisor.wait(SOON) == EXIT_CONFIG, house.logs()
    (name,) = wrong
    assert f"TWOFOLD_{name.upper()}" in house.logs()
    assert "worker_started" not in house.logs()


def test_a_setting_that_only_the_process_finds_wrong_is_not_tried_again(house: House) -> None:
    supervisor = house.supervised(broker_url="amqp://localhost")

    assert supervisor.wait(SOON) == EXIT_CONFIG, house.logs()
    assert "TWOFOLD_BROKER_URL" in house.logs()
    assert house.logs().count("worker_started") == 1
