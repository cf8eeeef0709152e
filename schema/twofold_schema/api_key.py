"""An API key: who asks over HTTP, and what for. Its secret is shown once and kept nowhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self
from uuid import UUID


class Scope(StrEnum):
    """What a key is for. Each is its own; `admin` holds all."""

    #: Submit jobs, and cancel and retry its own.
    SUBMIT = "submit"
    #: Look at jobs, submissions and counts.
    READ = "read"
    #: Pause, cancel and retry by filter.
    OPERATE = "operate"
    #: Everything, keys and tenants included.
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as its row had it when it was read, without its secret. Times are the database's.

    Attributes:
        tenant: For whom it speaks; None for all tenants.
        name: For people.
        prefix: How its text begins, by which people recognise it.
        scopes: What it is for.
        created_by: Who made it.
        expires_at: Since when it counts for nothing; None for never.
        revoked_at: When it was ended.
        rotated_to: The key that took its place.
        last_used_at: When it was last used, to the minute.
    """

    id: UUID
    tenant: str | None
    name: str
    prefix: str
    scopes: frozenset[Scope]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    rotated_to: UUID | None
    last_used_at: datetime | None

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Self:
        """A key from a row of its table."""
        fields = {name: row[name] for name in cls.__dataclass_fields__}
        fields["scopes"] = frozenset(map(Scope, row["scopes"]))
        return cls(**fields)

    def allows(self, scope: Scope) -> bool:
        """Whether it is for this."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def speaks_for(self, tenant: str) -> bool:
        """Whether it may name what is this tenant's."""
        return self.tenant in {None, tenant}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    """A key that was just made.

    Attributes:
        key: All that is kept of it.
        secret: Its text, to be handed over once; kept nowhere.
    """

    key: ApiKey
    secret: str = field(repr=False)


#: What `ApiKey.from_row` reads, by name, as `job.JOB_COLUMNS`.
API_KEY_COLUMNS: Final = ", ".join(ApiKey.__dataclass_fields__)
