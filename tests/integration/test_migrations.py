"""The migrations and the tables in code are one schema, and it refuses nonsense."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import IntegrityError
from tests.factories import begun, claimed, new_job, submitted

from twofold_schema import database, tables
from twofold_schema.ledger import audit, history, requests, tallies
from twofold_schema.settings import DatabaseSettings

_INDEXES = text("""
    SELECT relname AS name, indisvalid AS valid
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = 'jobs'::regclass
""")

_CUT_OFF = text("""
    UPDATE alembic_version SET version_num = '0002';
    DROP INDEX jobs_waiting_size;
    CREATE INDEX jobs_queued ON jobs (job_class, id) WHERE state = 'queued';
    UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'jobs_queued_size'::regclass
""")

_OLD_INSERT = text("""
    INSERT INTO jobs (id, state, max_attempts, source, output_prefix, parameters, queued_at, lane,
                      pixels, est_gpu_seconds)
    VALUES (gen_random_uuid(), 'queued', 3, 's3://twofold/a', 's3://twofold/b', '{}',
            clock_timestamp(), 'lane', 1, 1)
    RETURNING id
""")


def _tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def test_the_tables_in_code_are_those_in_the_database(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_server_default": True, "include_name": tables.is_in_code}
        )
        assert compare_metadata(context, tables.metadata) == []


def test_every_check_in_code_is_in_the_database(engine: Engine) -> None:
    inspector = inspect(engine)
    for name, one in tables.metadata.tables.items():
        written = {str(check["name"]) for check in inspector.get_check_constraints(name)}
        stated = {str(check.name) for check in one.constraints if "sqltext" in dir(check)}
        assert written == stated


def test_migrations_go_up_and_down_and_may_be_repeated(
    engine: Engine, database_settings: DatabaseSettings
) -> None:
    everything = _tables(engine)
    assert set(tables.metadata.tables) < everything
    database.migrate(database_settings)
    command.downgrade(database.alembic_config(database_settings), "base")
    assert _tables(engine) == {"alembic_version"}
    database.migrate(database_settings)
    assert _tables(engine) == everything
    submitted(engine)
    assert len(claimed(engine, begun(engine))) == 1


def _indexes(engine: Engine) -> dict[str, bool]:
    """The indexes of jobs, and whether each is valid."""
    with engine.connect() as connection:
        return {row.name: row.valid for row in connection.execute(_INDEXES)}


def test_several_hosts_may_migrate_at_once(
    engine: Engine, database_settings: DatabaseSettings
) -> None:
    """The one that comes second finds all done; nor does it hold up what is built concurrently."""
    valid = _indexes(engine)
    command.downgrade(database.alembic_config(database_settings), "base")
    url = database_settings.database_url.get_secret_value()
    environment = os.environ | {"TWOFOLD_DATABASE_URL": url}
    migrate = [sys.executable, "-m", "twofold_producer", "db", "migrate"]
    hosts = [subprocess.Popen(migrate, env=environment) for _ in range(3)]
    assert [host.wait(60) for host in hosts] == [0, 0, 0]
    assert _indexes(engine) == valid
    assert all(valid.values())


def test_a_migration_that_was_cut_off_half_way_may_be_repeated(
    engine: Engine, database_settings: DatabaseSettings
) -> None:
    """What it left is there, an index that nobody can use among it."""
    valid = _indexes(engine)
    command.downgrade(database.alembic_config(database_settings), "0003")
    with engine.begin() as connection:
        connection.execute(_CUT_OFF)
    assert not all(_indexes(engine).values())
    database.migrate(database_settings)
    assert _indexes(engine) == valid


def test_the_code_before_sizes_were_noted_works_on(
    engine: Engine, database_settings: DatabaseSettings
) -> None:
    """Its rows have no size, are taken by anybody, and so are those that wait meanwhile."""
    config = database.alembic_config(database_settings)
    command.downgrade(config, "0002")
    with engine.begin() as connection:
        before = connection.execute(_OLD_INSERT).scalar_one()
    database.migrate(database_settings)
    with engine.begin() as connection:
        after = connection.execute(_OLD_INSERT).scalar_one()
    taken = claimed(engine, begun(engine, max_lattice_pixels=64 * 64))
    assert {claim.job_id for claim in taken} == {before, after}


def test_jobs_that_were_there_before_tallies_are_in_them(
    engine: Engine, database_settings: DatabaseSettings
) -> None:
    """Once each, also where a try that was cut off had counted them, and some more since."""
    command.downgrade(database.alembic_config(database_settings), "0003")
    with engine.begin() as connection:
        connection.execute(_OLD_INSERT)
    database.migrate(database_settings)
    submitted(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0003'"))
    database.migrate(database_settings)
    claimed(engine, begun(engine), limit=1)
    with engine.connect() as connection:
        found = tallies.overview(connection)
    assert {tally.state: tally.jobs for tally in found} == {"queued": 1, "running": 1}


def test_jobs_in_the_history_come_back_when_there_is_none_any_more(
    engine: Engine, database_settings: DatabaseSettings
) -> None:
    """Counted once, told of once; a new job is told of and counted before and after."""
    ids = submitted(engine, new_job(), new_job())
    with engine.begin() as connection:
        requests.cancel(connection, ids[:1])
        assert history.move(connection, age=timedelta(0)) == 1
    config = database.alembic_config(database_settings)
    command.downgrade(config, "0008")
    with engine.begin() as connection:
        found = connection.execute(text("SELECT state FROM jobs ORDER BY state")).scalars().all()
        connection.execute(_OLD_INSERT)
    assert found == ["cancelled", "queued"]
    database.migrate(database_settings)
    submitted(engine)
    with engine.connect() as connection:
        counts = {tally.state: tally.jobs for tally in tallies.overview(connection)}
        assert counts == {"cancelled": 1, "queued": 3}
        assert tallies.differences(connection) == []
        assert audit.broken_lives(connection).count == 0


@pytest.mark.parametrize(
    ("nonsense", "check"),
    [
        ("state = 'paused'", "jobs_state_known"),
        ("state = 'failed'", "jobs_final_has_time"),
        ("finished_at = clock_timestamp()", "jobs_final_has_time"),
        ("state = 'succeeded', finished_at = clock_timestamp()", "jobs_succeeded_has_result"),
        ("result = '{}'", "jobs_succeeded_has_result"),
        ("state = 'running', run_deadline = clock_timestamp()", "jobs_running_has_run"),
        ("state = 'running', run_id = gen_random_uuid()", "jobs_running_has_deadline"),
        ("run_deadline = clock_timestamp()", "jobs_running_has_deadline"),
        ("run_id = gen_random_uuid()", "jobs_waiting_has_no_run"),
        ("state = 'scheduled'", "jobs_scheduled_has_time"),
        ("queued_at = NULL", "jobs_queued_has_time"),
        ("lane = NULL", "jobs_measured_whole"),
        ("pixels = NULL", "jobs_measured_whole"),
        ("width = NULL", "jobs_size_whole"),
        ("attempts = max_attempts + 1", "jobs_attempts_bounded"),
        ("attempts = -1", "jobs_attempts_bounded"),
        ("job_class = 3", "jobs_class_known"),
        ("fence = -1", "jobs_counters_positive"),
        ("generation = 0", "jobs_counters_positive"),
        ("crashes = -1", "jobs_counters_positive"),
        ("max_attempts = 0", "jobs_counters_positive"),
    ],
)
def test_the_database_refuses_a_row_that_makes_no_sense(
    engine: Engine, nonsense: str, check: str
) -> None:
    submitted(engine)
    with pytest.raises(IntegrityError, match=check), engine.begin() as connection:
        connection.execute(text(f"UPDATE jobs SET {nonsense}"))


@pytest.mark.parametrize(
    ("nonsense", "check"),
    [
        ("state = 'asleep'", "runs_state_known"),
        ("state = 'lost'", "runs_ended_has_time"),
        ("ended_at = clock_timestamp()", "runs_ended_has_time"),
    ],
)
def test_the_database_refuses_a_run_that_makes_no_sense(
    engine: Engine, nonsense: str, check: str
) -> None:
    begun(engine)
    with pytest.raises(IntegrityError, match=check), engine.begin() as connection:
        connection.execute(text(f"UPDATE runs SET {nonsense}"))
