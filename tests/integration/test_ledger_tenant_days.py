"""Tenants whose jobs are kept for fewer days than everybody's."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs
from tests.factories import begun, claimed, job_of, new_job, result_of, submitted

from twofold_producer.keeper.duties import count_duties
from twofold_producer.keeper.loop import Keeper
from twofold_schema.errors import InvalidOperation, JobNotFound
from twofold_schema.ledger import audit, outcomes, reads, rights, submit, tallies, tenant_days
from twofold_schema.ledger.new_jobs import Accepted, NewJob
from twofold_schema.ledger.retention import first_id
from twofold_schema.settings import KeeperSettings

_EVERYBODYS = 90
_DATED = f"""
    CAST(left(CAST({first_id("clock_timestamp() - :age")} AS text), 13)
         || substr(CAST(id AS text), 14) AS uuid)
"""
_DATE_BACK = text(f"""
    WITH dated AS (
        SELECT id AS was, {_DATED} AS id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))
    ), of_keys AS (
        UPDATE job_keys SET job_id = dated.id FROM dated WHERE job_id = was
    ), of_pairs AS (
        UPDATE pairs SET job_id = dated.id FROM dated WHERE job_id = was
    )
    UPDATE jobs SET id = dated.id, finished_at = finished_at - :age FROM dated WHERE jobs.id = was
    RETURNING jobs.id
""")
_PAIRS = text("SELECT count(*) FROM pairs")


def _ended(engine: Engine, age: timedelta, *new_jobs: NewJob) -> list[UUID]:
    """Jobs that were submitted, and succeeded, so long ago."""
    ids = submitted(engine, *new_jobs)
    run_id = begun(engine)
    while taken := claimed(engine, run_id, started=True):
        with engine.begin() as connection:
            outcomes.complete(connection, run_id, {one: result_of(one) for one in taken})
    with engine.begin() as connection:
        dated = connection.execute(_DATE_BACK, {"ids": ids, "age": age}).scalars()
        return sorted(dated)


def _keep(engine: Engine, *, rounds: int = 1) -> None:
    """A keeper whose fleet keeps jobs for 90 days."""
    settings = KeeperSettings(history_after_hours=0, jobs_days=_EVERYBODYS)
    keeper = Keeper(count_duties(engine, settings), every_seconds=3600.0)
    with capture_logs():
        for _ in range(rounds):
            keeper.once()


def _set_days(engine: Engine, tenant: str, days: int) -> None:
    with engine.begin() as connection:
        rights.set_rights(
            connection,
            tenant,
            jobs_days=days,
            everybodys_days=_EVERYBODYS,
            reason="a contract",
            who="a test",
        )


def _left(engine: Engine, ids: Sequence[UUID]) -> list[UUID]:
    """Those that are there, while counts and rows agree."""
    with engine.connect() as connection:
        assert tallies.differences(connection) == []
        assert audit.broken_lives(connection).count == 0
        return [job.id for job in reads.get_many(connection, ids)]


def test_a_tenants_jobs_go_after_its_days_and_nobody_elses(engine: Engine) -> None:
    days = {"brief": 7, "long": _EVERYBODYS}
    for tenant, number in days.items():
        _set_days(engine, tenant, number)
    old = timedelta(days=8)
    (gone,) = _ended(engine, old, new_job(tenant="brief", metadata={"order": "42"}))
    kept = [
        *_ended(engine, timedelta(days=6), new_job(tenant="brief", metadata={"order": "43"})),
        *_ended(engine, old, new_job(tenant="long"), new_job(tenant="other")),
    ]
    (waiting,) = submitted(engine, new_job(tenant="brief"))

    _keep(engine)

    assert _left(engine, [gone, *kept, waiting]) == [*kept, waiting]
    with engine.connect() as connection:
        assert connection.execute(_PAIRS).scalar_one() == 1
        with pytest.raises(JobNotFound, match="its tenant"):
            reads.get(connection, gone)


def test_a_job_that_was_submitted_long_ago_is_kept_from_its_end_on(engine: Engine) -> None:
    _set_days(engine, "brief", 7)
    (late,) = _ended(engine, timedelta(days=8), new_job(tenant="brief"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET finished_at = clock_timestamp()"))
    _keep(engine)
    assert _left(engine, [late]) == [late]


def test_many_go_in_bounded_batches(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenant_days, "FORGET_ROWS", 3)
    for tenant in ("a", "b"):
        _set_days(engine, tenant, 1)
    ids = _ended(engine, timedelta(days=2), *[new_job(tenant="a")] * 4, *[new_job(tenant="b")] * 4)
    _keep(engine)
    assert len(_left(engine, ids)) == 5
    _keep(engine, rounds=2)
    assert _left(engine, ids) == []


def test_a_key_outlives_its_job(engine: Engine) -> None:
    _set_days(engine, "brief", 7)
    asked = new_job(tenant="brief", key="cat")
    (job_id,) = _ended(engine, timedelta(days=8), asked)
    _keep(engine)
    with engine.begin() as connection:
        assert submit.insert_jobs(connection, [asked]) == [Accepted(job_id, created=False)]
    assert _left(engine, [job_id]) == []


def test_more_than_everybodys_days_are_refused_and_nothing_is_changed(engine: Engine) -> None:
    with pytest.raises(InvalidOperation, match=r"TWOFOLD_JOBS_DAYS \(90\)"):
        _set_days(engine, "acme", _EVERYBODYS + 1)
    with engine.connect() as connection:
        assert rights.get(connection, "acme").jobs_days is None


def test_days_that_are_not_fewer_any_more_change_nothing(engine: Engine) -> None:
    """The setting for everybody was lowered since."""
    _set_days(engine, "acme", 80)
    (job_id,) = _ended(engine, timedelta(days=85), new_job(tenant="acme"))
    with engine.begin() as connection:
        assert tenant_days.forget(connection, everybodys=30) == 0
    assert job_of(engine, job_id).tenant == "acme"
