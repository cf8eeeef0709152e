"""What the tests of either side share."""

from collections.abc import Iterator
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
    nowhere = "127.0.0.1:9"
    with Producer(
        database_settings=DatabaseSettings.model_validate(
            {"database_url": f"postgresql://{nowhere}/none"}
        ),
        broker=BrokerSettings.model_validate({"broker_url": f"redis://{nowhere}/0"}),
        storage=StorageSettings(s3_endpoint_url=f"http://{nowhere}"),
        limits=LimitSettings(),
    ) as producer:
        yield producer


@pytest.fixture
def workshop(engine: Engine, tmp_path: Path) -> Iterator[Make]:
    """Makes workshops over this test's ledger and folder, with the options given."""
    # No tracebacks are rendered: structlog's default takes longer than the tests.
    with capture_logs():
        yield lambda **options: Workshop(engine, tmp_path, **options)
