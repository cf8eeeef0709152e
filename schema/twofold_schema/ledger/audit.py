"""What must be true of rows, and no CHECK can say. `twofold db check` asks it.

Each question reads a whole table, or several, and is for a connection in one `REPEATABLE READ`
transaction, so that all answers are about the same moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, TextClause, text

from twofold_schema.ledger.history import ALL_JOBS
from twofold_schema.states import TRANSITIONS, JobState

#: How many examples an answer names.
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of which something is not true.

    Attributes:
        count: How many.
        examples: The first few, as a person would look for them.
    """

    count: int
    examples: Sequence[str]


_UNBOUND = text("SET LOCAL statement_timeout = 0")

# Running jobs whose run was never registered. Rescue gives them back.
_WITHOUT_RUN = text("""
    SELECT jobs.id FROM jobs
    WHERE state = 'running' AND NOT EXISTS (SELECT FROM runs WHERE runs.id = jobs.run_id)
    ORDER BY jobs.id
""")

# Submissions that are said to have ended while a job of theirs has not.
_ENDED_TOO_SOON = text("""
    SELECT id FROM submissions
    WHERE finished_at IS NOT NULL AND EXISTS (
        SELECT FROM jobs WHERE submission_id = submissions.id AND jobs.finished_at IS NULL)
    ORDER BY id
""")

# Keys that would answer with a job that is not there.
_KEYS_OF_NOTHING = text(f"""
    SELECT tenant || '/' || key FROM job_keys
    WHERE expires_at > clock_timestamp()
      AND NOT EXISTS (SELECT FROM {ALL_JOBS} AS jobs WHERE jobs.id = job_keys.job_id)
    ORDER BY tenant, key
""")  # noqa: S608 - built from a constant of this package

# Jobs whose events are no chain that ends in the row: each event leaves the state that the one
# before it came to, and the last one came to the row's.
_BROKEN_LIVES = text(f"""
    SELECT DISTINCT job_id FROM (
        SELECT job_id, left_state, state, generation, fence,
               lag(state) OVER life AS came_to, lead(state) OVER life IS NULL AS is_last
        FROM events WINDOW life AS (PARTITION BY job_id ORDER BY position)
    ) AS told JOIN {ALL_JOBS} AS jobs ON jobs.id = job_id
    WHERE told.left_state <> came_to
       OR is_last AND (told.state, told.generation, told.fence)
                      <> (jobs.state, jobs.generation, jobs.fence)
    ORDER BY job_id
""")  # noqa: S608 - built from a constant of this package

# Every way from one state to another that any job went.
_WAYS = text("""
    SELECT left_state, state, count(*) AS jobs FROM events
    WHERE left_state IS NOT NULL GROUP BY left_state, state ORDER BY left_state, state
""")

# Events of transactions that this server has not seen yet: they were restored from another one.
_FROM_ELSEWHERE = text("""
    SELECT job_id FROM events
    WHERE xid >= CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint)
    ORDER BY xid, position
""")


def allow_time(connection: Connection) -> None:
    """Let the statements of this transaction take as long as they need."""
    connection.execute(_UNBOUND)


def running_without_run(connection: Connection) -> Answer:
    """Running jobs whose run does not exist."""
    return _answer(connection, _WITHOUT_RUN)


def submissions_ended_too_soon(connection: Connection) -> Answer:
    """Submissions that have ended, with jobs that have not."""
    return _answer(connection, _ENDED_TOO_SOON)


def keys_of_nothing(connection: Connection) -> Answer:
    """Keys that are remembered, as `tenant/key`, whose jobs do not exist."""
    return _answer(connection, _KEYS_OF_NOTHING)


def broken_lives(connection: Connection) -> Answer:
    """Jobs whose events are no chain, or do not end in the state of the row."""
    return _answer(connection, _BROKEN_LIVES)


def forbidden_ways(connection: Connection) -> Answer:
    """Changes of state that `TRANSITIONS` does not allow, as `state -> state`."""
    found = [
        (f"{row.left_state} -> {row.state}", row.jobs)
        for row in connection.execute(_WAYS)
        if row.state not in TRANSITIONS[JobState(row.left_state)]
    ]
    return Answer(sum(jobs for _, jobs in found), [way for way, _ in found[:_EXAMPLES]])


def events_from_elsewhere(connection: Connection) -> Answer:
    """Events that hold the stream up, because they were restored from another server; as jobs."""
    return _answer(connection, _FROM_ELSEWHERE)


def _answer(connection: Connection, question: TextClause) -> Answer:
    counted = text(f"""
        WITH broken (name) AS MATERIALIZED ({question.text})
        SELECT count(*) AS found,
               ARRAY(SELECT CAST(name AS text) FROM broken LIMIT :examples) AS examples
        FROM broken
    """)  # noqa: S608 - built from the constants of this module only
    row = connection.execute(counted, {"examples": _EXAMPLES}).one()
    return Answer(row.found, row.examples)
