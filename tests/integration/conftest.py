"""What the tests of either side share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs
from tests.house import House
from tests.workshop import Make, Workshop

from twofold_producer.producer import Producer
from twofold_schema.settings import (
    BrokerSettings,
    DatabaseSettings,
    LimitSettings,
    StorageSettings,
)


@pytest.fixture
def producer(house: House) -> Producer:
    return house.producer()


@pytest.fixture
def guard() -> Iterator[Producer]:
    """A producer far from any server: what it answers, it answers without asking one."""
    with _far_away(LimitSettings()) as producer:
        yield producer


@pytest.fixture
def strict_guard() -> Iterator[Producer]:
    """Another, that takes few steps and has small pools."""
    with _far_away(LimitSettings(max_steps=30, pools="a=65536,b=262144")) as producer:
        yield producer


@contextmanager
def _far_away(limits: LimitSettings) -> Iterator[Producer]:
    nowhere = "127.0.0.1:9"
    with Producer(
        database_settings=DatabaseSettings.model_validate(
            {"database_url": f"postgresql://{nowhere}/none"}
        ),
        broker=BrokerSettings.model_validate({"broker_url": f"redis://{nowhere}/0"}),
        storage=StorageSettings(s3_endpoint_url=f"http://{nowhere}"),
        limits=limits,
    ) as producer:
        yield producer


@pytest.fixture
def workshop(engine: Engine, tmp_path: Path) -> Iterator[Make]:
    """Makes workshops over this test's ledger and folder, with the options given."""
    # No tracebacks are rendered: structlog's default takes longer than the tests.
    with capture_logs():
        yield lambda **options: Workshop(engine, tmp_path, **options)
