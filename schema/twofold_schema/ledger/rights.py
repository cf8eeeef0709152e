"""What tenants may do: the places that their jobs name, how much they ask for, how long it is kept.

A tenant of whom nothing was said may name every place that is open to Twofold, and have any number
of jobs waiting. How many requests it may make is for whoever takes them to hold it to.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from sqlalchemy import Connection, Row, text

from twofold_schema.errors import InvalidOperation, InvalidUri
from twofold_schema.ledger import operations
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.tenant_places import Place, TenantPlaces

Value = TypeVar("Value")
#: What a right is to be: `any` lifts a limit, None leaves it as it is.
Change: TypeAlias = Value | Literal["any"] | None

_NAMES = ("may_read", "may_write", "max_queued", "rate", "burst", "jobs_days")
_COLUMNS = ", ".join(_NAMES)

# Says what a tenant may do; what is not said stays as it is.
_SET = text(f"""
    INSERT INTO tenants AS held (tenant, {_COLUMNS})
    VALUES (:tenant, CAST(:may_read AS text[]), CAST(:may_write AS text[]), :max_queued, :rate,
            :burst, :jobs_days)
    ON CONFLICT (tenant) DO UPDATE
    SET may_read = CASE WHEN :keep_may_read THEN held.may_read ELSE excluded.may_read END,
        may_write = CASE WHEN :keep_may_write THEN held.may_write ELSE excluded.may_write END,
        max_queued = CASE WHEN :keep_max_queued THEN held.max_queued ELSE excluded.max_queued END,
        rate = CASE WHEN :keep_rate THEN held.rate ELSE excluded.rate END,
        burst = CASE WHEN :keep_burst THEN held.burst ELSE excluded.burst END,
        jobs_days = CASE WHEN :keep_jobs_days THEN held.jobs_days ELSE excluded.jobs_days END
    RETURNING tenant, {_COLUMNS}
""")  # noqa: S608 - built from a constant of this module

# Some tenants of whom it was said.
_SOME = text(f"""
    SELECT tenant, {_COLUMNS} FROM tenants WHERE tenant = ANY(CAST(:tenants AS text[]))
""")  # noqa: S608 - built from a constant of this module

# Everybody of whom it was said.
_ALL = text(f"SELECT tenant, {_COLUMNS} FROM tenants ORDER BY tenant")  # noqa: S608 - as above


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What a tenant may do.

    Attributes:
        places: What its jobs may name.
        max_queued: How many of its jobs may wait, for a run or for their time; None for any number.
        rate: Requests per second, over a while; None for any number.
        burst: Requests at once; None for what `rate` allows in a second.
        jobs_days: How long its jobs are kept after their end; None for as long as everybody's.
    """

    places: TenantPlaces
    max_queued: int | None = None
    rate: float | None = None
    burst: int | None = None
    jobs_days: int | None = None


def get(connection: Connection, tenant: str) -> Rights:
    """What a tenant may do."""
    found = of_each(connection, [tenant])
    return found.get(tenant) or Rights(places=TenantPlaces(tenant=tenant))


def of_each(connection: Connection, tenants: Collection[str]) -> Mapping[str, Rights]:
    """What these tenants may do of whom it was said, by name."""
    rows = connection.execute(_SOME, {"tenants": list(tenants)})
    return {row.tenant: _rights(row) for row in rows}


def every_right(connection: Connection) -> Mapping[str, Rights]:
    """What tenants may do of whom it was said, by name; all others may do everything."""
    return {row.tenant: _rights(row) for row in connection.execute(_ALL)}


def set_rights(
    connection: Connection,
    tenant: str,
    *,
    reason: str,
    who: str,
    may_read: Change[Collection[str]] = None,
    may_write: Change[Collection[str]] = None,
    max_queued: Change[int] = None,
    rate: Change[float] = None,
    burst: Change[int] = None,
    jobs_days: Change[int] = None,
    everybodys_days: int | None = None,
) -> Rights:
    """Say what a tenant may do. It holds for what is submitted and claimed from then on.

    Args:
        connection: Of the database.
        tenant: Whose rights they are.
        reason: Why, for people.
        who: Says so.
        may_read: The places of its sources, `s3://bucket/prefix` or `file:///folder`; empty for
            none but what Twofold itself stored.
        may_write: The places of its results, as `may_read`.
        max_queued: How many of its jobs may wait, 0 or more.
        rate: Requests per second, more than 0.
        burst: Requests at once, 1 or more.
        jobs_days: How long its jobs are kept after they have ended, 1 or more.
        everybodys_days: How long those of others are (TWOFOLD_JOBS_DAYS), which is the most; None
            where that is not known.

    Returns:
        What it may do now.

    Raises:
        InvalidOperation: The tenant's name is blank, a place is none, or a number is out of its
            range.
    """
    operations.check_tenant(tenant)
    stated = {
        "may_read": _places(may_read),
        "may_write": _places(may_write),
        "max_queued": max_queued,
        "rate": rate,
        "burst": burst,
        "jobs_days": jobs_days,
    }
    _check(stated)
    if isinstance(jobs_days, int) and jobs_days > (everybodys_days or jobs_days):
        raise InvalidOperation(
            f"Jobs of all tenants are dropped together once TWOFOLD_JOBS_DAYS ({everybodys_days}) "
            f"are over, so that nobody's are kept for {jobs_days} days; state fewer days, or raise "
            "that setting for everybody."
        )
    values = {name: None if value == "any" else value for name, value in stated.items()}
    keeps = {f"keep_{name}": value is None for name, value in stated.items()}
    row = connection.execute(_SET, {"tenant": tenant} | values | keeps).one()
    operations.note(
        connection,
        OperationKind.RIGHTS,
        JobFilter(tenant=tenant),
        reason=reason,
        who=who,
        change={name: getattr(row, name) for name in _NAMES},
    )
    return _rights(row)


def _places(stated: Change[Collection[str]]) -> Change[list[str]]:
    """Each place as it is always written."""
    if stated is None or isinstance(stated, str):
        return "any" if stated else None
    try:
        return [str(Place.parse(place)) for place in stated]
    except InvalidUri as invalid:
        raise InvalidOperation(invalid.message) from None


def _check(stated: Mapping[str, Any]) -> None:
    least = {"max_queued": 0, "burst": 1, "jobs_days": 1}
    for name, number in least.items():
        if isinstance(stated[name], int) and stated[name] < number:
            raise InvalidOperation(f"{name} is {number} or more, not {stated[name]}.")
    rate = stated["rate"]
    if rate not in {None, "any"} and not 0 < rate < math.inf:
        raise InvalidOperation(f"A rate is a number above 0, not {rate:g}.")


def _rights(row: Row[Any]) -> Rights:
    places = TenantPlaces(
        tenant=row.tenant,
        may_read=None if row.may_read is None else tuple(row.may_read),
        may_write=None if row.may_write is None else tuple(row.may_write),
    )
    return Rights(
        places=places,
        max_queued=row.max_queued,
        rate=row.rate,
        burst=row.burst,
        jobs_days=row.jobs_days,
    )
