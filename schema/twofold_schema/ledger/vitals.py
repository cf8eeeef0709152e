"""How the house is: the server, its clock, its pulse, its runs. Read by the doctor."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from twofold_schema.tables import metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A Postgres server.

    Attributes:
        version: As the server writes it: `18.4`.
        version_number: Comparable: 180004.
        read_only: It is a standby, or this role's transactions may not write.
        has_jobs: The job table is there.
    """

    version: str
    version_number: int
    read_only: bool
    has_jobs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """Who looked after the jobs, and what was left undone.

    Attributes:
        age: Since a keeper kept; None if none ever did.
        overdue: Since when the longest waits of the jobs that a keeper would have promoted or
            expired by now; None for none.
    """

    age: timedelta | None
    overdue: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """Live runs that are alike.

    Attributes:
        runs: How many.
        holding: The jobs in their hands.
        largest_pixels: The largest padded source that fits each of them; None if nobody knows.
    """

    model: str
    model_revision: str
    version: str
    device: str
    runs: int
    holding: int
    largest_pixels: int | None


# What the server is, and whether it takes writes.
_SERVER = text("""
    SELECT current_setting('server_version') AS version,
           current_setting('server_version_num')::integer AS version_number,
           pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean AS read_only,
           to_regclass('jobs') IS NOT NULL AS has_jobs
""")

#: Whoever reads these can sign messages in our name. Only the keeper and whoever makes endpoints
#: need to: a role that may not is well.
_SECRET = ("webhook_secrets",)
#: Tables of which rows are deleted, by the keeper.
_EMPTIED = (
    "jobs",
    "history",
    "tally_changes",
    "charges",
    "rollups",
    "pairs",
    "deliveries",
    "job_keys",
    "submission_keys",
)

# What this role may not do with which table, of those that are there.
_LACKING = text("""
    SELECT privilege || ' on ' || name AS lacking
    FROM unnest(CAST(:tables AS text[])) AS t (name)
         CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p (privilege)
    WHERE (privilege <> 'DELETE' OR name = ANY(CAST(:emptied AS text[])))
      AND NOT has_table_privilege(CAST(to_regclass(name) AS oid), privilege)
    ORDER BY name, privilege
""")

# The clock that leases and deadlines go by.
_NOW = text("SELECT clock_timestamp()")

# When a keeper last kept, and for how long its own duties have been left undone: the heartbeats of
# workers look too, but neither promote nor expire.
_PULSE = text("""
    SELECT (SELECT clock_timestamp() - kept_at FROM pulse) AS age,
           greatest(
               (SELECT clock_timestamp() - min(scheduled_at) FROM jobs WHERE state = 'scheduled'),
               (SELECT clock_timestamp() - min(start_by) FROM jobs
                WHERE state IN ('scheduled', 'queued') AND first_claimed_at IS NULL
                  AND start_by IS NOT NULL),
               (SELECT clock_timestamp() - min(finish_by) FROM jobs
                WHERE state IN ('scheduled', 'queued', 'running') AND finish_by IS NOT NULL)
           ) AS overdue
""")

_HOLDS_A_LEASE = "state IN ('live', 'draining') AND lease_expires_at > clock_timestamp()"

# Runs that hold a lease, by what they are; of one host or of all.
_CREWS = text(f"""
    SELECT model, model_revision, version, device, count(*) AS runs, sum(holding) AS holding,
           min(max_lattice_pixels) AS largest_pixels
    FROM runs
    WHERE {_HOLDS_A_LEASE} AND (CAST(:host AS text) IS NULL OR host = :host)
    GROUP BY model, model_revision, version, device
    ORDER BY count(*) DESC, model, model_revision, version, device
""")  # noqa: S608 - built from a constant of this module


def server(connection: Connection) -> Server:
    """What the server is."""
    return Server(**connection.execute(_SERVER).mappings().one())


def lacking(connection: Connection) -> list[str]:
    """What this role may not do: `UPDATE on jobs`, say. Tables that are not there are left out.

    So are the secrets of endpoints, which not every role needs.
    """
    tables = [name for name in metadata.tables if name not in _SECRET]
    parameters = {"tables": tables, "emptied": list(_EMPTIED)}
    return list(connection.execute(_LACKING, parameters).scalars())


def now(connection: Connection) -> datetime:
    """The server's clock."""
    moment: datetime = connection.execute(_NOW).scalar_one()
    return moment


def pulse(connection: Connection) -> Pulse:
    """Whether the jobs are looked after."""
    row = connection.execute(_PULSE).one()
    overdue = row.overdue if row.overdue and row.overdue > timedelta(0) else None
    return Pulse(age=row.age, overdue=overdue)


def crews(connection: Connection, *, host: str | None = None) -> Sequence[Crew]:
    """Runs that hold a lease, counted by what they are; most first.

    Args:
        connection: Of the database.
        host: Only of this one; None for all.
    """
    return [Crew(**row) for row in connection.execute(_CREWS, {"host": host}).mappings()]
