"""With a million jobs, what is done all the time reads the rows that it is about, and no others."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text
from tests.factories import AMPLE, begun, result_of
from tests.plans import FETCHED, settle

from twofold_schema import database
from twofold_schema.errors import UpscaleFailed
from twofold_schema.ids import new_id
from twofold_schema.job import Claim
from twofold_schema.ledger import (
    capacity,
    claims,
    generations,
    history,
    holds,
    matching,
    objects,
    outcomes,
    reads,
    requests,
    runs,
    sweeps,
    tallies,
)
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.settings import DatabaseSettings
from twofold_schema.states import JobState

#: Of a thousand tenants, three classes and two lanes; nineteen of twenty have ended just now, some
#: of a submission.
_MILLION = text("""
    INSERT INTO jobs (id, tenant, job_class, submission_id, state, max_attempts, source,
                      output_prefix, parameters, lane, pixels, lattice_pixels, est_gpu_seconds,
                      queued_at, finished_at, metadata)
    SELECT uuidv7(), 'tenant-' || n % 1000, n % 3,
           CASE WHEN n % 10 = 0 THEN CAST(:submission_id AS uuid) END,
           CASE WHEN n <= 950000 THEN 'failed' ELSE 'queued' END, 3, 's3://twofold/a',
           's3://twofold/b', '{}', 'lane-' || n % 2, 1, 1, 0.1, clock_timestamp(),
           CASE WHEN n <= 950000 THEN clock_timestamp() END,
           CASE WHEN n % 10 = 7 THEN '{"page": "1", "shop": "b"}' ELSE '{}' END::jsonb
    FROM generate_series(1, 1000000) AS n
""")
_SOME = text("SELECT id FROM jobs WHERE state = :state ORDER BY id LIMIT 400")

#: As often as it takes until plans are kept.
_OFTEN = 8
_BATCH = 8


def test_everything_reads_what_it_is_about(database_settings: DatabaseSettings) -> None:
    ledger = database_settings.model_copy(
        update={"database_pool_size": 1, "database_timeout_seconds": 600.0}
    )
    engine = database.connect(ledger)
    submission_id = new_id()
    with engine.begin() as connection:
        connection.execute(_MILLION, {"submission_id": submission_id})
        failed = list(connection.execute(_SOME, {"state": "failed"}).scalars())
        queued = list(connection.execute(_SOME, {"state": "queued"}).scalars())
    settle(engine)
    with engine.begin() as connection:
        while tallies.fold(connection):
            pass
    run_id, held = begun(engine), list[Claim]()
    of_tenant, cancel = JobFilter(tenant="tenant-7"), OperationKind.CANCEL

    def some(ids: list[UUID]) -> list[UUID]:
        return [ids.pop() for _ in range(_BATCH)]

    def claim(connection: Connection) -> None:
        taken = claims.claim(connection, run_id, limit=_BATCH, run_deadline=AMPLE)
        held.extend(job.claim for job in taken)
        assert len(taken) == _BATCH

    def start(connection: Connection) -> None:
        holds.start(connection, run_id, dict.fromkeys(held, "v1"))

    def complete(connection: Connection) -> None:
        done = [held.pop() for _ in range(_BATCH)]
        outcomes.complete(connection, run_id, {claim: result_of(claim) for claim in done})

    def retry_later(connection: Connection) -> None:
        done = [held.pop() for _ in range(_BATCH)]
        outcomes.retry_later(connection, run_id, dict.fromkeys(done, UpscaleFailed()))

    def look(connection: Connection) -> None:
        bounds = matching.bounds(connection, cancel, of_tenant)
        matching.look(connection, cancel, of_tenant, bounds, after=None, most=_BATCH)

    wait = timedelta(hours=1)
    # A claim reads what it takes twice, and what its run has already.
    does: list[tuple[str, Callable[[Connection], Any], int]] = [
        ("claim", claim, (3 + _OFTEN) * _BATCH),
        ("start", start, 3 * _OFTEN * _BATCH),
        ("renew", lambda c: runs.renew(c, run_id, holding=1), _OFTEN * _BATCH),
        ("rescue", lambda c: sweeps.rescue(c, every_seconds=1.0), 2 * _OFTEN * _BATCH),
        ("complete", complete, 3 * _OFTEN * _BATCH),
        ("claim again", claim, (3 + _OFTEN) * _BATCH),
        ("retry later", retry_later, 3 * _OFTEN * _BATCH),
        ("promote", sweeps.promote, 2 * _OFTEN * _BATCH),
        ("expire", sweeps.expire, 0),
        ("count unfit", lambda c: capacity.count_unfit(c, most=100), 100),
        ("ring", lambda c: reads.count_claimable(c, older_than=timedelta(0), most=8), 8),
        ("get", lambda c: reads.get(c, failed[0]), 1),
        ("get many", lambda c: reads.get_many(c, failed[:_BATCH]), _BATCH),
        ("unfinished", lambda c: reads.unfinished(c, queued[:_BATCH]), _BATCH),
        ("newest", lambda c: reads.find(c, limit=50), 50),
        ("newest of a tenant", lambda c: reads.find(c, tenant="tenant-7", limit=50), 50),
        (
            "newest by metadata",
            lambda c: reads.find(c, tenant="tenant-7", metadata={"page": "1"}, limit=50),
            50,
        ),
        ("next page", lambda c: reads.find(c, before=failed[-1], limit=50), 50),
        ("newest queued", lambda c: reads.find(c, states=[JobState.QUEUED], limit=50), 150),
        (
            "page of a submission",
            lambda c: reads.find(c, submission_id=submission_id, limit=50),
            50,
        ),
        (
            "look on",
            lambda c: generations.look_on(c, submission_id, after=None, limit=50),
            50,
        ),
        ("unpublished", lambda c: objects.unpublished(c, limit=50), 0),
        ("move", lambda c: history.move(c, age=wait), 0),
        ("overview", tallies.overview, 0),
        ("backlog", tallies.backlog, 20 * 3 * 1000),
        ("operation by tenant", look, 2 * 1000),
        ("cancel", lambda c: requests.cancel(c, some(queued)), 4 * _BATCH),
        ("retry", lambda c: requests.retry(c, some(failed)), 4 * _BATCH),
    ]
    read = {name: 0 for name, _, _ in does}
    for name, do, _ in does:
        for _ in range(_OFTEN):
            with engine.begin() as connection:
                before = connection.execute(FETCHED).scalar_one()
                do(connection)
                found: int = connection.execute(FETCHED).scalar_one() - before
                read[name] = max(read[name], found)
    engine.dispose()
    assert {name: read[name] for name, _, most in does if read[name] > most} == {}
