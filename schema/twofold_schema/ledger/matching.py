"""Which jobs a filter means: a page at a time, in the order of their ids, by an index.

A filter that names a submission goes through that submission's jobs, one that names a tenant
through that tenant's, and any other through all there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from twofold_schema.database import read_in_order
from twofold_schema.ledger.history import ALL_JOBS
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.states import FINAL_STATES, TRANSITIONS, JobState

#: How many jobs one look goes through, however few of them match.
LOOK_ROWS = 10_000

#: The states of jobs that an operation changes.
CHANGEABLE: Mapping[OperationKind, tuple[JobState, ...]] = MappingProxyType(
    {
        OperationKind.CANCEL: tuple(state for state in JobState if state not in FINAL_STATES),
        OperationKind.RETRY: tuple(
            state for state, ways in TRANSITIONS.items() if "retry" in ways.values()
        ),
    }
)

#: Where jobs in these states lie.
_SOURCES = {OperationKind.CANCEL: "jobs", OperationKind.RETRY: ALL_JOBS}

#: Lower than every id.
_BEFORE_ALL = UUID(int=0)

# What a filter states. Of jobs that have ended, those that had when the operation was asked for:
# one that failed since then is left to whoever saw it fail.
_MATCHES = """
    state = ANY(CAST(:states AS text[]))
    AND created_at <= :asked_at
    AND (finished_at IS NULL OR finished_at <= :asked_at)
    AND (CAST(:tenant AS text) IS NULL OR tenant = :tenant)
    AND (CAST(:submission_id AS uuid) IS NULL OR submission_id = :submission_id)
    AND (CAST(:job_class AS smallint) IS NULL OR job_class = :job_class)
    AND (CAST(:created_after AS timestamptz) IS NULL OR created_at >= :created_after)
    AND (CAST(:created_before AS timestamptz) IS NULL OR created_at < :created_before)
    AND (CAST(:error AS text) IS NULL
         OR errors -> -1 ->> 'code' = :error
            AND CAST(errors -> -1 ->> 'generation' AS integer) = generation)
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What ends the way through jobs: those that come later are not looked for.

    Attributes:
        asked_at: Nothing that was submitted later matches.
        last: The greatest id on the way then; None where there is no job on it.
    """

    asked_at: datetime
    last: UUID | None


@dataclass(frozen=True, slots=True)
class Page:
    """What one look found.

    Attributes:
        jobs: Those that match, and their states, in the order of their ids.
        last: How far it looked; None where it came to the end.
    """

    jobs: Mapping[UUID, JobState]
    last: UUID | None


def _bounds(source: str, named: str | None) -> TextClause:
    """The time, and the last job on the way."""
    scope, order = "", "id DESC"
    if named:
        scope, order = (
            f"WHERE {named} >= :{named} AND {named} <= :{named}",
            f"{named} DESC, {order}",
        )
    return text(f"""
        SELECT clock_timestamp() AS asked_at,
               (SELECT id FROM {source} AS jobs {scope} ORDER BY {order} LIMIT 1) AS last
    """)  # noqa: S608 - built from constants of this module


def _look(source: str, named: str | None) -> TextClause:
    """The jobs of a page that match, and how far it went.

    Written as a range and in the order of one index, which it alone can answer. The page is gone
    through no further than to its last match; its end is looked for only where matches are fewer
    than asked for. In one statement, so that both are about one moment.
    """
    columns, first, last, stated = "id", "CAST(:after AS uuid)", "CAST(:last AS uuid)", ""
    if named:
        # By this the planner knows that there is one: by a comparison of rows it does not.
        stated = f"AND {named} <= :{named}"
        columns, first, last = f"{named}, id", f":{named}, {first}", f":{named}, {last}"
    way = f"""
        FROM {source} AS jobs WHERE ({columns}) > ({first}) AND ({columns}) <= ({last}) {stated}
        ORDER BY {columns}
    """
    return text(f"""
        WITH found AS MATERIALIZED (
            SELECT id, state FROM (SELECT * {way} LIMIT :rows) AS page
            WHERE {_MATCHES} ORDER BY {columns} LIMIT :most
        )
        SELECT ARRAY(SELECT id FROM found ORDER BY id) AS ids,
               ARRAY(SELECT state FROM found ORDER BY id) AS states,
               CASE WHEN (SELECT count(*) FROM found) < :most
                    THEN (SELECT id {way} OFFSET :rows - 1 LIMIT 1)
                    ELSE (SELECT id FROM found ORDER BY id DESC LIMIT 1) END AS last
    """)  # noqa: S608 - built from constants of this module


_WAYS = ("submission_id", "tenant", None)
_BOUNDS = {(kind, way): _bounds(source, way) for kind, source in _SOURCES.items() for way in _WAYS}
_LOOK = {(kind, way): _look(source, way) for kind, source in _SOURCES.items() for way in _WAYS}

# Those of these jobs that still are in one of the states, until this transaction ends.
_LOCK = text("""
    SELECT id FROM jobs
    WHERE id = ANY(CAST(:ids AS uuid[])) AND state = ANY(CAST(:states AS text[]))
    ORDER BY id FOR UPDATE
""")


def states(kind: OperationKind, where: JobFilter) -> list[JobState]:
    """The states that are meant and that the operation can change."""
    return [state for state in CHANGEABLE[kind] if where.states is None or state in where.states]


def bounds(connection: Connection, kind: OperationKind, where: JobFilter) -> Bounds:
    """What an operation that is asked for now will not go beyond."""
    read_in_order(connection)
    statement = _BOUNDS[kind, _way(where)]
    row = connection.execute(statement, _stated(kind, where)).one()
    return Bounds(row.asked_at, row.last)


def look(
    connection: Connection,
    kind: OperationKind,
    where: JobFilter,
    within: Bounds,
    *,
    after: UUID | None,
    most: int,
) -> Page:
    """Look at the next page of jobs.

    Args:
        connection: Of the database.
        kind: What shall be done to them.
        where: Which of them are meant.
        within: How far to go.
        after: The last job of the page before; None for the first page.
        most: How many matches end a page.
    """
    read_in_order(connection)
    row = connection.execute(
        _LOOK[kind, _way(where)],
        _stated(kind, where)
        | {
            "asked_at": within.asked_at,
            "last": within.last or _BEFORE_ALL,
            "after": after or _BEFORE_ALL,
            "rows": LOOK_ROWS,
            "most": most,
        },
    ).one()
    return Page(dict(zip(row.ids, map(JobState, row.states), strict=True)), row.last)


def lock(connection: Connection, kind: OperationKind, where: JobFilter, page: Page) -> list[UUID]:
    """Lock the jobs of a page; returns those whose state still is one that is meant."""
    parameters = {"ids": list(page.jobs), "states": states(kind, where)}
    return list(connection.execute(_LOCK, parameters).scalars())


def _way(where: JobFilter) -> str | None:
    return next((way for way in _WAYS if way and getattr(where, way) is not None), None)


def _stated(kind: OperationKind, where: JobFilter) -> dict[str, Any]:
    return dict(where) | {
        "states": states(kind, where),
        "job_class": None if where.job_class is None else where.job_class.rank,
    }
