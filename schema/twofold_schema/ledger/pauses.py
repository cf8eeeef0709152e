"""What is not claimed from for a while: everything, a class, a tenant, or a tenant's class.

What runs goes on; what waits keeps its place, and its deadlines hold. Each pause and each resume is
also an operation that was done at once, so that the next one does not hide who paused before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from twofold_schema.errors import ScopeMissing
from twofold_schema.ids import new_id
from twofold_schema.ledger import operations
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.states import JobClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A pause that is in force.

    Attributes:
        tenant: Whose jobs; None for everybody's.
        job_class: Of which class; None for all.
        reason: Why, for people.
        paused_by: Who said so.
    """

    tenant: str | None
    job_class: JobClass | None
    reason: str
    paused_by: str
    paused_at: datetime


# Begins a pause, or says anew why and by whom where it is in force.
_PAUSE = text(f"""
    INSERT INTO pauses (id, tenant, job_class, reason, paused_by)
    VALUES (:id, :tenant, :job_class, :reason, :who)
    ON CONFLICT (coalesce(tenant, ''), coalesce(job_class, -1)) WHERE resumed_at IS NULL
    DO UPDATE SET reason = excluded.reason, paused_by = excluded.paused_by
    WHERE {operations.by_own_key("pauses.paused_by", "asker")}
""")  # noqa: S608 - built from a constant of this package

_OF_SCOPE = """
    resumed_at IS NULL AND tenant IS NOT DISTINCT FROM :tenant
    AND job_class IS NOT DISTINCT FROM :job_class
"""

# Ends a pause; its row stays and says who did.
_RESUME = text(f"""
    UPDATE pauses SET resumed_at = clock_timestamp(), resumed_by = :who
    WHERE {_OF_SCOPE} AND {operations.by_own_key("paused_by", "asker")}
""")  # noqa: S608 - built from constants of this package

_IS_PAUSED = text(f"SELECT EXISTS (SELECT FROM pauses WHERE {_OF_SCOPE})")  # noqa: S608 - a constant

# What is paused now.
_IN_FORCE = text(f"""
    SELECT tenant, job_class, reason, {operations.as_told("paused_by")}, paused_at FROM pauses
    WHERE resumed_at IS NULL
      AND (CAST(:tenant AS text) IS NULL OR tenant IS NULL OR tenant = :tenant)
    ORDER BY paused_at, id
""")  # noqa: S608 - built from a constant of this package


def pause(
    connection: Connection,
    *,
    reason: str,
    who: str,
    tenant: str | None = None,
    job_class: JobClass | None = None,
    asker: str | None = None,
) -> None:
    """Let no more be claimed of a tenant's jobs, a class's, both, or any. Safe to repeat.

    Args:
        connection: In a transaction.
        reason: Why, for people.
        who: Who says so.
        tenant: Whose jobs; None for everybody's.
        job_class: Of which class; None for all.
        asker: The tenant that asks, if one does: an operator's pause of the same stays theirs.

    Raises:
        InvalidOperation: The tenant's name is blank.
    """
    operations.check_tenant(tenant)
    values = _scope(tenant, job_class) | {"reason": reason, "who": who, "asker": asker}
    if not connection.execute(_PAUSE, values | {"id": new_id()}).rowcount:
        return
    scope = JobFilter(tenant=tenant, job_class=job_class)
    operations.note(connection, OperationKind.PAUSE, scope, reason=reason, who=who)


def resume(
    connection: Connection,
    *,
    who: str,
    reason: str = "",
    tenant: str | None = None,
    job_class: JobClass | None = None,
    asker: str | None = None,
) -> bool:
    """End the pause of exactly this scope; returns whether there was one.

    Args:
        connection: In a transaction.
        who: Who says so.
        reason: Why, for people.
        tenant: Whose jobs; None for everybody's.
        job_class: Of which class; None for all.
        asker: The tenant that asks, if one does.

    Raises:
        ScopeMissing: A tenant asks, and it is an operator's.
    """
    # A blank name is not refused: a pause of one that an earlier version began has to be ended.
    values = _scope(tenant, job_class)
    if not connection.execute(_RESUME, values | {"who": who, "asker": asker}).rowcount:
        if connection.execute(_IS_PAUSED, values).scalar_one():
            raise ScopeMissing("An operator paused this; ask them to end it.")
        return False
    scope = JobFilter(tenant=tenant, job_class=job_class)
    operations.note(connection, OperationKind.RESUME, scope, reason=reason, who=who)
    return True


def in_force(connection: Connection, *, tenant: str | None = None) -> Sequence[Pause]:
    """What is paused, longest first.

    Args:
        connection: Of the database.
        tenant: To whom it is told: only what concerns this one; None for all.
    """
    return [
        Pause(
            tenant=row.tenant,
            job_class=None if row.job_class is None else list(JobClass)[row.job_class],
            reason=row.reason,
            paused_by=row.paused_by,
            paused_at=row.paused_at,
        )
        for row in connection.execute(_IN_FORCE, {"tenant": tenant})
    ]


def _scope(tenant: str | None, job_class: JobClass | None) -> dict[str, object]:
    return {"tenant": tenant, "job_class": None if job_class is None else job_class.rank}
