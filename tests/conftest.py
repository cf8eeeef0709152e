"""Real Postgres, Redis and S3 for every test that asks, each in a corner of its own."""

import logging
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
import redis
import structlog
from botocore.config import Config
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url
from tests.house import House
from tests.servers.moto import Moto

from twofold_producer.dev.postgres import Postgres
from twofold_producer.dev.redis import Redis
from twofold_schema import database
from twofold_schema.settings import DatabaseSettings
from twofold_worker.upscaler import standin

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

TEMPLATE = "twofold_test_template"

# Torch's threads spin while they wait for each other: beside servers and workers on few cores the
# tests took four times as long. Set before the first parallel region, and for workers begun here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell lets what it runs in the background ignore interrupts, and so would every command that a
# test begins and then interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadFileScheduling":
    """Processes of tests take file by file; one takes all of the stores', which fill one table."""
    from xdist.scheduler import LoadFileScheduling

    if shared := {"DATABASE_URL", "REDIS_URL"} & os.environ.keys():
        raise pytest.UsageError(
            f"The server in {shared.pop()} serves one process of tests; leave out -n."
        )

    class Files(LoadFileScheduling):  # type: ignore[misc]  # without types
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "stores" if file.startswith("tests/conformance/") else file

    config.option.loadscopereorder = False
    return Files(config, log)


@pytest.fixture(autouse=True)
def logs_of_its_own() -> Iterator[None]:
    """What a command tells this process of its logs is forgotten with the test that ran it."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers, root.level
    yield
    structlog.configure(**before)
    root.handlers = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The server in DATABASE_URL, else one started for this run."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    with Postgres.start() as postgres:
        yield postgres.url


@pytest.fixture(scope="session")
def template(postgres_url: str) -> Iterator[Connection]:
    """The server, once it has a migrated database to copy."""
    url = make_url(postgres_url).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as server:
        server.execute(text(f"DROP DATABASE IF EXISTS {TEMPLATE}"))
        server.execute(text(f"CREATE DATABASE {TEMPLATE}"))
        database.migrate(settings_for(postgres_url, TEMPLATE))
        yield server
        server.execute(text(f"DROP DATABASE {TEMPLATE}"))
    engine.dispose()


@pytest.fixture
def database_settings(postgres_url: str, template: Connection) -> Iterator[DatabaseSettings]:
    """A migrated database of the test's own."""
    name = f"twofold_test_{secrets.token_hex(6)}"
    # Where nothing is synced, as here, copying files is faster than writing all pages to the log.
    copy = f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY file_copy"
    template.execute(text(copy))
    yield settings_for(postgres_url, name)
    template.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def engine(database_settings: DatabaseSettings) -> Iterator[Engine]:
    """Connections to the test's database."""
    engine = database.connect(database_settings)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def redis_server_url() -> Iterator[str]:
    """The server in REDIS_URL, else one started for this run."""
    if url := os.environ.get("REDIS_URL"):
        yield url
        return
    with Redis.start() as server:
        yield server.url


@pytest.fixture
def broker_url(redis_server_url: str) -> Iterator[str]:
    """Redis without anything in it."""
    with redis.Redis.from_url(redis_server_url) as client:
        client.flushdb()
        yield redis_server_url
        client.flushdb()


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    """Moto's S3, started for this run."""
    with Moto() as moto:
        yield moto


@pytest.fixture(scope="session")
def s3_endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    """The server in S3_ENDPOINT_URL, else moto's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            if name not in os.environ:
                patch.setenv(name, "testing")
        if "AWS_DEFAULT_REGION" not in os.environ:
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield os.environ.get("S3_ENDPOINT_URL") or request.getfixturevalue("moto").url


@pytest.fixture(scope="session")
def s3(s3_endpoint: str) -> "Iterator[S3Client]":
    """A client of the S3 server."""
    client = boto3.client(
        "s3", endpoint_url=s3_endpoint, config=Config(s3={"addressing_style": "path"})
    )
    yield client
    client.close()


@pytest.fixture
def bucket(s3: "S3Client") -> str:
    """An empty bucket of the test's own."""
    name = f"twofold-test-{secrets.token_hex(6)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def stand_in_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in model, built once."""
    folder = tmp_path_factory.mktemp("model") / "stand-in-model"
    standin.build(folder)
    return folder


@pytest.fixture
def house(
    database_settings: DatabaseSettings,
    broker_url: str,
    s3_endpoint: str,
    bucket: str,
    engine: Engine,
    tmp_path: Path,
) -> Iterator[House]:
    """Everything that a worker and a producer need, with short leases; ended with the test."""
    with House(
        engine=engine,
        folder=tmp_path,
        environment={
            "TWOFOLD_DATABASE_URL": database_settings.database_url.get_secret_value(),
            "TWOFOLD_BROKER_URL": broker_url,
            "TWOFOLD_S3_ENDPOINT_URL": s3_endpoint,
            "TWOFOLD_RESULTS": f"s3://{bucket}/results",
            "TWOFOLD_UPLOADS": f"s3://{bucket}/uploads",
            "TWOFOLD_LEASE_SECONDS": "4",
            "TWOFOLD_KEEPER_SECONDS": "0.2",
            "TWOFOLD_POLL_SECONDS": "0.5",
            "TWOFOLD_STALL_SECONDS": "30",
        },
    ) as house:
        yield house


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Handlers that a test sets are gone after it."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def settings_for(server_url: str, name: str) -> DatabaseSettings:
    """Settings for one database of a server."""
    url = make_url(server_url).set(drivername="postgresql", database=name)
    return DatabaseSettings.model_validate(
        {"database_url": url.render_as_string(hide_password=False)}
    )
