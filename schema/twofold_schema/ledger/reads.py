"""Reading jobs. Pages are by keyset: the next page begins after the last id of this one."""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from twofold_schema.async_reader import AsyncReader
from twofold_schema.database import read_in_order
from twofold_schema.errors import InvalidParameter, JobNotFound, SubmissionNotFound
from twofold_schema.job import JOB_COLUMNS, Job
from twofold_schema.ledger.history import ALL_JOBS
from twofold_schema.states import FINAL_STATES, JobState

#: How many characters of a value are in the index over pairs.
PAIR_START: Final = 128

#: Whose a row has to be; None for whosoever.
OF_TENANT: Final = "(CAST(:tenant AS text) IS NULL OR tenant = :tenant)"

_GET = text(f"""
    SELECT {JOB_COLUMNS} FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND {OF_TENANT}
""")  # noqa: S608 - built from constants of this package

# Those that the statement above did not find: in both tables at one moment, because a job may just
# have been moved or brought back.
_GET_ANY = text(f"""
    SELECT {JOB_COLUMNS} FROM {ALL_JOBS} AS jobs
    WHERE id = ANY(CAST(:ids AS uuid[])) AND {OF_TENANT}
""")  # noqa: S608 - built from constants of this package

_CONDITIONS: Final = {
    "states": "state = ANY(CAST(:states AS text[]))",
    "submission_id": "submission_id = :submission_id",
    "tenant": "tenant = :tenant",
    "before": "id < :before",
}


@cache
def _page(source: str, *stated: str) -> TextClause:
    """The newest first; ids are in order of time.

    It says no more than is stated: of "not given, or equal to it" the server would keep one plan
    for all, which for some would go through every job.
    """
    conditions = " AND ".join(["true", *(_CONDITIONS[name] for name in stated)])
    return text(f"""
        SELECT {JOB_COLUMNS} FROM {source} AS jobs WHERE {conditions}
        ORDER BY id DESC LIMIT :limit
    """)  # noqa: S608 - built from constants of this package


@cache
def _page_by_pair(*stated: str) -> TextClause:
    """The newest first of jobs that have some pairs in their metadata.

    The first of the pairs says which jobs are looked at, one by one until the page is full, in the
    order of the index over pairs.
    """
    conditions = " AND ".join(["true", *(_CONDITIONS[name] for name in stated if name != "before")])
    return text(f"""
        SELECT {JOB_COLUMNS}
        FROM (
            SELECT job_id FROM pairs
            WHERE tenant = :tenant AND name = :name AND value_start = left(:value, {PAIR_START})
              {"AND job_id < :before" if "before" in stated else ""}
            ORDER BY job_id DESC
        ) AS paired CROSS JOIN LATERAL (
            SELECT {JOB_COLUMNS} FROM jobs WHERE id = paired.job_id
            UNION ALL
            SELECT {JOB_COLUMNS} FROM history WHERE id = paired.job_id
        ) AS jobs
        WHERE {conditions} AND metadata @> CAST(:pairs AS jsonb)
        ORDER BY paired.job_id DESC LIMIT :limit
    """)  # noqa: S608 - built from constants of this package


# Which of these jobs have not ended yet: none of the history.
_UNFINISHED = text("""
    SELECT id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND finished_at IS NULL
""")

_SUBMISSION_JOBS = text(f"""
    SELECT id FROM {ALL_JOBS} AS jobs WHERE submission_id = :id ORDER BY id
""")  # noqa: S608 - built from a constant of this package

_SUBMISSION = text("SELECT 1 FROM submissions WHERE id = :id")

# Whether a ticket would find anything to claim. Looks at no more rows than there are idle runs, if
# all waited so long. In the order of the index over queued jobs: without, the planner may look for
# so few rows in the table itself, and pass all that have ended.
_CLAIMABLE = text("""
    SELECT count(*) FROM (
        SELECT FROM jobs
        WHERE state = 'queued' AND queued_at <= clock_timestamp() - :older_than
        ORDER BY job_class, tenant, id LIMIT :most
    ) AS waiting
""")


def get(connection: Connection, job_id: UUID, *, tenant: str | None = None) -> Job:
    """One job.

    Args:
        connection: Of the database.
        job_id: Its id.
        tenant: Whose it has to be; None for whosoever.

    Raises:
        JobNotFound: No job of theirs has this id, or no more.
    """
    found = get_many(connection, [job_id], tenant=tenant)
    if not found:
        raise not_found(job_id)
    return found[0]


def not_found(job_id: UUID) -> JobNotFound:
    """What is said of an id that no job has."""
    return JobNotFound(
        f"No job has the id {job_id}. It was never submitted to this database, or it ended longer "
        "ago than jobs are kept (TWOFOLD_JOBS_DAYS, or the fewer days of its tenant)."
    )


def get_many(
    connection: Connection, job_ids: Sequence[UUID], *, tenant: str | None = None
) -> list[Job]:
    """Jobs in the order of their ids given; unknown ids, and other tenants', are left out."""
    found: dict[UUID, Job] = {}
    for statement in (_GET, _GET_ANY):
        if missing := [job_id for job_id in job_ids if job_id not in found]:
            asked = {"ids": missing, "tenant": tenant}
            rows = connection.execute(statement, asked).mappings()
            found |= {row["id"]: Job.from_row(row) for row in rows}
    return [found[job_id] for job_id in job_ids if job_id in found]


async def look_up(
    reader: AsyncReader, job_ids: Collection[UUID], *, tenant: str | None = None
) -> Mapping[UUID, Job]:
    """Jobs by their ids, for a coroutine; unknown ids, and other tenants', are left out.

    Args:
        reader: Of the database.
        job_ids: Of the jobs.
        tenant: Whose they have to be; None for whosoever.

    Raises:
        DBAPIError: The database is away.
    """
    found: dict[UUID, Job] = {}
    for statement in (_GET, _GET_ANY):
        if missing := [job_id for job_id in job_ids if job_id not in found]:
            rows = await reader.rows(statement, {"ids": missing, "tenant": tenant})
            found |= {row["id"]: Job.from_row(row) for row in rows}
    return found


def find(
    connection: Connection,
    *,
    tenant: str | None = None,
    states: Collection[JobState] | None = None,
    submission_id: UUID | None = None,
    metadata: Mapping[str, str] | None = None,
    before: UUID | None = None,
    limit: int = 50,
) -> list[Job]:
    """A page of jobs, newest first.

    Args:
        connection: Of the database.
        tenant: Only of this one; None for all.
        states: Only these; None for all.
        submission_id: Only of this submission.
        metadata: Only those that have these pairs, of one tenant. Jobs that have the first of them
            are looked at until the page is full.
        before: The last id of the page before.
        limit: 1 or more.

    Raises:
        InvalidParameter: Pairs are asked for without a tenant.
    """
    chosen = {
        "tenant": tenant,
        "states": None if states is None else list(states),
        "submission_id": submission_id,
        "before": before,
    }
    stated = {name: value for name, value in chosen.items() if value is not None}
    parameters = stated | {"limit": limit}
    if metadata:
        if tenant is None:
            raise InvalidParameter("Jobs are found by metadata within one tenant; name it.")
        name, value = next(iter(metadata.items()))
        parameters |= {"name": name, "value": value, "pairs": json.dumps(dict(metadata))}
        read_in_order(connection)
        page = _page_by_pair(*stated)
    else:
        over = states is None or not FINAL_STATES.isdisjoint(states)
        page = _page(ALL_JOBS if over else "jobs", *stated)
    return [Job.from_row(row) for row in connection.execute(page, parameters).mappings()]


def unfinished(connection: Connection, job_ids: Collection[UUID]) -> set[UUID]:
    """The ids among these whose jobs have not ended."""
    return set(connection.execute(_UNFINISHED, {"ids": list(job_ids)}).scalars())


def submission_jobs(connection: Connection, submission_id: UUID) -> list[UUID]:
    """The ids of a submission's jobs, oldest first.

    Raises:
        SubmissionNotFound: No submission has this id.
    """
    if connection.execute(_SUBMISSION, {"id": submission_id}).one_or_none() is None:
        raise SubmissionNotFound(f"No submission has the id {submission_id}.")
    return list(connection.execute(_SUBMISSION_JOBS, {"id": submission_id}).scalars())


def count_claimable(connection: Connection, *, older_than: timedelta, most: int) -> int:
    """How many queued jobs have waited so long, counted up to `most`."""
    parameters = {"older_than": older_than, "most": most}
    return int(connection.execute(_CLAIMABLE, parameters).scalar_one())
