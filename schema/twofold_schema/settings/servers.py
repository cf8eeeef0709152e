"""The servers that all parts share: the job table and the bell."""

from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from twofold_schema.environment import Settings
from twofold_schema.settings.reading import Seconds


class DatabaseSettings(Settings):
    """The job table.

    Attributes:
        database_url: `postgresql://user:password@host:port/name`; Postgres only.
        database_pool_size: Connections that a process keeps open; under load up to four times more.
        database_timeout_seconds: What one statement may take, and waiting for a free connection.
    """

    database_url: SecretStr
    database_pool_size: Annotated[int, Field(ge=1, le=200)] = 5
    database_timeout_seconds: Seconds = 10.0

    @field_validator("database_url")
    @classmethod
    def _psycopg(cls, url: SecretStr) -> SecretStr:
        scheme, _, rest = url.get_secret_value().partition("://")
        if scheme not in {"postgresql", "postgres", "postgresql+psycopg"} or not rest:
            raise ValueError("write postgresql://user:password@host:port/name")
        psycopgs = f"postgresql+psycopg://{rest}"
        # Only who asks a database pays for the import.
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            make_url(psycopgs)
        except (ArgumentError, ValueError):
            # Without the cause, which quotes parts of it.
            raise ValueError(
                "it cannot be taken apart; write postgresql://user:password@host:port/name, and "
                "percent-encode special characters in user and password (%40 for @, %2F for /)"
            ) from None
        return SecretStr(psycopgs)


class BrokerSettings(Settings):
    """The bell.

    Attributes:
        broker_url: `redis://…` or `rediss://…`; `filesystem:///folder` for one machine.
        broker_timeout_seconds: What connecting may take.
    """

    broker_url: SecretStr
    broker_timeout_seconds: Seconds = 5.0

    @field_validator("broker_url")
    @classmethod
    def _known(cls, url: SecretStr) -> SecretStr:
        scheme, separator, rest = url.get_secret_value().partition("://")
        # A relative folder would be another one for every process.
        known = rest.startswith("/") if scheme == "filesystem" else scheme in {"redis", "rediss"}
        if not (separator and known):
            raise ValueError("write redis://host:port/0, rediss://… or filesystem:///folder")
        return url

    @property
    def is_redis(self) -> bool:
        """Whether the broker is Redis rather than a folder."""
        return not self.broker_url.get_secret_value().startswith("filesystem:")

    @property
    def url(self) -> str:
        """The broker's URL as kombu wants it."""
        return self.broker_url.get_secret_value() if self.is_redis else "filesystem://"

    @property
    def transport_options(self) -> dict[str, object]:
        """What kombu's transport is told: no call may hang on a silent broker."""
        if self.is_redis:
            seconds = self.broker_timeout_seconds
            return {"socket_connect_timeout": seconds, "health_check_interval": 10}
        folder = self.broker_url.get_secret_value().removeprefix("filesystem://")
        return {
            "data_folder_in": f"{folder}/queue",
            "data_folder_out": f"{folder}/queue",
            "control_folder": f"{folder}/control",
            "polling_interval": 0.1,
        }
