"""What nobody's request does: promote, expire, rescue. Done by the keeper, for ever.

Rescue is also done in the workers' heartbeats, by the same call. Each sweep takes an advisory
lock for its transaction, so that any number of processes may try and one does it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import Connection, text

from twofold_schema.errors import RunDeadlineExceeded, WorkerCrashed
from twofold_schema.ids import new_id
from twofold_schema.ledger.poison import Orphan, Verdict, judge

#: How many rows one sweep takes; the next one takes the rest.
SWEEP_ROWS = 1000
#: How many runs one rescue takes the jobs of, the oldest runs first: a fleet that died at once must
#: not be more than a statement's bound allows.
RESCUE_RUNS = 100

_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended('twofold.' || :duty, 0))")

# In these sweeps the time stands in a subquery: an index can be searched for that, but not for a
# volatile function. Ids stand in an array, which the planner looks up one by one whatever it
# believes about their number. They skip what others hold, so the order of their locks is free.

# Jobs whose time has come. Rows that others hold can wait for the next sweep.
_PROMOTE = text("""
    WITH due AS (
        SELECT id FROM jobs
        WHERE state = 'scheduled' AND scheduled_at <= (SELECT clock_timestamp())
        ORDER BY scheduled_at LIMIT :rows FOR UPDATE SKIP LOCKED
    )
    UPDATE jobs SET state = 'queued', queued_at = clock_timestamp()
    WHERE id = ANY(ARRAY(SELECT id FROM due))
""")

# Jobs that missed a deadline, in any state that is not final. `start_by` is met by the first claim.
# Called off is called off: an `expired` job might be retried.
_EXPIRE = text("""
    WITH unclaimed AS (
        SELECT id FROM jobs
        WHERE state IN ('scheduled', 'queued') AND first_claimed_at IS NULL
          AND start_by <= (SELECT clock_timestamp())
        ORDER BY start_by LIMIT :rows FOR UPDATE SKIP LOCKED
    ), unfinished AS (
        SELECT id FROM jobs
        WHERE state IN ('scheduled', 'queued', 'running')
          AND finish_by <= (SELECT clock_timestamp())
        ORDER BY finish_by LIMIT :rows FOR UPDATE SKIP LOCKED
    )
    UPDATE jobs
    SET state = CASE WHEN cancel_requested_at IS NULL THEN 'expired' ELSE 'cancelled' END,
        run_deadline = NULL, finished_at = clock_timestamp()
    WHERE id = ANY(ARRAY(SELECT id FROM unclaimed UNION SELECT id FROM unfinished))
""")

# Notes that somebody looked. A gap since the last look, half a lease or more, means that the
# database itself may have been away, or frozen, while leases ran out through no fault of their
# runs: patience starts anew. A caller that looks so seldom that it would see nothing but gaps
# allows for its pace.
_BEAT = text("""
    INSERT INTO pulse AS last (id) VALUES (1)
    ON CONFLICT (id) DO UPDATE
    SET resumed_at = CASE
            WHEN last.beat_at < clock_timestamp() - interval '1 second' * greatest(
                3 * :every_seconds,
                (SELECT min(lease_seconds) / 2 FROM runs WHERE state IN ('live', 'draining')))
            THEN clock_timestamp() ELSE last.resumed_at END,
        beat_at = clock_timestamp()
    RETURNING greatest(resumed_at, pg_postmaster_start_time()) AS resumed_at, beat_at
""")

# Notes that a keeper keeps. Whoever rescues holds the row, and may be frozen: then the next time.
_KEEP = text("""
    UPDATE pulse SET kept_at = clock_timestamp()
    WHERE id = (SELECT id FROM pulse FOR UPDATE SKIP LOCKED)
""")

# Runs whose lease was over at that look: if the database has frozen since, only the next look
# can tell. They are judged only after the database has been back for one lease.
_LOSE_RUNS = text("""
    WITH silent AS (
        SELECT id FROM runs
        WHERE state IN ('live', 'draining') AND lease_expires_at <= :beat_at
          AND clock_timestamp() > CAST(:resumed_at AS timestamptz)
                                  + lease_seconds * interval '1 second'
        ORDER BY id FOR UPDATE SKIP LOCKED
    )
    UPDATE runs SET state = 'lost', ended_at = clock_timestamp()
    FROM silent WHERE runs.id = silent.id
""")

_ENDED_RUN = "(runs.id IS NULL OR runs.state IN ('stopped', 'lost'))"

# The oldest runs that hold no lease and have running jobs.
_ENDED_RUNS = text(f"""
    SELECT DISTINCT jobs.run_id FROM jobs LEFT JOIN runs ON runs.id = jobs.run_id
    WHERE jobs.state = 'running' AND {_ENDED_RUN}
    ORDER BY jobs.run_id LIMIT :runs
""")  # noqa: S608 - built from a constant of this module

# Locks the running jobs of such runs. A process that froze in a transaction may hold some
# of them for long; they wait for the next sweep, and nobody else's wait with them.
_LOCK_ORPHANS = text(f"""
    SELECT jobs.id FROM jobs LEFT JOIN runs ON runs.id = jobs.run_id
    WHERE jobs.state = 'running' AND {_ENDED_RUN} AND jobs.run_id = ANY(CAST(:runs AS uuid[]))
    ORDER BY jobs.id FOR UPDATE OF jobs SKIP LOCKED
""")  # noqa: S608 - built from a constant of this module

# What the locked orphans are, of runs all of whose orphans are locked: a verdict needs them all.
# Read again, because a lock re-reads the job alone: one that had just moved on to another run
# would be locked beside no run at all, like an orphan.
_ORPHANS = text(f"""
    SELECT * FROM (
        SELECT jobs.id, jobs.run_id, jobs.isolation, jobs.started_at IS NOT NULL AS started,
               coalesce(runs.state, 'lost') = 'lost' AS crashed,
               bool_and(jobs.id = ANY(CAST(:locked AS uuid[]))) OVER (PARTITION BY jobs.run_id)
                   AS whole
        FROM jobs LEFT JOIN runs ON runs.id = jobs.run_id
        WHERE jobs.state = 'running' AND {_ENDED_RUN} AND jobs.run_id = ANY(CAST(:runs AS uuid[]))
    ) AS orphan
    WHERE whole ORDER BY id
""")  # noqa: S608 - built from a constant of this module

# Running jobs of live runs that were, at that look, held longer than any claim may last. What ended
# runs left is judged with the rest of its run, be it at a later sweep.
_OVERDUE = text("""
    SELECT jobs.id, jobs.isolation, jobs.started_at IS NOT NULL AS started
    FROM jobs JOIN runs ON runs.id = jobs.run_id
    WHERE jobs.state = 'running' AND jobs.run_deadline <= :beat_at
      AND runs.state IN ('live', 'draining')
      AND clock_timestamp() > CAST(:resumed_at AS timestamptz)
                              + runs.lease_seconds * interval '1 second'
    ORDER BY jobs.run_deadline LIMIT :rows FOR UPDATE OF jobs SKIP LOCKED
""")

# Gives jobs back as judged.
_GIVE_BACK = text("""
    WITH verdict AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:suspects AS boolean[]),
                             CAST(:charged AS boolean[]), CAST(:isolations AS uuid[]))
               AS t (id, suspect, charged, isolation)
    ), fate AS (
        SELECT jobs.id, CASE
            WHEN jobs.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN verdict.charged AND jobs.attempts + 1 >= jobs.max_attempts THEN 'failed'
            WHEN jobs.finish_by <= clock_timestamp() THEN 'expired'
            ELSE 'queued' END AS state
        FROM jobs JOIN verdict USING (id)
    )
    UPDATE jobs
    SET state = fate.state,
        attempts = jobs.attempts + CAST(verdict.charged AS integer),
        crashes = jobs.crashes + CAST(verdict.suspect AS integer),
        isolation = verdict.isolation,
        errors = CASE WHEN verdict.suspect OR verdict.charged THEN
            jobs.errors || jsonb_build_array(jsonb_build_object(
                'code', CAST(:code AS text), 'message', CAST(:message AS text),
                'generation', jobs.generation,
                'attempt', jobs.attempts + CAST(verdict.charged AS integer),
                'fence', jobs.fence, 'run_id', jobs.run_id, 'at', clock_timestamp()))
            ELSE jobs.errors END,
        run_id = CASE WHEN fate.state <> 'queued' THEN jobs.run_id END,
        started_at = CASE WHEN fate.state <> 'queued' THEN jobs.started_at END,
        queued_at = CASE WHEN fate.state = 'queued' THEN clock_timestamp() ELSE jobs.queued_at END,
        finished_at = CASE WHEN fate.state <> 'queued' THEN clock_timestamp() END,
        run_deadline = NULL
    FROM verdict JOIN fate USING (id)
    WHERE jobs.id = verdict.id
""")


def try_duty(connection: Connection, duty: str) -> bool:
    """Whether this transaction may do `duty`; nobody else can until it ends."""
    return bool(connection.execute(_TRY_LOCK, {"duty": duty}).scalar_one())


def promote(connection: Connection) -> int:
    """Queue scheduled jobs whose time has come; returns how many."""
    return connection.execute(_PROMOTE, {"rows": SWEEP_ROWS}).rowcount


def expire(connection: Connection) -> int:
    """End jobs that missed `start_by` or `finish_by`; returns how many.

    They are `expired`; one that was called off while it ran is `cancelled`.
    """
    return connection.execute(_EXPIRE, {"rows": SWEEP_ROWS}).rowcount


def rescue(connection: Connection, *, every_seconds: float) -> int:
    """Give back running jobs whose run holds no lease, and those held past their run deadline.

    Args:
        connection: In a transaction of its own.
        every_seconds: How often this caller looks. A much longer silence since the last look, by
            anybody, counts as an outage of the database: leases are then given their full length
            once more before any is judged.

    Returns:
        How many jobs were given back or ended, of at most `RESCUE_RUNS` runs; the next call takes
        the rest. 0 also when another process is at it.
    """
    if not try_duty(connection, "rescue"):
        return 0
    row = connection.execute(_BEAT, {"every_seconds": every_seconds}).one()
    beat = {"beat_at": row.beat_at, "resumed_at": row.resumed_at}
    connection.execute(_LOSE_RUNS, beat)
    return _rescue_orphans(connection) + _rescue_overdue(connection, beat)


def note_kept(connection: Connection) -> None:
    """Note that a keeper has done its round, beside the looks of everybody who rescues."""
    connection.execute(_KEEP)


def _rescue_orphans(connection: Connection) -> int:
    crashed: dict[UUID, list[Orphan]] = defaultdict(list)
    verdicts: list[Verdict] = []
    ended = connection.execute(_ENDED_RUNS, {"runs": RESCUE_RUNS}).scalars().all()
    if not ended:
        return 0
    locked = connection.execute(_LOCK_ORPHANS, {"runs": ended}).scalars().all()
    for row in connection.execute(_ORPHANS, {"runs": ended, "locked": locked}):
        if row.crashed:
            crashed[row.run_id].append(Orphan(row.id, row.started, row.isolation))
        else:
            verdicts.append(Verdict(row.id, suspect=False, charged=False, isolation=row.isolation))
    for orphans in crashed.values():
        verdicts += judge(orphans, new_id)
    return _give_back(connection, verdicts, WorkerCrashed)


def _rescue_overdue(connection: Connection, beat: Mapping[str, object]) -> int:
    rows = connection.execute(_OVERDUE, {"rows": SWEEP_ROWS, **beat})
    verdicts = [
        Verdict(row.id, suspect=False, charged=row.started, isolation=row.isolation) for row in rows
    ]
    return _give_back(connection, verdicts, RunDeadlineExceeded)


def _give_back(
    connection: Connection,
    verdicts: Sequence[Verdict],
    error: type[WorkerCrashed | RunDeadlineExceeded],
) -> int:
    if not verdicts:
        return 0
    return connection.execute(
        _GIVE_BACK,
        {
            "ids": [verdict.job_id for verdict in verdicts],
            "suspects": [verdict.suspect for verdict in verdicts],
            "charged": [verdict.charged for verdict in verdicts],
            "isolations": [verdict.isolation for verdict in verdicts],
            "code": error.code,
            "message": error().message,
        },
    ).rowcount
