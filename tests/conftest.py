"""Real Postgres, Redis and S3 for every test that asks, each in a corner of its own."""

import os
import secrets
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from twofold_producer.dev.postgres import Postgres
from twofold_schema import database
from twofold_schema.settings import DatabaseSettings

TEMPLATE = "twofold_test_template"


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The server in DATABASE_URL, else one started for this run."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    with Postgres.start() as postgres:
        yield postgres.url


@pytest.fixture(scope="session")
def template(postgres_url: str) -> Iterator[str]:
    """The server's URL, once it has a migrated database to copy."""
    _administer(postgres_url, f"DROP DATABASE IF EXISTS {TEMPLATE}", f"CREATE DATABASE {TEMPLATE}")
    database.migrate(settings_for(postgres_url, TEMPLATE))
    yield postgres_url
    _administer(postgres_url, f"DROP DATABASE {TEMPLATE}")


@pytest.fixture
def database_settings(template: str) -> Iterator[DatabaseSettings]:
    """A migrated database of the test's own."""
    name = f"twofold_test_{secrets.token_hex(6)}"
    _administer(template, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield settings_for(template, name)
    _administer(template, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def engine(database_settings: DatabaseSettings) -> Iterator[Engine]:
    """Connections to the test's database."""
    engine = database.connect(database_settings)
    yield engine
    engine.dispose()


def settings_for(server_url: str, name: str) -> DatabaseSettings:
    """Settings for one database of a server."""
    url = make_url(server_url).set(drivername="postgresql", database=name)
    return DatabaseSettings.model_validate(
        {"database_url": url.render_as_string(hide_password=False)}
    )


def _administer(server_url: str, *statements: str) -> None:
    url = make_url(server_url).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()
