"""The keeper does what no single job does, in any number, through any outage."""

import secrets
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from structlog.testing import capture_logs
from tests.conftest import settings_for
from tests.factories import (
    FUTURE,
    PAST,
    begun,
    claimed,
    job_of,
    new_job,
    of_side,
    silence,
    submitted,
)
from tests.house import House, eventually
from tests.rivals import locked_out

from twofold_producer.broker import Bell
from twofold_producer.dev.postgres import Postgres
from twofold_producer.keeper.duties import (
    count_duties,
    fold_duties,
    ledger_duties,
    operation_duties,
)
from twofold_producer.keeper.loop import Duty, Keeper
from twofold_schema import database, ticket
from twofold_schema.ledger import operations, sweeps
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.settings import BrokerSettings, DatabaseSettings, KeeperSettings
from twofold_schema.states import JobState

#: A keeper that looks so seldom takes no pause for an outage.
SELDOM = 3600.0

_LAST_DAY = text("SELECT max(relname) FROM pg_class WHERE relname ~ '^events_[0-9]{8}$'")
_AGE = text("UPDATE jobs SET queued_at = clock_timestamp() - :age")


@pytest.fixture
def bell(broker_url: str) -> Bell:
    return Bell(BrokerSettings.model_validate({"broker_url": broker_url}))


def keeper_of(engine: Engine, bell: Bell, *, largest_pool: int | None = None) -> Keeper:
    """A keeper of rows that finds every lease in order."""
    duties = ledger_duties(engine, bell, every_seconds=SELDOM, largest_pool=largest_pool)
    return Keeper(duties, every_seconds=SELDOM)


@pytest.fixture
def keeper(engine: Engine, bell: Bell) -> Keeper:
    return keeper_of(engine, bell)


def states(engine: Engine) -> dict[str, int]:
    """How many jobs are in each state."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT state, count(*) AS n FROM jobs GROUP BY state"))
        return {row.state: row.n for row in rows}


class TestOnce:
    """Every duty, done once."""

    def test_promotes_what_is_due_and_nothing_else(self, engine: Engine, keeper: Keeper) -> None:
        due, later = submitted(engine, new_job(start_at=PAST), new_job(start_at=FUTURE))

        keeper.once()

        assert job_of(engine, due).state is JobState.QUEUED
        assert job_of(engine, later).state is JobState.SCHEDULED

    def test_expires_what_missed_a_deadline_and_nothing_else(
        self, engine: Engine, keeper: Keeper
    ) -> None:
        not_taken, not_finished, in_time = submitted(
            engine,
            new_job(start_by=PAST),
            new_job(finish_by=PAST),
            new_job(start_by=FUTURE, finish_by=FUTURE),
        )

        keeper.once()

        assert job_of(engine, not_taken).state is JobState.EXPIRED
        assert job_of(engine, not_finished).state is JobState.EXPIRED
        assert job_of(engine, in_time).state is JobState.QUEUED

    def test_gives_back_what_a_dead_run_held(self, engine: Engine, keeper: Keeper) -> None:
        (job_id,) = submitted(engine)
        run_id = begun(engine)
        claimed(engine, run_id)
        keeper.once()
        assert job_of(engine, job_id).state is JobState.RUNNING
        silence(engine, run_id)

        keeper.once()

        job = job_of(engine, job_id)
        assert (job.state, job.attempts) == (JobState.QUEUED, 0)

    def test_rings_for_jobs_that_wait_beside_idle_runs(
        self, engine: Engine, keeper: Keeper, bell: Bell, broker_url: str
    ) -> None:
        """As often as there are idle runs, and not for jobs whose ticket may be on its way."""
        submitted(engine, *[new_job()] * 3)
        begun(engine)
        begun(engine)
        with redis.Redis.from_url(broker_url) as client:
            keeper.once()
            # A ticket of the keeper's would have come before this one.
            bell.ring(1)
            eventually(lambda: client.llen(ticket.QUEUE), within=10)
            assert client.llen(ticket.QUEUE) == 1

            with engine.begin() as connection:
                connection.execute(_AGE, {"age": timedelta(seconds=10)})
            keeper.once()
            eventually(lambda: client.llen(ticket.QUEUE) == 3, within=10)

    def test_rings_for_what_was_retried_by_filter(
        self, engine: Engine, bell: Bell, broker_url: str
    ) -> None:
        """At once: what was queued just now has no lost ticket that another duty would miss."""
        submitted(engine, *[new_job(finish_by=PAST)] * 3)
        begun(engine)
        with engine.begin() as connection:
            sweeps.expire(connection)
            where = JobFilter(tenant="default")
            operations.begin(connection, OperationKind.RETRY, where, reason="why", who="ann")

        with redis.Redis.from_url(broker_url) as client:
            Keeper(operation_duties(engine, bell), every_seconds=SELDOM).once()

            eventually(lambda: client.llen(ticket.QUEUE), within=10)
            assert client.llen(ticket.QUEUE) == 1

    def test_rings_for_nobody_when_no_run_is_idle(
        self, engine: Engine, keeper: Keeper, bell: Bell, broker_url: str
    ) -> None:
        with redis.Redis.from_url(broker_url) as client:
            submitted(engine)
            with engine.begin() as connection:
                connection.execute(_AGE, {"age": timedelta(seconds=10)})
            keeper.once()
            bell.ring(1)

            eventually(lambda: client.llen(ticket.QUEUE), within=10)
            assert client.llen(ticket.QUEUE) == 1

    def test_leaves_a_duty_that_another_is_at(self, engine: Engine, keeper: Keeper) -> None:
        """And does not wait for it: its other duties go on."""
        due, late = submitted(engine, new_job(start_at=PAST), new_job(start_by=PAST))
        with engine.begin() as other:
            assert sweeps.try_duty(other, "promote")
            keeper.once()
            assert job_of(engine, due).state is JobState.SCHEDULED
            assert job_of(engine, late).state is JobState.EXPIRED

        keeper.once()

        assert job_of(engine, due).state is JobState.QUEUED

    def test_fails_what_fits_no_declared_pool(self, engine: Engine, bell: Bell) -> None:
        large, later, fits = submitted(
            engine, of_side(1025), of_side(1025, start_at=FUTURE), of_side(1024)
        )

        keeper_of(engine, bell, largest_pool=1024 * 1024).once()

        for job_id in (large, later):
            job = job_of(engine, job_id)
            assert (job.state, job.attempts) == (JobState.FAILED, 0)
            assert job.error is not None
            assert job.error.code == "too_large_for_fleet"
            assert "TWOFOLD_POOLS" in job.error.message
        assert job_of(engine, fits).state is JobState.QUEUED

    def test_reports_what_fits_no_live_run_where_no_pool_is_declared(
        self, engine: Engine, keeper: Keeper
    ) -> None:
        """Once a minute, and fails none of it."""
        (job_id,) = submitted(engine, of_side(1024))
        begun(engine, max_lattice_pixels=512 * 512)

        with capture_logs() as logs:
            keeper.once()
            keeper.once()

        said = [entry for entry in logs if entry["event"] == "jobs_fit_no_live_worker"]
        assert [(entry["log_level"], entry["jobs"]) for entry in said] == [("warning", 1)]
        assert job_of(engine, job_id).state is JobState.QUEUED

    def test_many_at_once_do_everything_once(self, engine: Engine, bell: Bell) -> None:
        """More rows than one sweep takes: the next one takes the rest."""
        count = sweeps.SWEEP_ROWS + 200
        submitted(engine, *[new_job(start_at=PAST)] * count, *[new_job(start_by=PAST)] * 100)
        ready = threading.Barrier(4)

        def keep(_: int) -> None:
            keeper = keeper_of(engine, bell)
            ready.wait()
            for _ in range(3):
                keeper.once()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(keep, range(4)))
        keeper_of(engine, bell).once()

        assert states(engine) == {"queued": count, "expired": 100}

    def test_a_keeper_that_was_told_to_stop_does_not_begin(
        self, engine: Engine, keeper: Keeper
    ) -> None:
        (due,) = submitted(engine, new_job(start_at=PAST))
        stop = threading.Event()
        stop.set()

        keeper.run(stop)

        assert job_of(engine, due).state is JobState.SCHEDULED


class TestHurry:
    @pytest.mark.parametrize(("found", "rounds"), [([100, 99], 2), ([99], 1)])
    def test_the_next_round_comes_sooner_while_one_concerns_many_rows(
        self, found: list[int], rounds: int
    ) -> None:
        """A stop that does not wait, and says for how long it was to."""
        waits: list[float] = []
        left = iter(found)

        class Stop(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                assert timeout is not None
                waits.append(timeout)
                if len(waits) == rounds:
                    self.set()
                return self.is_set()

        duty = Duty("count", lambda: next(left))
        Keeper([duty], every_seconds=10.0, hurries=True).run(Stop())

        assert waits == [2.0, 10.0][-rounds:]


class TestCounts:
    """The duties that keep counts and events in bounds."""

    def test_fold_what_changed_and_make_the_days_to_come(self, engine: Engine) -> None:
        submitted(engine, new_job())
        with engine.begin() as connection:
            (last,) = connection.execute(_LAST_DAY).scalars()
            connection.execute(text(f"DROP TABLE {last}"))
        duties = [*fold_duties(engine), *count_duties(engine, KeeperSettings())]
        keeper = Keeper(duties, every_seconds=SELDOM)

        with capture_logs() as logs:
            keeper.once()
            keeper.once()

        assert [(entry["log_level"], entry["duty"], entry["count"]) for entry in logs] == [
            ("debug", "fold", 1),
            ("info", "roll_up", 1),
            ("info", "keep_events", 1),
        ]

    def test_keep_all_events_as_a_role_that_does_not_own_the_tables(
        self, engine: Engine, database_settings: DatabaseSettings
    ) -> None:
        """It says so, and does all the rest."""
        submitted(engine)
        role = f"guest_{secrets.token_hex(4)}"
        with engine.begin() as connection:
            connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'guest'"))
            connection.execute(
                text(
                    f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
                )
            )
        url = make_url(database_settings.database_url.get_secret_value())
        guest = create_engine(url.set(username=role, password="guest"))
        keeper = Keeper(count_duties(guest, KeeperSettings(events_days=1)), every_seconds=SELDOM)
        try:
            with capture_logs() as logs:
                keeper.once()
                submitted(guest)
        finally:
            guest.dispose()
            with engine.begin() as connection:
                connection.execute(text(f"DROP OWNED BY {role}"))
                connection.execute(text(f"DROP ROLE {role}"))

        told = [(entry["event"], entry.get("table")) for entry in logs if entry["event"] != "kept"]
        assert told == [("kept_for_ever", table) for table in ("events", "history", "pairs")]


class TestProcess:
    def test_jobs_move_while_what_is_kept_is_counted(self, house: House) -> None:
        """A week of a hundred million jobs takes minutes to count before it is dropped."""
        house.environment["TWOFOLD_DATABASE_TIMEOUT_SECONDS"] = "600"
        with house.engine.begin() as busy:
            busy.execute(text("LOCK TABLE rollups"))
            house.keeper()
            eventually(lambda: locked_out(house.engine), why=house.logs)
            (due,) = submitted(house.engine, new_job(start_at=PAST))
            eventually(lambda: job_of(house.engine, due).state is JobState.QUEUED, why=house.logs)

    def test_keeps_until_sigterm_and_ends_well(self, house: House) -> None:
        first = house.keeper()
        (due,) = submitted(house.engine, new_job(start_at=PAST))
        eventually(lambda: job_of(house.engine, due).state is JobState.QUEUED, why=house.logs)
        second = house.keeper()

        house.signal(first, "TERM")
        assert first.wait(10) == 0

        (late,) = submitted(house.engine, new_job(start_by=PAST))
        eventually(lambda: job_of(house.engine, late).state is JobState.EXPIRED, why=house.logs)
        house.signal(second, "TERM")
        assert second.wait(10) == 0

    @pytest.mark.parametrize("fails", [False, True])
    def test_ends_soon_though_storage_is_silent(
        self, house: House, engine: Engine, *, fails: bool
    ) -> None:
        """With all of it, also when the loop that rescues has failed and another must take over."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            house.environment |= {
                "TWOFOLD_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "TWOFOLD_DATABASE_TIMEOUT_SECONDS": "1",
            }
            keeper = house.keeper()
            asked, _ = silent.accept()
            with asked:
                if fails:
                    with engine.begin() as connection:
                        connection.execute(text("ALTER TABLE jobs RENAME TO lost"))
                else:
                    house.signal(keeper, "TERM")

                assert keeper.wait(15) == (1 if fails else 0), house.logs()

    def test_outlives_an_outage_of_the_database(self, tmp_path: Path) -> None:
        with Postgres.start() as server:
            settings = settings_for(server.url, "twofold")
            database.migrate(settings)
            engine = database.connect(settings)
            environment = {
                "TWOFOLD_DATABASE_URL": settings.database_url.get_secret_value(),
                "TWOFOLD_BROKER_URL": f"filesystem://{tmp_path}/bell",
                "TWOFOLD_KEEPER_SECONDS": "0.1",
                "TWOFOLD_FILE_ROOT": str(tmp_path),
                "TWOFOLD_RESULTS": f"file://{tmp_path}/results",
            }
            with House(engine=engine, folder=tmp_path, environment=environment) as house:
                keeper = house.keeper()
                (before,) = submitted(engine, new_job(start_at=PAST))
                eventually(lambda: job_of(engine, before).state is JobState.QUEUED, why=house.logs)

                with server.outage():
                    eventually(lambda: "database_away" in house.logs(), why=house.logs)
                (after,) = submitted(engine, new_job(start_at=PAST))

                eventually(lambda: job_of(engine, after).state is JobState.QUEUED, why=house.logs)
                assert keeper.poll() is None
            engine.dispose()
