"""A run takes work."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, text

from twofold_schema.database import read_in_order
from twofold_schema.job import ClaimedJob, Output, Parameters
from twofold_schema.ledger.low_water import LowWater, Range
from twofold_schema.ledger.shares import FIRST_GUESS, STANDINGS
from twofold_schema.ledger.tallies import WAITING
from twofold_schema.states import JobClass
from twofold_schema.tenant_places import TenantPlaces

# What both the head and its mates must be.
_CLAIMABLE = """
    jobs.state = 'queued'
    AND jobs.job_class < :classes
    AND (jobs.start_by IS NULL OR jobs.first_claimed_at IS NOT NULL
         OR jobs.start_by > clock_timestamp())
    AND (jobs.finish_by IS NULL OR jobs.finish_by > clock_timestamp())
    AND (jobs.model_revision IS NULL
         OR jobs.model_revision = (SELECT model_revision FROM me))
"""

# Of a job whose size is unknown nobody can say that it does not fit. It is written as in the index
# over queued jobs, which then answers without the row.
_FITS = "coalesce(jobs.lattice_pixels, 0) <= (SELECT room FROM me)"

_ANY_PIXELS: Final = 2**62
#: Of many jobs most want what others want of their results.
_OUTPUTS: Final = 256
_FIRST_ID: Final = UUID(int=0)
_CLASSES: Final = tuple(JobClass)

# Takes the best claimable job and others of its lane.
#
# `me` shares the run's row, so that rescue cannot declare the run lost while it claims, and a lost
# run claims nothing. `turns` are those whose turn it may be, a tenant's jobs of a class each, best
# first: by what the tallies say of who has jobs that wait, so that no queued row is read to find
# that out. What is paused or has enough that runs is left out.
#
# `best` looks for a job of the first turn that has one: what the run has no room for is left, as if
# it were not there, to a run that has it. `mates` are of the same lane: first of the same turn,
# then of the next ones, of so many that one of each would do, and some more. Both skip rows that
# others hold, so no claim waits for another; the head is locked by the same statement that chooses
# it, so an empty answer means that no claimable unlocked row was visible.
#
# Jobs are asked for as a range of an index's columns and in that index's order, which it alone can
# answer: asked for equal values in the order of ids, the planner may go through all jobs by id
# instead, finished ones included, where its statistics are of a time when all were queued.
#
# Both begin where the caller's marks say, and else at a range's start. Isolated mates may lie
# before the mark of their lane, which was raised by claims that stepped over them.
#
# What a tenant's jobs may name comes along with them, as it is now, so that whoever fetches and
# stores need not ask.
#
# Isolated jobs share a process only with jobs of their own mark. A run that holds one takes nothing
# more. A run that holds other work does not step over an isolated head either, but takes nothing
# until it is done: if every busy run stepped over it, it would wait for as long as there is work.
# The CASE is for the planner: it takes any comparison with a column that is nearly always NULL to
# leave next to no rows, and one with what `me` says to leave few, and would then rather sort the
# whole lane than read its first rows.
_CLAIM = text(f"""
    WITH me AS (
        SELECT id, model_revision, coalesce(max_lattice_pixels, 9223372036854775807) AS room
        FROM runs
        WHERE id = :run_id AND state = 'live' AND lease_expires_at > clock_timestamp()
        FOR SHARE
    ), marks AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:mark_lanes AS text[]), CAST(:mark_classes AS smallint[]),
                             CAST(:mark_tenants AS text[]), CAST(:mark_ids AS uuid[]))
               AS t (lane, job_class, tenant, id)
    ), standings AS MATERIALIZED ({STANDINGS}), clocks AS MATERIALIZED (
        SELECT job_class, max(start) AS now, sum(gpu_seconds) / nullif(sum(jobs), 0) AS usual
        FROM standings GROUP BY job_class
    ), turns AS MATERIALIZED (
        SELECT row_number() OVER (
                   ORDER BY job_class, greatest(standings.vtime, clocks.now), tenant) AS place,
               job_class, tenant, coalesce(greatest(standings.vtime, clocks.now), 0) AS start,
               coalesce(tenants.weight, 1) AS weight, tenants.may_read, tenants.may_write,
               coalesce(clocks.usual, :first_guess) AS usual,
               coalesce(marks.id, :first_id) AS mark
        FROM ({WAITING}) AS waiting
        LEFT JOIN tenants USING (tenant)
        LEFT JOIN standings USING (job_class, tenant)
        LEFT JOIN clocks USING (job_class)
        LEFT JOIN (SELECT * FROM marks WHERE lane IS NULL) AS marks USING (job_class, tenant)
        WHERE job_class < :classes AND EXISTS (SELECT FROM me)
          AND running < coalesce(max_running, running + 1)
          AND NOT EXISTS (
              SELECT FROM pauses
              WHERE resumed_at IS NULL
                AND coalesce(pauses.tenant, waiting.tenant) = waiting.tenant
                AND coalesce(pauses.job_class, waiting.job_class) = waiting.job_class)
    ), best AS (
        SELECT found.*
        FROM (SELECT * FROM turns ORDER BY place) AS turn CROSS JOIN LATERAL (
            SELECT id, lane, lattice_pixels, isolation, place FROM jobs
            WHERE {_CLAIMABLE} AND {_FITS}
              AND (jobs.job_class, jobs.tenant, jobs.id)
                  >= (turn.job_class, turn.tenant, turn.mark)
              AND (jobs.job_class, jobs.tenant) <= (turn.job_class, turn.tenant)
              AND NOT EXISTS (SELECT FROM jobs AS held WHERE held.state = 'running'
                              AND held.run_id = :run_id AND held.isolation IS NOT NULL)
            ORDER BY jobs.job_class, jobs.tenant, jobs.id
            LIMIT 1
            FOR UPDATE SKIP LOCKED
        ) AS found
        LIMIT 1
    ), head AS (
        SELECT * FROM best
        WHERE isolation IS NULL
           OR NOT EXISTS (SELECT FROM jobs AS held WHERE held.state = 'running'
                          AND held.run_id = :run_id)
    ), company AS (
        SELECT least(:mates, greatest(0, :pixels / coalesce(lattice_pixels, 1) - 1)) AS size
        FROM head
    ), mates AS (
        SELECT found.id
        FROM (
            SELECT job_class, tenant,
                   coalesce(CASE WHEN (SELECT isolation FROM head) IS NULL THEN marks.id END,
                            :first_id) AS mark
            FROM turns
            LEFT JOIN (SELECT * FROM marks WHERE lane = (SELECT coalesce(lane, '') FROM head))
                      AS marks USING (job_class, tenant)
            WHERE place >= (SELECT place FROM head)
            ORDER BY place LIMIT (SELECT size + 16 FROM company)
        ) AS turn CROSS JOIN LATERAL (
            SELECT id FROM jobs
            WHERE {_CLAIMABLE}
              AND (coalesce(jobs.lane, ''), jobs.job_class, jobs.tenant, jobs.id)
                  >= ((SELECT coalesce(lane, '') FROM head), turn.job_class, turn.tenant,
                      turn.mark)
              AND (coalesce(jobs.lane, ''), jobs.job_class, jobs.tenant)
                  <= ((SELECT coalesce(lane, '') FROM head), turn.job_class, turn.tenant)
              AND id <> (SELECT id FROM head)
              AND CASE WHEN NOT {_FITS} THEN false
                       WHEN (SELECT isolation FROM head) IS NULL THEN isolation IS NULL
                       ELSE isolation = (SELECT isolation FROM head) END
            ORDER BY coalesce(jobs.lane, ''), jobs.job_class, jobs.tenant, jobs.id
            LIMIT (SELECT size FROM company)
            FOR UPDATE SKIP LOCKED
        ) AS found
        LIMIT (SELECT size FROM company)
    ), taken AS (
        UPDATE jobs
        SET state = 'running', fence = fence + 1, run_id = :run_id,
            claimed_at = clock_timestamp(),
            first_claimed_at = coalesce(first_claimed_at, clock_timestamp()),
            started_at = NULL,
            run_deadline = clock_timestamp() + :run_deadline,
            charged = coalesce(
                est_gpu_seconds,
                (SELECT usual FROM turns
                 WHERE turns.job_class = jobs.job_class AND turns.tenant = jobs.tenant))
        WHERE id IN (SELECT id FROM head UNION ALL SELECT id FROM mates)
        RETURNING *
    ), charged AS (
        INSERT INTO charges (tenant, job_class, start, advance)
        SELECT tenant, job_class, start, sum(taken.charged) / weight
        FROM taken JOIN turns USING (tenant, job_class)
        GROUP BY tenant, job_class, start, weight
    )
    SELECT id, fence, job_class, source, output_prefix, CAST(output AS text) AS output,
           CAST(parameters AS text) AS parameters, width, height, lane, tenant, isolation,
           may_read, may_write
    FROM taken JOIN turns USING (tenant, job_class)
    ORDER BY place, id
""")  # noqa: S608 - built from constants of this package


def claim(
    connection: Connection,
    run_id: UUID,
    *,
    limit: int,
    run_deadline: timedelta,
    pixels: int | None = None,
    above: JobClass | None = None,
    low_water: LowWater | None = None,
) -> list[ClaimedJob]:
    """Take up to `limit` queued jobs of one lane; raises each one's fence.

    Unmeasured jobs come together, without regard to what their lanes will be.

    Args:
        connection: Whose transaction ends soon after: the claimed rows stay locked until then. One
            of an engine that reads in order, and commits each statement, takes one trip for all.
        run_id: Of the claiming run.
        limit: 1 or more.
        run_deadline: From now on, how long the claim may last whatever the lease says.
        pixels: What the padded sources may have together, where their size is known; the best job
            is taken in any case. None for any number.
        above: Only jobs of a better class than this, for a run that has enough other work; None
            for all.
        low_water: Where this process's claims go on; None to look at everything. Whether there is
            nothing to claim is said of everything in any case, unless only better classes are
            wanted: a run that has other work does not begin anew for each that none came of.

    Returns:
        The jobs, best first. None when nothing claimable and unlocked was visible, when the run is
        no longer live, or when isolated work would share it with other work.
    """
    if above is not None and not above.rank:
        return []
    read_in_order(connection)
    low_water = LowWater() if low_water is None else low_water
    parameters = {
        "run_id": run_id,
        "mates": limit - 1,
        "pixels": _ANY_PIXELS if pixels is None else pixels,
        "run_deadline": run_deadline,
        "classes": len(JobClass) if above is None else above.rank,
        "first_guess": FIRST_GUESS,
        "first_id": _FIRST_ID,
    }
    marks = low_water.marks()
    rows = connection.execute(_CLAIM, parameters | _as_arrays(marks)).all()
    if marks and not rows and above is None:
        low_water.forget()
        rows = connection.execute(_CLAIM, parameters | _as_arrays(low_water.marks())).all()
    _raise(low_water, rows)
    places: dict[str, TenantPlaces] = {}
    jobs = []
    for (
        job_id, fence, rank, source, prefix, output, wanted, width, height, lane, tenant, _,
        may_read, may_write,
    ) in rows:  # fmt: skip
        if tenant not in places:
            places[tenant] = TenantPlaces(
                tenant=tenant,
                may_read=None if may_read is None else tuple(may_read),
                may_write=None if may_write is None else tuple(may_write),
            )
        jobs.append(
            ClaimedJob(
                id=job_id,
                fence=fence,
                run_id=run_id,
                job_class=_CLASSES[rank],
                source=source,
                output_prefix=prefix,
                output=_output(output),
                parameters=Parameters.model_validate_json(wanted, extra="ignore"),
                width=width,
                height=height,
                lane=lane,
                places=places[tenant],
            )
        )
    return jobs


@lru_cache(_OUTPUTS)
def _output(stored: str) -> Output:
    return Output.model_validate_json(stored, extra="ignore")


def _as_arrays(marks: Mapping[Range, UUID]) -> dict[str, list[Any]]:
    return {
        "mark_lanes": [part.lane for part in marks],
        "mark_classes": [part.job_class for part in marks],
        "mark_tenants": [part.tenant for part in marks],
        "mark_ids": list(marks.values()),
    }


def _raise(low_water: LowWater, rows: Sequence[Row[Any]]) -> None:
    """Note what is not left: before the head, and of its lane before the last of each tenant."""
    if rows:
        head = rows[0]
        low_water.raise_to(Range(None, head.job_class, head.tenant), head.id)
        if head.isolation is None:
            last = {(row.job_class, row.tenant): row.id for row in rows}
            for (job_class, tenant), job_id in last.items():
                low_water.raise_to(Range(head.lane or "", job_class, tenant), job_id)
