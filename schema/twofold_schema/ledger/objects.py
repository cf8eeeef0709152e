"""What rows say of objects in storage: which results wait for their fixed name, which are named.

The keeper copies, deletes and looks; nothing here touches storage.
"""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import Connection, text

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.job import JOB_COLUMNS, Job
from twofold_schema.ledger import history
from twofold_schema.ledger.history import ALL_JOBS
from twofold_schema.states import JobState

# Succeeded jobs whose fixed name was not yet seen to hold their result, oldest first.
_UNPUBLISHED = text(f"""
    SELECT {JOB_COLUMNS} FROM jobs
    WHERE state = 'succeeded' AND publish_to IS NOT NULL AND published_at IS NULL
      AND NOT id = ANY(CAST(:but AS uuid[]))
    ORDER BY finished_at LIMIT :limit
""")  # noqa: S608 - a constant

# One process at a time looks at a name and copies to it. Its transaction may wait for storage.
_HOLD_NAME = text("""
    SELECT pg_try_advisory_xact_lock(hashtextextended('twofold.name.' || :uri, 0)),
           set_config('idle_in_transaction_session_timeout', :milliseconds, true)
""")

# The fixed name was seen to hold this job's result, or a newer job's.
_PUBLISHED = text("""
    UPDATE jobs SET published_at = clock_timestamp()
    WHERE id = :id AND state = 'succeeded' AND published_at IS NULL
""")

# Of the jobs that want one name the newest, which should have it.
_NEWEST = text(f"""
    SELECT id FROM {ALL_JOBS} AS jobs WHERE publish_to = :publish_to AND state = 'succeeded'
    ORDER BY id DESC LIMIT 1
""")  # noqa: S608 - built from a constant of this package

# It is to be looked at again.
_LOOK_AGAIN = text("""
    UPDATE jobs SET published_at = NULL WHERE id = :id AND state = 'succeeded'
""")


def unpublished(connection: Connection, *, limit: int, but: Collection[UUID] = ()) -> list[Job]:
    """Succeeded jobs that wait for their fixed name, the longest first.

    Args:
        connection: Of the database.
        limit: 1 or more.
        but: Jobs to leave out.
    """
    rows = connection.execute(_UNPUBLISHED, {"limit": limit, "but": list(but)}).mappings()
    return [Job.from_row(row) for row in rows]


def try_name(connection: Connection, name: ArtifactUri, *, idle_seconds: float) -> bool:
    """Whether this transaction may write under a fixed name; nobody else can until it ends.

    Args:
        connection: In a transaction of its own.
        name: Where.
        idle_seconds: How long the transaction may wait for storage before the database ends it.
    """
    parameters = {"uri": str(name), "milliseconds": str(round(1000 * idle_seconds))}
    return bool(connection.execute(_HOLD_NAME, parameters).scalar_one())


def mark_published(connection: Connection, job_id: UUID) -> None:
    """Note that a job's fixed name holds its result, or a newer job's. Safe to repeat."""
    connection.execute(_PUBLISHED, {"id": job_id})


def look_again(connection: Connection, publish_to: str) -> None:
    """Let the name that some jobs want be looked at once more. Safe to repeat."""
    newest = connection.execute(_NEWEST, {"publish_to": publish_to}).scalar_one_or_none()
    if newest is None or connection.execute(_LOOK_AGAIN, {"id": newest}).rowcount:
        return
    # After the statement above: it has waited for whoever was moving it.
    history.bring_back(connection, [newest], states=[JobState.SUCCEEDED])
    connection.execute(_LOOK_AGAIN, {"id": newest})
