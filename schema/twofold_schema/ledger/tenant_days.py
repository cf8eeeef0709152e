"""Jobs of tenants that are kept for fewer days than everybody's.

Everybody's are dropped by the week, in whole partitions. Those of some tenants that go sooner lie
among others, and are deleted row by row.
"""

from typing import Final

from sqlalchemy import Connection, text

from twofold_schema.ledger import tallies
from twofold_schema.ledger.reads import PAIR_START
from twofold_schema.ledger.retention import first_id

#: How many jobs one statement deletes; the next one takes the rest.
FORGET_ROWS: Final = 5000

_LIMIT = "(SELECT clock_timestamp()) - jobs_days * interval '1 day'"

# Deletes jobs of the history whose tenants' days are over, their pairs with them, and takes them
# from the tallies. A job that ended so long ago was submitted before that: so that of a tenant's
# jobs, which are in the order of their ids, only the old ones are looked at. A job that somebody
# brings back just now is left alone.
_FORGET = text(f"""
    WITH due AS (
        SELECT old.id FROM tenants CROSS JOIN LATERAL (
            SELECT id FROM history
            WHERE tenant = tenants.tenant AND id < {first_id(_LIMIT)} AND finished_at < {_LIMIT}
            ORDER BY id LIMIT :rows FOR UPDATE SKIP LOCKED
        ) AS old
        WHERE jobs_days < :everybodys LIMIT :rows
    ), gone AS (
        DELETE FROM history WHERE id = ANY(ARRAY(SELECT id FROM due)) RETURNING *
    ), unpaired AS (
        DELETE FROM pairs USING gone CROSS JOIN LATERAL jsonb_each_text(gone.metadata) AS pair
        WHERE pairs.tenant = gone.tenant AND pairs.name = pair.key
          AND pairs.value_start = left(pair.value, {PAIR_START}) AND pairs.job_id = gone.id
    ), taken AS (
        {tallies.taking_away("gone")}
    )
    SELECT count(*) FROM gone
""")  # noqa: S608 - built from constants of this package


def forget(connection: Connection, *, everybodys: int) -> int:
    """Delete jobs whose tenants' days are over; returns how many, `FORGET_ROWS` at most.

    Args:
        connection: In a transaction of its own, whose duty it is.
        everybodys: For how many days jobs are kept of tenants of whom nothing else was said.
    """
    wanted = {"everybodys": everybodys, "rows": FORGET_ROWS}
    return int(connection.execute(_FORGET, wanted).scalar_one())
