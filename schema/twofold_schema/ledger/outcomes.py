"""A run ends a claim: complete, fail, retry later, release.

Each outcome is written only if the job is still `running` under the claim's fence and run. When it
is not, the row is read again: if it shows that this same outcome was written before and only the
reply was lost, the outcome stands; otherwise the claim was lost and the worker drops the job.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, RowMapping, TextClause, text

from twofold_schema.errors import JobError
from twofold_schema.job import Claim, Result
from twofold_schema.ledger.history import ALL_JOBS
from twofold_schema.states import JobState

RETRY_BASE = timedelta(seconds=5)
RETRY_CAP_SECONDS = 300
_MAX_MESSAGE = 2000


class Settled(NamedTuple):
    """What became of an outcome.

    Attributes:
        job_id: Of the job.
        stands: Whether the outcome was written, now or by an earlier call whose reply was lost.
        state: The job's state afterwards; None if the job is gone.
    """

    job_id: UUID
    stands: bool
    state: JobState | None


def _ending(columns: str, *, fate: str, writes: str) -> TextClause:
    """The statement of one outcome.

    `held` locks the jobs that are still held under their fences, in the order of their ids, and
    decides each one's fate from the row as it is once locked: a cancel that was committed a moment
    before is seen. Each is looked for by its id, and the rest compared so that no other index
    serves: the planner would rather read all that the run holds, few rows as it thinks, and with
    them what the run has held since vacuum could remove any. Every array of `columns` is bound by
    its name.
    """
    names, types = zip(*(column.split() for column in columns.split(", ")), strict=True)
    arrays = ", ".join(map(_rows, names, types))
    return text(f"""
        WITH ended AS (
            SELECT * FROM ROWS FROM ({arrays}) AS t ({", ".join(names)})
        ), held AS (
            SELECT found.*
            FROM (SELECT id, fence FROM ended ORDER BY id) AS asked CROSS JOIN LATERAL (
                SELECT jobs.id, {fate} AS fate FROM jobs
                WHERE jobs.id = asked.id AND (jobs.state, jobs.fence, jobs.run_id)
                      IS NOT DISTINCT FROM ('running', asked.fence, CAST(:run_id AS uuid))
                LIMIT 1 FOR UPDATE
            ) AS found
        )
        UPDATE jobs
        SET state = held.fate,
            run_deadline = NULL,
            run_id = CASE WHEN {_ENDS} THEN jobs.run_id END,
            finished_at = CASE WHEN {_ENDS} THEN clock_timestamp() END,
            {writes}
        FROM ended JOIN held USING (id)
        WHERE jobs.id = ended.id
        RETURNING jobs.id, jobs.state
    """)  # noqa: S608 - built from the constants of this module only


def _rows(name: str, type_: str) -> str:
    # An array of JSON texts takes a driver ten times as long to write as one text of a JSON array.
    if type_ == "jsonb":
        return f"jsonb_array_elements(CAST(:{name} AS jsonb))"
    return f"unnest(CAST(:{name} AS {type_}[]))"


_ENDS = "held.fate NOT IN ('queued', 'scheduled')"

# One more entry in the error history, by the database's clock.
_NOTE_ERROR = """
    errors = jobs.errors || jsonb_build_array(jsonb_build_object(
        'code', ended.code, 'message', ended.message, 'generation', jobs.generation,
        'attempt', jobs.attempts + 1, 'fence', jobs.fence, 'run_id', jobs.run_id,
        'at', clock_timestamp()))"""

# Ends claims with their results; after `finish_by` a result is too late, and a cancel has its way.
_COMPLETE = _ending(
    "id uuid, fence bigint, result jsonb",
    fate="""CASE
        WHEN jobs.finish_by IS NULL OR jobs.finish_by > clock_timestamp() THEN 'succeeded'
        WHEN jobs.cancel_requested_at IS NULL THEN 'expired'
        ELSE 'cancelled' END""",
    writes="""
        attempts = jobs.attempts + 1,
        result = CASE WHEN held.fate = 'succeeded' THEN ended.result END""",
)

# Ends claims with errors that no other attempt can mend.
_FAIL = _ending(
    "id uuid, fence bigint, code text, message text",
    fate="CASE WHEN jobs.cancel_requested_at IS NULL THEN 'failed' ELSE 'cancelled' END",
    writes=f"attempts = jobs.attempts + 1, {_NOTE_ERROR}",
)

# Ends claims with errors that another attempt may mend, after a pause that doubles with every
# attempt and is spread by half, so that a fleet does not come back all at once.
_RETRY_LATER = _ending(
    "id uuid, fence bigint, code text, message text",
    fate="""CASE
        WHEN jobs.cancel_requested_at IS NOT NULL THEN 'cancelled'
        WHEN jobs.attempts + 1 >= jobs.max_attempts THEN 'failed'
        WHEN jobs.finish_by <= clock_timestamp() THEN 'expired'
        ELSE 'scheduled' END""",
    writes=f"""
        attempts = jobs.attempts + 1, {_NOTE_ERROR},
        scheduled_at = CASE WHEN {_ENDS} THEN jobs.scheduled_at ELSE
            clock_timestamp() + least(:base * power(2, jobs.attempts), :cap)
                              * (0.5 + random() / 2) * interval '1 second' END""",
)

# Ends claims without an answer: the jobs go back as if never taken, but for the fence.
_RELEASE = _ending(
    "id uuid, fence bigint",
    fate="CASE WHEN jobs.cancel_requested_at IS NULL THEN 'queued' ELSE 'cancelled' END",
    writes="""
        queued_at = CASE held.fate WHEN 'queued' THEN clock_timestamp() ELSE jobs.queued_at END""",
)

# What the rows of claims say that could not be ended.
_REREAD = text(f"""
    SELECT id, state, fence, result, errors FROM {ALL_JOBS} AS jobs
    WHERE id = ANY(CAST(:ids AS uuid[]))
""")  # noqa: S608 - built from a constant of this package


def complete(
    connection: Connection, run_id: UUID, results: Mapping[Claim, Result]
) -> list[Settled]:
    """End claims with results that are stored. Safe to repeat.

    A result counts until a cancel is confirmed. After `finish_by` the job is `expired` instead, or
    `cancelled` if it was flagged.
    """
    written = connection.execute(
        _COMPLETE,
        _claims(run_id, results)
        | {"result": f"[{','.join(result.model_dump_json() for result in results.values())}]"},
    )

    def already(claim: Claim, row: RowMapping) -> bool:
        return row["result"] is not None and row["result"]["uri"] == results[claim].uri

    return _settle(connection, list(results), written, already)


def fail(connection: Connection, run_id: UUID, errors: Mapping[Claim, JobError]) -> list[Settled]:
    """End claims with errors for good. A flagged job ends `cancelled`. Safe to repeat."""
    written = connection.execute(_FAIL, _claims(run_id, errors) | _texts(errors))
    return _settle(connection, list(errors), written, _error_noted(errors))


def retry_later(
    connection: Connection,
    run_id: UUID,
    errors: Mapping[Claim, JobError],
    *,
    base: timedelta = RETRY_BASE,
) -> list[Settled]:
    """End claims with errors that another attempt may mend. Safe to repeat.

    A flagged job ends `cancelled`, one whose attempts are spent `failed`, one past `finish_by`
    `expired`; the others are `scheduled` after `base` times two to the power of earlier attempts.
    """
    delays = {"base": base.total_seconds(), "cap": RETRY_CAP_SECONDS}
    written = connection.execute(_RETRY_LATER, _claims(run_id, errors) | _texts(errors) | delays)
    return _settle(connection, list(errors), written, _error_noted(errors))


def release(connection: Connection, run_id: UUID, claims: Sequence[Claim]) -> list[Settled]:
    """End claims without an answer; no attempt is used. Safe to repeat.

    This is also how a run confirms a cancel: a flagged job ends `cancelled`.
    """
    written = connection.execute(_RELEASE, _claims(run_id, claims))

    def already(claim: Claim, row: RowMapping) -> bool:
        return row["fence"] == claim.fence and row["state"] in {"queued", "cancelled"}

    return _settle(connection, claims, written, already)


def _claims(run_id: UUID, claims: Mapping[Claim, Any] | Sequence[Claim]) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "id": [claim.job_id for claim in claims],
        "fence": [claim.fence for claim in claims],
    }


def _texts(errors: Mapping[Claim, JobError]) -> dict[str, Any]:
    return {
        "code": [error.code for error in errors.values()],
        "message": [_storable(error.message) for error in errors.values()],
    }


def _storable(message: str) -> str:
    # A message may quote what a stranger sent; Postgres takes neither NUL nor lone surrogates.
    readable = message.encode("utf-8", "replace").decode().replace("\x00", "�")
    return readable[:_MAX_MESSAGE]


def _error_noted(errors: Mapping[Claim, JobError]) -> Callable[[Claim, RowMapping], bool]:
    def noted(claim: Claim, row: RowMapping) -> bool:
        return any(
            entry["fence"] == claim.fence and entry["code"] == errors[claim].code
            for entry in row["errors"]
        )

    return noted


def _settle(
    connection: Connection,
    claims: Sequence[Claim],
    written: Any,  # noqa: ANN401 - a CursorResult of two columns, which SQLAlchemy cannot type
    already: Callable[[Claim, RowMapping], bool],
) -> list[Settled]:
    states = {job_id: JobState(state) for job_id, state in written}
    missing = [claim.job_id for claim in claims if claim.job_id not in states]
    rows = connection.execute(_REREAD, {"ids": missing}).mappings() if missing else ()
    found = {row["id"]: row for row in rows}
    settled = []
    for claim in claims:
        job_id = claim.job_id
        if job_id in states:
            settled.append(Settled(job_id, stands=True, state=states[job_id]))
        elif (row := found.get(job_id)) is not None:
            settled.append(Settled(job_id, already(claim, row), JobState(row["state"])))
        else:
            settled.append(Settled(job_id, stands=False, state=None))
    return settled
