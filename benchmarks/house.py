"""Everything that a worker needs, on this machine: Postgres, Redis, S3, each in its own process."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boto3
from botocore.config import Config
from tests.house import House
from tests.servers.moto import Moto

from twofold_producer.dev.postgres import Postgres
from twofold_producer.dev.redis import Redis
from twofold_schema import database
from twofold_schema.settings import DatabaseSettings

_REGION, _SECRET = "us-east-1", "testing"


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
