"""Everything that a worker needs, on this machine: Postgres, Redis, S3, each in its own process."""

import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

import boto3
from botocore.config import Config
from tests.house import House
from tests.servers.moto import Moto

from twofold_producer.dev.postgres import Postgres
from twofold_producer.dev.redis import Redis
from twofold_producer.producer import Producer
from twofold_schema import database
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.job import Job
from twofold_schema.settings import DatabaseSettings

_REGION, _SECRET = "us-east-1", "testing"
_LONGEST_SECONDS: Final = 600.0


@contextmanager
def open_house() -> Iterator[House]:
    """A house with real servers; DATABASE_URL, REDIS_URL and S3_ENDPOINT_URL name other ones."""
    with ExitStack() as parts:
        folder = Path(parts.enter_context(tempfile.TemporaryDirectory()))
        url = os.environ.get("DATABASE_URL") or parts.enter_context(Postgres.start()).url
        settings = DatabaseSettings.model_validate({"database_url": url})
        database.migrate(settings)
        engine = database.connect(settings)
        parts.callback(engine.dispose)
        broker = os.environ.get("REDIS_URL") or parts.enter_context(Redis.start()).url
        endpoint = os.environ.get("S3_ENDPOINT_URL") or parts.enter_context(Moto()).url
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            os.environ.setdefault(name, _SECRET)
        os.environ.setdefault("AWS_DEFAULT_REGION", _REGION)
        bucket = f"twofold-benchmark-{secrets.token_hex(6)}"
        style = Config(s3={"addressing_style": "path"})
        boto3.client("s3", endpoint_url=endpoint, config=style).create_bucket(Bucket=bucket)
        environment = {
            "TWOFOLD_DATABASE_URL": url,
            "TWOFOLD_BROKER_URL": broker,
            "TWOFOLD_S3_ENDPOINT_URL": endpoint,
            "TWOFOLD_RESULTS": f"s3://{bucket}/results",
            "TWOFOLD_UPLOADS": f"s3://{bucket}/uploads",
        }
        house = House(engine=engine, folder=folder, environment=environment)
        yield parts.enter_context(house)


def stored(house: House, producer: Producer, file: bytes) -> str:
    """Where a source now lies."""
    sha256 = hashlib.sha256(file).hexdigest()
    place = ArtifactUri.parse(f"{house.environment['TWOFOLD_UPLOADS']}/{sha256}")
    producer.storage.write_once(
        place, file, content_type="application/octet-stream", sha256=sha256, metadata={}
    )
    return str(place)


def ended(house: House, job_ids: Sequence[UUID]) -> list[Job]:
    """The jobs once all have ended.

    Raises:
        RuntimeError: They take too long.
    """
    deadline = time.monotonic() + _LONGEST_SECONDS
    while time.monotonic() < deadline:
        # Seldom, and in one short statement: the watcher shares the machine with the watched.
        time.sleep(0.5)
        (row,) = house.rows(
            "SELECT count(*) AS n FROM jobs WHERE id = ANY(:ids) AND finished_at IS NULL",
            ids=list(job_ids),
        )
        if row["n"] == 0:
            return house.jobs(job_ids)
    raise RuntimeError(f"not all ended within {_LONGEST_SECONDS} seconds.\n{house.logs()}")
