"""Jobs that are too large: for every pool that is declared, or for every run that is live."""

from sqlalchemy import Connection, text

from twofold_schema.errors import TooLargeForFleet
from twofold_schema.ledger.sweeps import SWEEP_ROWS

# Fails waiting jobs whose padded source is larger than any pool takes. No claim was made, so that
# no attempt is used. What others hold can wait for the next sweep.
_FAIL_OVERSIZED = text("""
    WITH oversized AS (
        SELECT id FROM jobs
        WHERE state IN ('scheduled', 'queued') AND lattice_pixels > :largest
        ORDER BY lattice_pixels LIMIT :rows FOR UPDATE SKIP LOCKED
    )
    UPDATE jobs
    SET state = 'failed', finished_at = clock_timestamp(),
        errors = errors || jsonb_build_array(jsonb_build_object(
            'code', CAST(:code AS text), 'message', CAST(:message AS text),
            'generation', generation, 'attempt', attempts, 'fence', fence, 'run_id', NULL,
            'at', clock_timestamp()))
    WHERE id = ANY(ARRAY(SELECT id FROM oversized))
""")

# Queued jobs that fit no live run. A run whose limit is unknown may fit them all, and where no run
# is live nobody can say: then the comparison is with NULL.
_COUNT_UNFIT = text("""
    SELECT count(*) FROM (
        SELECT FROM jobs
        WHERE state = 'queued' AND lattice_pixels > (
            SELECT CASE WHEN bool_and(max_lattice_pixels IS NOT NULL)
                        THEN max(max_lattice_pixels) END
            FROM runs WHERE state = 'live' AND lease_expires_at > clock_timestamp())
        LIMIT :most
    ) AS unfit
""")


def fail_oversized(connection: Connection, *, largest: int) -> int:
    """End waiting jobs that are larger than every declared pool; returns how many.

    Args:
        connection: In a transaction of its own.
        largest: The padded source that the largest pool takes, in pixels.
    """
    error = TooLargeForFleet(
        f"The padded picture has more pixels than the largest pool in TWOFOLD_POOLS takes "
        f"({largest}). Submit a smaller picture, or declare a pool that takes it and retry the job."
    )
    return connection.execute(
        _FAIL_OVERSIZED,
        {
            "largest": largest,
            "rows": SWEEP_ROWS,
            "code": error.code,
            "message": error.message,
        },
    ).rowcount


def count_unfit(connection: Connection, *, most: int) -> int:
    """How many queued jobs fit no live run, counted up to `most`."""
    return int(connection.execute(_COUNT_UNFIT, {"most": most}).scalar_one())
