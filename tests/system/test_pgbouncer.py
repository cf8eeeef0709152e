"""Behind pgbouncer in transaction mode, where a session's state belongs to nobody."""

import asyncio
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from tests.house import House, eventually
from tests.pictures import encoded

from twofold_producer.dev.lifeline import Lifeline
from twofold_schema import database
from twofold_schema.async_reader import AsyncReader
from twofold_schema.settings import DatabaseSettings
from twofold_schema.states import JobState

pytestmark = pytest.mark.system


@pytest.fixture
def through_pgbouncer(house: House, tmp_path: Path) -> Iterator[House]:
    """The house, its database reached through a pool of two connections."""
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.fail("pgbouncer is not installed; run `make system-packages`")
    url = make_url(house.environment["TWOFOLD_DATABASE_URL"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "pgbouncer"
    folder.mkdir()
    _configure(folder, url, port)
    log = tmp_path / "pgbouncer.log"
    # pgbouncer refuses root; -u makes it another user once it has read its files.
    command = [program, "-q", "-u", "nobody", str(folder / "pgbouncer.ini")]
    with Lifeline.start(command, log=log):
        eventually(lambda: _listens(port), why=log.read_text)
        pooled = url.set(host="127.0.0.1", port=port)
        house.environment["TWOFOLD_DATABASE_URL"] = pooled.render_as_string(hide_password=False)
        yield house


def _configure(folder: Path, url: URL, port: int) -> None:
    users = folder / "users.txt"
    users.write_text(f'"{url.username}" "{url.password}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"""
[databases]
{url.database} = host={url.host} port={url.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = 2
"""
    )
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    for parent in folder.parents:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_jobs_go_their_way_through_a_pool_of_two_connections(through_pgbouncer: House) -> None:
    house = through_pgbouncer
    house.keeper()
    producer = house.producer()
    for _ in range(2):
        house.worker()
    house.wait_ready(2)

    submission = producer.submit_many([encoded(seed=seed) for seed in range(24)])
    jobs = producer.wait(submission, timeout=120)

    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 24, house.logs()
    assert {job.fence for job in jobs} == {1}


def test_no_session_keeps_anything(through_pgbouncer: House) -> None:
    settings = DatabaseSettings(database_url=through_pgbouncer.environment["TWOFOLD_DATABASE_URL"])
    engine, ordered = database.connect(settings), database.connect(settings, in_order=True)
    try:
        for _ in range(12):
            with engine.begin() as connection:
                assert (
                    connection.execute(text("SELECT CAST(:n AS int)"), {"n": 1}).scalar_one() == 1
                )
        with engine.begin() as connection:
            kept = connection.execute(text("SELECT count(*) FROM pg_prepared_statements"))
            assert kept.scalar_one() == 0
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "0"
        # What commits each statement elsewhere has its bounds here as well, in a transaction.
        with database.committing_each(engine).begin() as connection:
            assert connection.execute(text("SHOW statement_timeout")).scalar_one() != "0"
        with database.committing_each(ordered).begin() as connection:
            assert connection.execute(text("SHOW enable_sort")).scalar_one() == "off"
        with engine.begin() as connection:
            assert connection.execute(text("SHOW enable_sort")).scalar_one() == "on"
    finally:
        engine.dispose()
        ordered.dispose()


def test_a_coroutines_reads_are_bounded_and_leave_nothing_behind(through_pgbouncer: House) -> None:
    settings = DatabaseSettings(database_url=through_pgbouncer.environment["TWOFOLD_DATABASE_URL"])
    reader = AsyncReader(settings)
    bound = text("SELECT current_setting('statement_timeout') AS bound, CAST(:n AS int) AS n")

    async def read() -> list[tuple[int, str]]:
        rows = [(await reader.rows(bound, {"n": n}))[0] for n in range(12)]
        await reader.close()
        return [(row["n"], row["bound"]) for row in rows]

    told = asyncio.run(read())
    assert [number for number, _ in told] == list(range(12))
    assert "0" not in {bound for _, bound in told}
    engine = database.connect(settings)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "0"
    finally:
        engine.dispose()
