"""What a heartbeat waits out, and what it ends the process for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import Engine, text
from structlog.testing import capture_logs
from tests.factories import begun
from tests.house import eventually

from twofold_schema import database
from twofold_schema.ids import new_id
from twofold_schema.settings import DatabaseSettings
from twofold_worker.heartbeat import Heartbeat
from twofold_worker.holdings import Holdings
from twofold_worker.progress import Progress


@contextmanager
def _beating(
    engine: Engine, run_id: UUID, broken: Callable[[BaseException], None]
) -> Iterator[None]:
    heartbeat = Heartbeat(
        run_id=run_id,
        engine=engine,
        lease_seconds=0.1,
        progress=Progress(60),
        holdings=Holdings(),
        draining=lambda: False,
        drain=lambda: None,
        broken=broken,
    )
    heartbeat.start()
    try:
        yield
    finally:
        heartbeat.stop()


def test_a_beat_that_the_database_refuses_for_good_ends_the_process(engine: Engine) -> None:
    broken: list[BaseException] = []
    run_id = begun(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE runs RENAME COLUMN holding TO hands"))
    with _beating(engine, run_id, broken.append):
        eventually(lambda: broken)
    (error,) = broken
    assert "UndefinedColumn" in repr(error)


def test_a_database_that_is_away_is_waited_out() -> None:
    nowhere = database.connect(
        DatabaseSettings.model_validate({"database_url": "postgresql://nobody@127.0.0.1:1/x"})
    )
    broken: list[BaseException] = []
    with capture_logs() as logs, _beating(nowhere, new_id(), broken.append):
        eventually(lambda: [line["event"] for line in logs].count("database_away") > 5)
    assert broken == []
