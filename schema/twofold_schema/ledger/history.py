"""Where jobs lie that ended a while ago, so that claims and outcomes never meet their rows.

A job is in `jobs` or in `history`, never in both. The keeper moves what is over; who wants to
change such a job once more brings it back first, as the row that it was. Moving is no change of
state: no event tells of it, and the tallies count both tables.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from twofold_schema.tables.jobs import OVER, jobs

#: How many jobs one statement moves; the next one takes the rest.
MOVE_ROWS = 5000

_COLUMNS = ", ".join(jobs.columns.keys())

#: Every job, whichever table it is in: at one moment it is in one of them.
ALL_JOBS = f"(SELECT {_COLUMNS} FROM jobs UNION ALL SELECT {_COLUMNS} FROM history)"  # noqa: S608 - a constant

# Moves jobs that are over and ended so long ago, the longest first. What others hold can wait for
# the next time. Rows go whole, with columns that only a later version knows: the tables have the
# same ones in the same order.
_MOVE = text(f"""
    WITH ended AS (
        SELECT id FROM jobs
        WHERE {OVER} AND finished_at <= (SELECT clock_timestamp()) - :age
        ORDER BY finished_at LIMIT :rows FOR UPDATE SKIP LOCKED
    ), moved AS (
        DELETE FROM jobs WHERE id = ANY(ARRAY(SELECT id FROM ended)) RETURNING *
    )
    INSERT INTO history SELECT * FROM moved
""")  # noqa: S608 - built from a constant of this package

# When the job ended that waits to be moved for the longest, or the time before which none is kept.
_OLDEST = text(f"""
    SELECT greatest(finished_at, clock_timestamp() - :kept) FROM jobs
    WHERE {OVER} ORDER BY finished_at LIMIT 1
""")  # noqa: S608 - built from a constant of this package

# Brings jobs back. The trigger of new rows passes over those that have ended.
_BRING_BACK = text("""
    WITH wanted AS (
        SELECT id FROM history
        WHERE id = ANY(CAST(:ids AS uuid[])) AND state = ANY(CAST(:states AS text[]))
          AND (CAST(:tenant AS text) IS NULL OR tenant = :tenant)
        ORDER BY id FOR UPDATE
    ), back AS (
        DELETE FROM history WHERE id = ANY(ARRAY(SELECT id FROM wanted)) RETURNING *
    ), written AS (
        INSERT INTO jobs SELECT * FROM back
    )
    SELECT id FROM back
""")


def move(connection: Connection, *, age: timedelta) -> int:
    """Move jobs to the history that ended so long ago; returns how many.

    One that waits for its fixed name stays until it has it.

    Args:
        connection: In a transaction of its own, whose duty it is.
        age: Since they ended.
    """
    return connection.execute(_MOVE, {"age": age, "rows": MOVE_ROWS}).rowcount


def oldest(connection: Connection, *, kept: timedelta) -> datetime | None:
    """When the first of those ended that are to be moved, no longer ago than jobs are kept.

    Returns:
        None where nothing is to be moved.
    """
    moment: datetime | None = connection.execute(_OLDEST, {"kept": kept}).scalar_one_or_none()
    return moment


def bring_back(
    connection: Connection,
    job_ids: Collection[UUID],
    *,
    states: Collection[str],
    tenant: str | None = None,
) -> list[UUID]:
    """Bring jobs back from the history to `jobs`, where their rows can be changed.

    Args:
        connection: In a transaction that changes them: otherwise they are soon moved again.
        job_ids: Of the jobs; those that are not in the history are left out.
        states: Only jobs in one of these.
        tenant: Only this one's jobs; None for whosoever's.

    Returns:
        The ids of those that came back. Nobody moves them before this transaction ends.
    """
    wanted = {"ids": list(job_ids), "states": list(states), "tenant": tenant}
    return list(connection.execute(_BRING_BACK, wanted).scalars())
