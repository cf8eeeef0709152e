"""Connections: what a session keeps, and what becomes of one that is gone."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from tests.factories import begun, claimed, result_of, submitted
from tests.plans import FETCHED, settle

from twofold_schema import database
from twofold_schema.ids import new_id
from twofold_schema.ledger import outcomes, reads
from twofold_schema.settings import DatabaseSettings

_SUBMIT = text("""
    INSERT INTO jobs (id, submission_id, state, max_attempts, source, output_prefix, parameters,
                      finished_at)
    SELECT uuidv7(), :submission_id, 'failed', 3, 's3://twofold/a', 's3://twofold/b', '{}',
           clock_timestamp()
    FROM generate_series(1, :jobs) AS n
""")

#: As often as it takes the driver to prepare a statement, and the server to keep its plan.
_OFTEN = 12


@pytest.fixture
def single(database_settings: DatabaseSettings) -> Iterator[Engine]:
    """An engine of one connection."""
    engine = database.connect(database_settings.model_copy(update={"database_pool_size": 1}))
    yield engine
    engine.dispose()


def _prepared(engine: Engine) -> list[str]:
    with engine.begin() as connection:
        return list(
            connection.execute(text("SELECT statement FROM pg_prepared_statements")).scalars()
        )


def _fail_half_way(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE half (id integer)"))
        connection.execute(text("SELECT 1 / 0"))


def test_a_session_keeps_the_plans_of_what_it_repeats(single: Engine) -> None:
    run_id = begun(single)
    for _ in range(_OFTEN):
        submitted(single)
        (held,) = claimed(single, run_id, limit=1)
        with single.begin() as connection:
            outcomes.complete(connection, run_id, {held: result_of(held)})

    kept = _prepared(single)
    assert any("SKIP LOCKED" in statement for statement in kept)
    assert any("jsonb_array_elements" in statement for statement in kept)


def test_a_kept_plan_outlives_a_migration_that_adds_a_column(single: Engine) -> None:
    run_id = begun(single)
    for _ in range(_OFTEN):
        (job_id,) = submitted(single)
        claimed(single, run_id, limit=1)
        with single.begin() as connection:
            reads.get(connection, job_id)
            reads.find(connection, limit=1)
    with single.begin() as connection:
        connection.execute(text("ALTER TABLE jobs ADD COLUMN added integer"))
    try:
        (job_id,) = submitted(single)
        (held,) = claimed(single, run_id, limit=1)
        assert held.job_id == job_id
        with single.begin() as connection:
            assert reads.get(connection, job_id).claim == held
            assert [job.id for job in reads.find(connection, limit=1)] == [job_id]
    finally:
        with single.begin() as connection:
            connection.execute(text("ALTER TABLE jobs DROP COLUMN added"))


@pytest.mark.parametrize("changed", [lambda engine: engine, database.committing_each])
def test_every_transaction_has_its_bounds(
    single: Engine, changed: Callable[[Engine], Engine]
) -> None:
    with changed(single).begin() as connection:
        for bound in ("statement_timeout", "idle_in_transaction_session_timeout"):
            assert connection.execute(text(f"SHOW {bound}")).scalar_one() != "0"


def test_a_transaction_that_reads_in_order_leaves_the_session_as_it_was(single: Engine) -> None:
    show = text("SHOW enable_sort")
    with single.begin() as connection:
        database.read_in_order(connection)
        assert connection.execute(show).scalar_one() == "off"
    with single.begin() as connection:
        assert connection.execute(show).scalar_one() == "on"


def test_sessions_that_read_in_order_do_so_in_every_statement(
    database_settings: DatabaseSettings,
) -> None:
    engine = database.connect(database_settings, in_order=True)
    try:
        for changed in (engine, database.committing_each(engine)):
            with changed.begin() as connection:
                database.read_in_order(connection)
                assert connection.execute(text("SHOW enable_sort")).scalar_one() == "off"
    finally:
        engine.dispose()


def test_what_commits_each_statement_cannot_read_in_order_for_a_transaction(single: Engine) -> None:
    with database.committing_each(single).begin() as connection, pytest.raises(ValueError):
        database.read_in_order(connection)


def test_a_statement_of_an_engine_that_commits_each_stays_whatever_comes_after(
    single: Engine,
) -> None:
    with pytest.raises(DBAPIError):
        _fail_half_way(database.committing_each(single))
    with single.begin() as connection:
        assert connection.execute(text("SELECT to_regclass('half')")).scalar_one() == "half"


def test_what_fails_is_taken_back_whole(single: Engine) -> None:
    with pytest.raises(DBAPIError):
        _fail_half_way(single)
    with single.begin() as connection:
        assert connection.execute(text("SELECT to_regclass('half')")).scalar_one() is None


def test_no_free_connection_is_an_error_that_waiting_mends(
    database_settings: DatabaseSettings,
) -> None:
    hurried = {"database_pool_size": 1, "database_timeout_seconds": 0.05}
    engine = database.connect(database_settings.model_copy(update=hurried))
    refused = list[DBAPIError]()
    try:
        with ExitStack() as held:
            for _ in range(4):
                held.enter_context(engine.connect())

            def waiting(error: DBAPIError) -> None:
                refused.append(error)
                held.close()

            answer = database.persevere(
                engine,
                lambda connection: connection.execute(text("SELECT 1")).scalar_one(),
                waiting=waiting,
                first_pause=0,
            )
    finally:
        engine.dispose()
    assert answer == 1
    (error,) = refused
    assert "TWOFOLD_DATABASE_POOL_SIZE" in str(error.orig)


@pytest.mark.parametrize("fresh_seconds", [0.0, 3600.0])
def test_a_connection_that_is_gone_is_replaced_however_long_it_has_idled(
    single: Engine, engine: Engine, monkeypatch: pytest.MonkeyPatch, fresh_seconds: float
) -> None:
    monkeypatch.setattr(database, "_FRESH_SECONDS", fresh_seconds)
    with single.begin() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with engine.begin() as connection:
        ended = text("SELECT pg_terminate_backend(:pid, 5000)")
        assert connection.execute(ended, {"pid": pid}).scalar_one()

    with single.begin() as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != pid


@pytest.mark.parametrize("changed", [lambda engine: engine, database.committing_each])
def test_sessions_that_may_no_longer_write_are_waited_out_over_new_ones(
    engine: Engine, changed: Callable[[Engine], Engine]
) -> None:
    """As when what was the primary has become a standby: none of the pool leads to the new one."""
    with ExitStack() as held:
        for _ in range(2):
            connection = held.enter_context(engine.begin())
            connection.execute(text("SET default_transaction_read_only = on"))
    refused = list[DBAPIError]()
    database.persevere(
        changed(engine),
        lambda connection: connection.execute(text("CREATE TABLE written (id integer)")),
        waiting=refused.append,
        first_pause=0,
    )
    (error,) = refused
    assert isinstance(error.orig, psycopg.errors.ReadOnlySqlTransaction)


def test_a_kept_plan_of_a_submissions_page_reads_that_submission(single: Engine) -> None:
    mine, others = new_id(), new_id()
    with single.begin() as connection:
        for submission_id, jobs in ((mine, 40), (others, 6000)):
            connection.execute(_SUBMIT, {"submission_id": submission_id, "jobs": jobs})
    settle(single)
    read = list[int]()
    for _ in range(_OFTEN):
        with single.begin() as connection:
            before = connection.execute(FETCHED).scalar_one()
            assert len(reads.find(connection, submission_id=mine, limit=5)) == 5
            read.append(connection.execute(FETCHED).scalar_one() - before)
    assert max(read) <= 40
