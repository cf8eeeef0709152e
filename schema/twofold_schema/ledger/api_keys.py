"""API keys: who asks over HTTP. Of a key's secret only a digest is kept.

A secret has 256 random bits, so that nobody can try them all, and a plain SHA-256 keeps it as well
as a slow hash would. A digest is looked up by an index: how long that takes tells of digests, which
nobody can choose, and nothing of secrets.
"""

import hashlib
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection, text

from twofold_schema.api_key import API_KEY_COLUMNS, ApiKey, NewApiKey, Scope
from twofold_schema.errors import ApiKeyNotFound, InvalidApiKey, InvalidOperation
from twofold_schema.ids import new_id
from twofold_schema.ledger import operations
from twofold_schema.operation import JobFilter, OperationKind

log = structlog.get_logger(__name__)

_PREFIX_BYTES, _SECRET_BYTES = 4, 32
_SHAPE = re.compile(r"(tfk_[0-9a-f]{8})_[0-9a-f]{64}")
_LONGEST_NAME = 200

# Writes a key; without a lifetime it never expires.
_INSERT = text(f"""
    INSERT INTO api_keys (id, tenant, name, prefix, digest, scopes, created_by, expires_at)
    VALUES (:id, :tenant, :name, :prefix, :digest, CAST(:scopes AS text[]), :who,
            clock_timestamp() + CAST(:lifetime AS interval))
    RETURNING {API_KEY_COLUMNS}
""")  # noqa: S608 - a constant

# The key of a digest, good or not. That a good one was used is noted once a minute, and by one of
# those who use it at the same moment, so that none waits for another.
_AUTHENTICATE = text(f"""
    WITH unnoted AS (
        SELECT id FROM api_keys
        WHERE digest = :digest AND revoked_at IS NULL
          AND (expires_at IS NULL OR expires_at > clock_timestamp())
          AND (last_used_at IS NULL OR last_used_at <= clock_timestamp() - interval '1 minute')
        FOR NO KEY UPDATE SKIP LOCKED
    ), noted AS (
        UPDATE api_keys SET last_used_at = clock_timestamp() WHERE id IN (SELECT id FROM unnoted)
    )
    SELECT {API_KEY_COLUMNS}, coalesce(expires_at <= clock_timestamp(), false) AS is_expired
    FROM api_keys WHERE digest = :digest
""")  # noqa: S608 - a constant

_GET = text(f"SELECT {API_KEY_COLUMNS} FROM api_keys WHERE id = :id")  # noqa: S608 - a constant

# Newest first; ids are in order of time.
_ALL = text(f"""
    SELECT {API_KEY_COLUMNS} FROM api_keys
    WHERE CAST(:tenant AS text) IS NULL OR tenant = :tenant
    ORDER BY id DESC
""")  # noqa: S608 - a constant

# Makes a key with the rights of one that is in force and was not rotated, and lets that one end.
# The new one lives as long as the old one was made for.
_ROTATE = text(f"""
    WITH old AS (
        SELECT * FROM api_keys
        WHERE id = :id AND revoked_at IS NULL AND rotated_to IS NULL
          AND (expires_at IS NULL OR expires_at > clock_timestamp())
        FOR UPDATE
    ), ended AS (
        UPDATE api_keys
        SET rotated_to = :new_id,
            expires_at = least(api_keys.expires_at, clock_timestamp() + :overlap)
        FROM old WHERE api_keys.id = old.id
    )
    INSERT INTO api_keys (id, tenant, name, prefix, digest, scopes, created_by, expires_at)
    SELECT :new_id, tenant, name, :prefix, :digest, scopes, :who,
           clock_timestamp() + (expires_at - created_at)
    FROM old
    RETURNING {API_KEY_COLUMNS}
""")  # noqa: S608 - a constant

# Ends a key that was not ended.
_REVOKE = text("""
    UPDATE api_keys SET revoked_at = clock_timestamp() WHERE id = :id AND revoked_at IS NULL
""")


def create(
    connection: Connection,
    name: str,
    *,
    tenant: str | None,
    scopes: Collection[Scope],
    reason: str,
    who: str,
    lifetime: timedelta | None = None,
) -> NewApiKey:
    """Make a key. Its secret is in the answer and nowhere else.

    Args:
        connection: In a transaction.
        name: For people, up to 200 characters.
        tenant: For whom it speaks; None for all tenants, to read and to operate, or for an admin.
        scopes: What it is for, one or more.
        reason: Why, for people.
        who: Makes it.
        lifetime: How long it counts; None for ever.

    Raises:
        InvalidOperation: It has no name or no scope, would speak for nobody, or for all tenants
            whom it would submit as no admin, or would never count.
    """
    if not 1 <= len(name.strip()) <= _LONGEST_NAME:
        raise InvalidOperation(f"Give the key a name of at most {_LONGEST_NAME} characters.")
    if not scopes:
        raise InvalidOperation("Say what the key is for: name at least one scope.")
    operations.check_tenant(tenant)
    if tenant is None and Scope.SUBMIT in scopes and Scope.ADMIN not in scopes:
        raise InvalidOperation(
            "A job is one tenant's, so that a key of all tenants cannot be for submit unless it is "
            "for admin; name a tenant."
        )
    if lifetime is not None and lifetime <= timedelta(0):
        raise InvalidOperation("A key that is to expire has to live for a while first.")
    prefix, secret, digest = _draw()
    values = {
        "id": new_id(),
        "tenant": tenant,
        "name": name,
        "prefix": prefix,
        "digest": digest,
        "scopes": sorted(set(scopes)),
        "who": who,
        "lifetime": lifetime,
    }
    made = ApiKey.from_row(connection.execute(_INSERT, values).mappings().one())
    _note(connection, OperationKind.CREATE_KEY, made, reason=reason, who=who)
    return NewApiKey(key=made, secret=secret)


def authenticate(connection: Connection, secret: str) -> ApiKey:
    """The key that has this secret: one look into an index, whatever it is.

    Args:
        connection: In a transaction that is committed, or its use is not noted.
        secret: What the caller sent, whatever that is.

    Raises:
        InvalidApiKey: There is none, or it was revoked or has expired. The log says which, and the
            caller is not told.
    """
    row = connection.execute(_AUTHENTICATE, {"digest": _digest(secret)}).mappings().one_or_none()
    if row is None:
        shape = _SHAPE.fullmatch(secret)
        log.warning("api_key_refused", why="unknown", prefix=shape and shape[1])
        raise InvalidApiKey
    key = ApiKey.from_row(row)
    if key.revoked_at is not None or row["is_expired"]:
        why = "expired" if key.revoked_at is None else "revoked"
        log.warning("api_key_refused", why=why, prefix=key.prefix, api_key_id=str(key.id))
        raise InvalidApiKey
    return key


def get(connection: Connection, key_id: UUID) -> ApiKey:
    """One key.

    Raises:
        ApiKeyNotFound: None has this id.
    """
    row = connection.execute(_GET, {"id": key_id}).mappings().one_or_none()
    if row is None:
        raise ApiKeyNotFound(f"No API key has the id {key_id}; `twofold keys list` shows them.")
    return ApiKey.from_row(row)


def every_key(connection: Connection, *, tenant: str | None = None) -> Sequence[ApiKey]:
    """All keys, those that are over included, newest first.

    Args:
        connection: Of the database.
        tenant: Only this one's; None for all.
    """
    return [ApiKey.from_row(row) for row in connection.execute(_ALL, {"tenant": tenant}).mappings()]


def rotate(
    connection: Connection, key_id: UUID, *, overlap: timedelta, reason: str, who: str
) -> NewApiKey:
    """Make a key with the same rights; the old one is good for a while yet, so that nobody is out.

    Args:
        connection: In a transaction.
        key_id: Of the old one.
        overlap: How long it stays good, unless it expires sooner; 0 or more.
        reason: Why, for people.
        who: Rotates it.

    Raises:
        ApiKeyNotFound: None has this id.
        InvalidOperation: It is over, or was rotated already.
    """
    if overlap < timedelta(0):
        raise InvalidOperation(
            "The old key cannot have ended already; give an overlap of 0 or more."
        )
    prefix, secret, digest = _draw()
    values = {
        "id": key_id,
        "new_id": new_id(),
        "prefix": prefix,
        "digest": digest,
        "who": who,
        "overlap": overlap,
    }
    row = connection.execute(_ROTATE, values).mappings().one_or_none()
    if row is None:
        old = get(connection, key_id)
        raise InvalidOperation(
            f"The key {old.prefix} was rotated already; rotate {old.rotated_to}."
            if old.rotated_to
            else f"The key {old.prefix} is over; create a new one."
        )
    made = ApiKey.from_row(row)
    _note(
        connection,
        OperationKind.ROTATE_KEY,
        made,
        reason=reason,
        who=who,
        rotated_from=str(key_id),
        overlap_seconds=overlap.total_seconds(),
    )
    return NewApiKey(key=made, secret=secret)


def revoke(connection: Connection, key_id: UUID, *, reason: str, who: str) -> ApiKey:
    """End a key at once. Safe to repeat.

    Raises:
        ApiKeyNotFound: None has this id.
    """
    ended = connection.execute(_REVOKE, {"id": key_id}).rowcount
    key = get(connection, key_id)
    if ended:
        _note(connection, OperationKind.REVOKE_KEY, key, reason=reason, who=who)
    return key


def _draw() -> tuple[str, str, bytes]:
    """A prefix, a secret that begins with it, and the secret's digest."""
    prefix = f"tfk_{secrets.token_hex(_PREFIX_BYTES)}"
    secret = f"{prefix}_{secrets.token_hex(_SECRET_BYTES)}"
    return prefix, secret, _digest(secret)


def _digest(secret: str) -> bytes:
    # Whatever a header may hold is looked up, and found to be none.
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


def _note(
    connection: Connection,
    kind: OperationKind,
    key: ApiKey,
    *,
    reason: str,
    who: str,
    **more: Any,  # noqa: ANN401 - JSON
) -> None:
    change: Mapping[str, Any] = {
        "key": str(key.id),
        "prefix": key.prefix,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "expires_at": _moment(key.expires_at),
        **more,
    }
    operations.note(
        connection, kind, JobFilter(tenant=key.tenant), reason=reason, who=who, change=change
    )


def _moment(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
