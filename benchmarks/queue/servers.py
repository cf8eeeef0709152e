"""The servers that all contenders share, and databases of their own on them."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psycopg
import redis
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from twofold_producer.dev.postgres import Postgres
from twofold_producer.dev.redis import Redis
from twofold_schema import database
from twofold_schema.settings import DatabaseSettings

#: What a server that is started here gets beside its defaults: memory enough for the hot rows, and
#: checkpoints that do not fall into every other measurement.
_SETTINGS: Final = {"shared_buffers": "2GB", "max_wal_size": "8GB", "checkpoint_timeout": "15min"}

_TOLD: Final = ("server_version", "fsync", "synchronous_commit", *_SETTINGS)

#: Longer than any statement of a benchmark takes: counting ten million rows on a busy disk.
_PATIENCE_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Database:
    """A database of a server's.

    Attributes:
        url: `postgresql://…`, as all drivers read it.
    """

    url: str

    @property
    def settings(self) -> DatabaseSettings:
        """As the ledger is given them."""
        return DatabaseSettings.model_validate(
            {"database_url": self.url, "database_timeout_seconds": _PATIENCE_SECONDS}
        )

    def connect(self, *, in_order: bool = False) -> Engine:
        """As workers and producers connect."""
        return database.connect(self.settings, in_order=in_order)

    def plain(self) -> psycopg.Connection:
        """A bare connection, each statement a transaction of its own."""
        return psycopg.connect(self.url, autocommit=True)

    def migrate(self) -> None:
        """Make the ledger's tables."""
        database.migrate(self.settings)


@dataclass(slots=True)
class Servers:
    """A Postgres and a Redis.

    Attributes:
        postgres_url: Of a role that may create databases.
        redis_url: Of a Redis that is the benchmarks' own.
        kept: What lasts as long as they do; see `rows.filled`.
    """

    postgres_url: str
    redis_url: str
    parts: ExitStack
    kept: dict[int, tuple[Database, UUID]] = field(default_factory=dict)

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[Database]:
        """A database that goes with the block, with the ledger's tables in it or empty."""
        name = f"twofold_bench_{secrets.token_hex(6)}"
        self._administer(f"CREATE DATABASE {name}")
        try:
            url = make_url(self.postgres_url).set(drivername="postgresql", database=name)
            made = Database(url.render_as_string(hide_password=False))
            if migrated:
                made.migrate()
            yield made
        finally:
            self._administer(f"DROP DATABASE {name} WITH (FORCE)")

    def facts(self) -> dict[str, Any]:
        """How the servers are set."""
        with psycopg.connect(self._admin_url) as connection:
            shown = connection.execute(
                "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS t (name)",
                [list(_TOLD)],
            ).fetchall()
        with redis.Redis.from_url(self.redis_url) as client:
            version = client.info("server")["redis_version"]
            append: dict[str, str] = client.config_get("append*")
        chosen = {name: append[name] for name in ("appendonly", "appendfsync")}
        return {"postgres": dict(shown), "redis": {"version": version, **chosen}}

    @property
    def _admin_url(self) -> str:
        url = make_url(self.postgres_url).set(drivername="postgresql")
        return url.render_as_string(hide_password=False)

    def _administer(self, statement: str) -> None:
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def open_servers(*, synced: bool) -> Iterator[Servers]:
    """A Postgres and a Redis that promise equally much.

    Both have written what they confirmed, so that it outlives the server's death; `synced`, they
    have also synced it to disk, so that it outlives the machine's.

    DATABASE_URL and REDIS_URL name other servers. That Redis is emptied and its log is turned on;
    that Postgres is taken as it is.
    """
    with ExitStack() as parts:
        postgres_url = os.environ.get("DATABASE_URL") or _own_postgres(parts, synced=synced)
        redis_url = os.environ.get("REDIS_URL") or parts.enter_context(Redis.start()).url
        with redis.Redis.from_url(redis_url) as client:
            client.flushdb()
            client.config_set("save", "")
            client.config_set("appendonly", "yes")
            client.config_set("appendfsync", "always" if synced else "no")
        yield Servers(postgres_url, redis_url, parts)


def _own_postgres(parts: ExitStack, *, synced: bool) -> str:
    folder = None
    if synced:
        folder = Path(parts.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o711)  # the server's user has to come in
        folder /= "postgres"
    postgres = parts.enter_context(Postgres.start(folder))
    url = make_url(postgres.url).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        for name, value in _SETTINGS.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    postgres.restart()
    return postgres.url
