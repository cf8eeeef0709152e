"""Keys: a caller's own names for jobs, each held by one job while it is remembered."""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TypeAlias

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from twofold_schema.ids import PackedId
from twofold_schema.ledger import copying

#: A tenant and his key.
TenantKey: TypeAlias = tuple[str, str]
#: The job that holds a key, and the digest of what it asked for.
Holder: TypeAlias = tuple[PackedId, bytes]

#: So few are looked up at once: to find them free by COPY takes a savepoint.
_FEW = 4

_FORGET_ROWS = 5000

# Who holds these keys now. A key that is forgotten is held by nobody.
_HOLDERS = text("""
    SELECT held.tenant, held.key, held.job_id, held.fingerprint
    FROM unnest(CAST(:tenants AS text[]), CAST(:keys AS text[])) AS wanted (tenant, key)
    JOIN job_keys AS held ON held.tenant = wanted.tenant AND held.key = wanted.key
    WHERE held.expires_at > clock_timestamp()
""")

# Takes the keys that are free or forgotten. A key held by a transaction still open is waited for.
# In one order for everybody, which is also that of COPY: that of the bytes, as Python sorts.
_RESERVE = text("""
    INSERT INTO job_keys AS held (tenant, key, job_id, fingerprint, expires_at)
    SELECT tenant, key, job_id, fingerprint, :expires_at
    FROM unnest(CAST(:tenants AS text[]), CAST(:keys AS text[]), CAST(:job_ids AS uuid[]),
                CAST(:fingerprints AS bytea[])) AS wanted (tenant, key, job_id, fingerprint)
    ORDER BY tenant COLLATE "C", key COLLATE "C"
    ON CONFLICT (tenant, key) DO UPDATE
    SET job_id = excluded.job_id, fingerprint = excluded.fingerprint,
        expires_at = excluded.expires_at
    WHERE held.expires_at <= clock_timestamp()
    RETURNING held.tenant, held.key
""")

# Deletes keys that are forgotten, those of jobs or those of submissions. One that somebody takes
# right now is theirs: it is locked, or no longer forgotten once the lock is there.
_FORGET = """
    DELETE FROM {table} WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {table} WHERE expires_at <= (SELECT clock_timestamp())
        ORDER BY expires_at LIMIT :rows FOR UPDATE SKIP LOCKED))
"""
_FORGET_OF_JOBS = text(_FORGET.format(table="job_keys"))
_FORGET_OF_SUBMISSIONS = text(_FORGET.format(table="submission_keys"))


def hold(
    connection: Connection,
    wanted: Collection[TenantKey],
    holder: Callable[[TenantKey], Holder],
    *,
    expires_at: datetime,
    likely_free: bool,
) -> dict[TenantKey, Holder]:
    """Hold keys that nobody holds.

    Args:
        connection: In a transaction.
        wanted: The keys.
        holder: Who would hold each.
        expires_at: When they are forgotten.
        likely_free: Try COPY first, which is several times faster while all of them are free, and
            costs a little more when one is not.

    Returns:
        Who else holds those that were not free.
    """
    if likely_free and len(wanted) > _FEW and _copied(connection, wanted, holder, expires_at):
        return {}
    others: dict[TenantKey, Holder] = {}
    left = wanted
    while left:
        others |= holders(connection, left)
        free = {key: holder(key) for key in left if key not in others}
        won = _reserve(connection, free, expires_at) if free else set()
        # What others took meanwhile is looked up once more.
        left = [key for key in free if key not in won]
    return others


def holders(connection: Connection, keys: Iterable[TenantKey]) -> dict[TenantKey, Holder]:
    """Who holds these keys now; those that nobody holds are left out."""
    keys = list(keys)
    parameters = {"tenants": [tenant for tenant, _ in keys], "keys": [key for _, key in keys]}
    return {
        (row.tenant, row.key): (row.job_id.bytes, bytes(row.fingerprint))
        for row in connection.execute(_HOLDERS, parameters)
    }


def forget(connection: Connection) -> int:
    """Delete keys of jobs and of submissions that are forgotten, longest first.

    Returns:
        How many; each call deletes no more than some thousand.
    """
    values = {"rows": _FORGET_ROWS}
    return sum(
        connection.execute(statement, values).rowcount
        for statement in (_FORGET_OF_JOBS, _FORGET_OF_SUBMISSIONS)
    )


def _copied(
    connection: Connection,
    wanted: Collection[TenantKey],
    holder: Callable[[TenantKey], Holder],
    expires_at: datetime,
) -> bool:
    rows = ((*key, *holder(key)) for key in sorted(wanted))
    with suppress(IntegrityError), connection.begin_nested():
        copying.copy_keys(connection, rows, expires_at=expires_at)
        return True
    return False


def _reserve(
    connection: Connection, wanted: Mapping[TenantKey, Holder], expires_at: datetime
) -> set[TenantKey]:
    rows = connection.execute(
        _RESERVE,
        {
            "tenants": [tenant for tenant, _ in wanted],
            "keys": [key for _, key in wanted],
            "job_ids": [job_id.hex() for job_id, _ in wanted.values()],
            "fingerprints": [fingerprint for _, fingerprint in wanted.values()],
            "expires_at": expires_at,
        },
    )
    return {(row.tenant, row.key) for row in rows}
