"""What a run says of jobs that it holds: what their sources are, and that it is at work on them."""

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import Connection, text

from twofold_schema.job import Claim
from twofold_schema.lanes import Measure

# Holds are compared so that no index but that of ids serves, as in `outcomes`.
#
# Writes what the sources of held jobs turned out to be, and of which content that was said.
_MEASURE = text("""
    WITH measured AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[]),
                             CAST(:lanes AS text[]), CAST(:pixels AS bigint[]),
                             CAST(:lattices AS bigint[]), CAST(:costs AS double precision[]),
                             CAST(:versions AS text[]))
               AS t (id, fence, lane, pixels, lattice_pixels, est_gpu_seconds, version)
    ), held AS (
        SELECT jobs.id FROM jobs JOIN measured USING (id)
        WHERE (jobs.state, jobs.fence, jobs.run_id)
              IS NOT DISTINCT FROM ('running', measured.fence, CAST(:run_id AS uuid))
        ORDER BY jobs.id FOR UPDATE OF jobs
    )
    UPDATE jobs
    SET lane = measured.lane, pixels = measured.pixels, lattice_pixels = measured.lattice_pixels,
        est_gpu_seconds = measured.est_gpu_seconds,
        source_version = coalesce(jobs.source_version, measured.version)
    FROM measured JOIN held USING (id)
    WHERE jobs.id = measured.id
    RETURNING jobs.id
""")

# Marks held jobs as touching the process from now on: should it die, they are the suspects.
# Jobs that were called off are left out; their holder releases them. Notes the content that their
# sources had, unless an earlier read of this generation noted it: the answer says which.
_START = text("""
    WITH held AS (
        SELECT jobs.id, t.version FROM jobs
        JOIN unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[]), CAST(:versions AS text[]))
             AS t (id, fence, version) USING (id)
        WHERE (jobs.state, jobs.fence, jobs.run_id)
              IS NOT DISTINCT FROM ('running', t.fence, CAST(:run_id AS uuid))
          AND jobs.cancel_requested_at IS NULL
        ORDER BY jobs.id FOR UPDATE OF jobs
    )
    UPDATE jobs SET started_at = coalesce(started_at, clock_timestamp()),
        source_version = coalesce(source_version, held.version)
    FROM held WHERE jobs.id = held.id
    RETURNING jobs.id, jobs.source_version
""")


def measure(
    connection: Connection,
    run_id: UUID,
    measures: Mapping[Claim, Measure],
    versions: Mapping[Claim, str] | None = None,
) -> set[UUID]:
    """Write lane, size and cost of held jobs.

    Args:
        connection: Whose transaction ends soon after.
        run_id: Of the run that holds them.
        measures: What the sources turned out to be.
        versions: Which content of each source said so; noted where none is yet.

    Returns:
        The ids of the jobs that this run still holds under these fences.
    """
    rows = connection.execute(
        _MEASURE,
        {
            "run_id": run_id,
            "ids": [held.job_id for held in measures],
            "fences": [held.fence for held in measures],
            "lanes": [found.lane for found in measures.values()],
            "pixels": [found.pixels for found in measures.values()],
            "lattices": [found.lattice_pixels for found in measures.values()],
            "costs": [found.est_gpu_seconds for found in measures.values()],
            "versions": [(versions or {}).get(held) for held in measures],
        },
    )
    return set(rows.scalars())


def start(connection: Connection, run_id: UUID, versions: Mapping[Claim, str]) -> dict[UUID, str]:
    """Mark held jobs as at work, before any byte of theirs is decoded. Safe to repeat.

    Args:
        connection: Whose transaction ends soon after.
        run_id: Of the run that holds them.
        versions: The claims, and which content of each source was fetched.

    Returns:
        The ids of the jobs to go on with, still held under these fences and not called off, and
        which content of their sources this generation first read: another one than was fetched
        means that the source was overwritten.
    """
    rows = connection.execute(
        _START,
        {
            "run_id": run_id,
            "ids": [held.job_id for held in versions],
            "fences": [held.fence for held in versions],
            "versions": list(versions.values()),
        },
    )
    return {row.id: row.source_version for row in rows}
