"""Keys of jobs and submissions are deleted once they are forgotten, and no other ever is."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeAlias

import pytest
from sqlalchemy import Connection, Engine, TextClause, text
from tests.factories import new_job, submitted
from tests.plans import rows_read
from tests.rivals import rivals

from twofold_producer.keeper.duties import count_duties
from twofold_producer.keeper.loop import Keeper
from twofold_schema.ids import new_id
from twofold_schema.ledger import keys, submissions, submit
from twofold_schema.settings import KeeperSettings

_END = text("""
    WITH of_submissions AS (
        UPDATE submission_keys SET expires_at = clock_timestamp() WHERE key = ANY(:keys)
    )
    UPDATE job_keys SET expires_at = clock_timestamp() WHERE key = ANY(:keys)
""")
_HELD = text("SELECT key FROM job_keys UNION ALL SELECT key FROM submission_keys ORDER BY key")
#: Of 20,000 keys of each kind 100 are forgotten.
_CROWD = text("""
    WITH crowd AS (
        SELECT CAST(n AS text) AS key, gen_random_uuid() AS id,
               clock_timestamp() + make_interval(hours => n - 100) AS expires_at
        FROM generate_series(1, 20000) AS n
    ), of_submissions AS (
        INSERT INTO submission_keys (tenant, key, submission_id, expires_at)
        SELECT 'crowd', key, id, expires_at FROM crowd
    )
    INSERT INTO job_keys (tenant, key, job_id, fingerprint, expires_at)
    SELECT 'crowd', key, id, '', expires_at FROM crowd
""")

Take: TypeAlias = Callable[[Connection], bool]


def _held(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(_HELD).scalars())


def _end(engine: Engine, *forgotten: str) -> None:
    with engine.begin() as connection:
        connection.execute(_END, {"keys": list(forgotten)})


def _begin(connection: Connection) -> bool:
    fresh = new_id()
    return submissions.begin(connection, submission_id=fresh, key="cat") == fresh


def _submit_one(connection: Connection) -> bool:
    (accepted,) = submit.insert_jobs(connection, [new_job(key="cat")])
    return accepted.created


def _submit_many(connection: Connection) -> bool:
    jobs = [new_job(key="cat"), *(new_job(key=str(new_id())) for _ in range(9))]
    return all(accepted.created for accepted in submit.insert_jobs(connection, jobs))


def test_the_keeper_deletes_what_is_forgotten_and_nothing_else(engine: Engine) -> None:
    submitted(engine, new_job(key="old job"), new_job(key="job"))
    with engine.begin() as connection:
        for key in ("old submission", "submission"):
            submissions.begin(connection, key=key)
    _end(engine, "old job", "old submission")

    Keeper(count_duties(engine, KeeperSettings()), every_seconds=3600.0).once()

    assert _held(engine) == ["job", "submission"]


def test_a_call_deletes_no_more_than_some_thousand(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_FORGET_ROWS", 2)
    with engine.begin() as connection:
        for number in range(5):
            submit.insert_jobs(
                connection,
                [new_job(key=str(number))],
                remember_keys=timedelta(seconds=-10 - number),
            )
        # The longest forgotten first.
        assert (keys.forget(connection), connection.execute(_HELD).scalars().all()) == (
            2,
            ["0", "1", "2"],
        )
        assert [keys.forget(connection) for _ in range(3)] == [2, 1, 0]


_TAKING = pytest.mark.parametrize("take", [_begin, _submit_one, _submit_many])


@_TAKING
def test_a_key_that_somebody_takes_anew_is_left_to_them(engine: Engine, take: Take) -> None:
    with engine.begin() as connection:
        take(connection)
    _end(engine, "cat")
    with rivals(engine) as rival:
        with engine.begin() as connection:
            assert take(connection)
            keeper = rival(keys.forget)
            assert (keeper.blocked, keeper.answer()) == (False, 0)
        with engine.begin() as connection:
            assert keys.forget(connection) == 0
    assert "cat" in _held(engine)


@_TAKING
def test_who_takes_a_key_anew_that_is_being_deleted_has_it(engine: Engine, take: Take) -> None:
    with engine.begin() as connection:
        take(connection)
    _end(engine, "cat")
    with rivals(engine) as rival:
        with engine.begin() as connection:
            assert keys.forget(connection) == 1
            taker = rival(take)
            assert taker.blocked
        assert taker.answer()
    assert "cat" in _held(engine)
    with engine.begin() as connection:
        assert not take(connection)


@pytest.mark.parametrize("statement", [keys._FORGET_OF_JOBS, keys._FORGET_OF_SUBMISSIONS])
def test_no_key_is_read_that_is_not_forgotten(engine: Engine, statement: TextClause) -> None:
    with engine.begin() as connection:
        connection.execute(_CROWD)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE job_keys, submission_keys"))
    # Each once to find it, and once to delete it.
    assert rows_read(engine, statement, {"rows": 50}) == 100
    assert rows_read(engine, statement, {"rows": 5000}) == 200
