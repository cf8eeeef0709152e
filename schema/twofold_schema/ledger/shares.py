"""What each tenant has had of a class's GPU-seconds, and so whose turn it is.

Start-time fair queueing (Goyal, Vin and Cheng, "Start-time fair queuing", SIGCOMM 1996) with the
tenants of a class as flows. A tenant's virtual time advances by the GPU-seconds that it is charged,
divided by its weight; the class's is the latest that any tenant had when its turn came. The tenant
with the earliest goes next. One that comes back after a while begins at the class's time, so that
nobody saves up turns by asking for none.

Claims append to a journal, `charges`, and so does the trigger that corrects them, so that no claim
waits for another's. What a tenant's virtual time is, is what the journal's entries make of it in
their order: of each with a start, no less than that; by each, further by its advance. The keeper
folds the journal into `shares`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from sqlalchemy import Connection, text

from twofold_schema.errors import InvalidOperation
from twofold_schema.ledger import journals, operations
from twofold_schema.operation import JobFilter, OperationKind

#: Of jobs whose size is unknown, until any of their class has succeeded: one of 512x512 px takes
#: about so long, in GPU-seconds.
FIRST_GUESS = 0.1

#: Of a weight. A second's work of the least of them is a thousand of whoever weighs 1: beyond that,
#: sums of charges would soon lose whatever the others add to them.
LEAST_WEIGHT, MOST_WEIGHT = 0.001, 1000.0

#: How many entries one fold adds up. After a night without keepers there are millions, more than
#: one statement can take out in its time.
FOLD_ROWS = 20_000

_NOT_FOLDED = journals.not_folded("charges")


def _journal(entries: str) -> str:
    """What entries come to. `rest` is what one and all later ones of its tenant advance."""
    return f"""
        SELECT job_class, tenant, sum(advance) AS advance, max(start) AS start,
               max(start + rest) AS least, sum(jobs) AS jobs, sum(gpu_seconds) AS gpu_seconds
        FROM (
            SELECT *, sum(advance) OVER (PARTITION BY job_class, tenant ORDER BY id DESC) AS rest
            FROM {entries}
        ) AS entries
        GROUP BY job_class, tenant
    """  # noqa: S608 - built from constants of this module


#: Where tenants stand: by what is folded and what is not.
STANDINGS = f"""
    SELECT job_class, tenant,
           greatest(coalesce(shares.vtime, 0) + coalesce(journal.advance, 0),
                    journal.least) AS vtime,
           greatest(shares.start, journal.start) AS start,
           coalesce(shares.jobs, 0) + coalesce(journal.jobs, 0) AS jobs,
           coalesce(shares.gpu_seconds, 0) + coalesce(journal.gpu_seconds, 0) AS gpu_seconds
    FROM shares
    FULL JOIN ({_journal(f"charges WHERE {_NOT_FOLDED}")}) AS journal USING (job_class, tenant)
"""  # noqa: S608 - built from constants of this module

# Takes the journal's oldest entries out and adds them up. Only one may fold at a time.
_FOLD = text(f"""
    WITH gone AS (
        DELETE FROM charges
        WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM charges WHERE {_NOT_FOLDED} ORDER BY xid, id LIMIT :rows))
        RETURNING *
    ), noted AS (
        {journals.note_fold("charges", "(SELECT count(*) FROM gone) < :rows")}
    ), written AS (
        INSERT INTO shares (tenant, job_class, vtime, start, jobs, gpu_seconds)
        SELECT tenant, job_class,
               greatest(coalesce(shares.vtime, 0) + journal.advance, journal.least),
               greatest(shares.start, journal.start, 0),
               coalesce(shares.jobs, 0) + journal.jobs,
               coalesce(shares.gpu_seconds, 0) + journal.gpu_seconds
        FROM ({_journal("gone")}) AS journal LEFT JOIN shares USING (tenant, job_class)
        ON CONFLICT (tenant, job_class) DO UPDATE
        SET vtime = excluded.vtime, start = excluded.start, jobs = excluded.jobs,
            gpu_seconds = excluded.gpu_seconds
    )
    SELECT count(*) FROM gone
""")  # noqa: S608 - built from constants of this module

# Says what a tenant is due; what is not said stays as it is.
_SET = text("""
    INSERT INTO tenants AS held (tenant, weight, max_running)
    VALUES (:tenant, coalesce(CAST(:weight AS double precision), 1), :max_running)
    ON CONFLICT (tenant) DO UPDATE
    SET weight = coalesce(CAST(:weight AS double precision), held.weight),
        max_running = CASE WHEN :keep_cap THEN held.max_running ELSE excluded.max_running END
    RETURNING weight, max_running
""")

# Everybody of whom it was said.
_ALL = text("SELECT tenant, weight, max_running FROM tenants ORDER BY tenant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a tenant is due.

    Attributes:
        weight: Beside others of a class.
        max_running: How many jobs may run at once; None for any number.
    """

    weight: float = 1.0
    max_running: int | None = None


def fold(connection: Connection) -> int:
    """Add the journal's oldest entries up, `FOLD_ROWS` at most; returns how many.

    Args:
        connection: In a transaction that does this duty alone.
    """
    return int(connection.execute(_FOLD, {"rows": FOLD_ROWS}).scalar_one())


def every_share(connection: Connection) -> Mapping[str, Share]:
    """What tenants are due of whom it was said, by name; all others weigh 1 and have no cap."""
    return {
        row.tenant: Share(weight=row.weight, max_running=row.max_running)
        for row in connection.execute(_ALL)
    }


def set_share(
    connection: Connection,
    tenant: str,
    *,
    reason: str,
    who: str,
    weight: float | None = None,
    max_running: int | Literal["any"] | None = None,
) -> Share:
    """Say what a tenant is due beside others of a class.

    Args:
        connection: Of the database.
        tenant: Whose share it is.
        reason: Why, for people.
        who: Says so.
        weight: From `LEAST_WEIGHT` to `MOST_WEIGHT`: twice as much gets twice the GPU-seconds.
            What was charged before stays as it was. None for what it is.
        max_running: How many jobs may run at once; a claim that begins below it may go over it
            once. `any` for any number, None for what it is.

    Returns:
        What it is due now.

    Raises:
        InvalidOperation: The tenant's name is blank, the weight is outside its range, or the cap
            is below 0.
    """
    operations.check_tenant(tenant)
    if weight is not None and not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise InvalidOperation(
            f"A weight is a number from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}, not {weight:g}."
        )
    cap = None if max_running == "any" else max_running
    if cap is not None and cap < 0:
        raise InvalidOperation(f"No fewer than 0 jobs can run at once; {cap} was asked for.")
    values = {"tenant": tenant, "weight": weight, "max_running": cap}
    row = connection.execute(_SET, values | {"keep_cap": max_running is None}).one()
    share = Share(weight=row.weight, max_running=row.max_running)
    operations.note(
        connection,
        OperationKind.SHARE,
        JobFilter(tenant=tenant),
        reason=reason,
        who=who,
        change=asdict(share),
    )
    return share
