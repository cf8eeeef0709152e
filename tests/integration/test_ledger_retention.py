"""Events have a partition per day: made ahead, dropped whole, and never needed for a write."""

from datetime import timedelta

from sqlalchemy import Connection, Engine, text
from tests.factories import new_job, submitted
from tests.rivals import rivals

from twofold_schema.ledger import retention, submit

_PARTITIONS = text("""
    SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'events'::regclass AND relname <> 'events_default'
    ORDER BY relname
""")
_TODAY = text("SELECT to_char(timezone('UTC', clock_timestamp()), 'YYYYMMDD')")
_OF_DEFAULT = text("SELECT count(*) FROM events_default")
_COUNT = text("SELECT count(*) FROM events")
_OLD_DAY = text("""
    CREATE TABLE events_20200101 PARTITION OF events
    FOR VALUES FROM ('2020-01-01Z') TO ('2020-01-02Z')
""")
_DATE_BACK = text("UPDATE events SET at = :at")


def _partitions(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(_PARTITIONS).scalars())


def _drop_all(engine: Engine) -> None:
    with engine.begin() as connection:
        for name in connection.execute(_PARTITIONS).scalars().all():
            connection.execute(text(f"DROP TABLE {name}"))


def _make(engine: Engine) -> int:
    with engine.begin() as connection:
        return retention.make_partitions(connection, retention.EVENTS)


def _drop(engine: Engine, days: int = 7) -> int:
    with engine.begin() as connection:
        return retention.drop_partitions(
            connection, retention.EVENTS, older_than=timedelta(days=days)
        )


def _scalar(engine: Engine, statement: object) -> object:
    with engine.connect() as connection:
        return connection.execute(statement).scalar_one()  # type: ignore[call-overload]


def test_a_migrated_database_has_today_and_the_days_to_come(engine: Engine) -> None:
    made = _partitions(engine)
    assert len(made) == 1 + retention.EVENTS.ahead
    _make(engine)  # none, but where the day changed since
    _drop_all(engine)
    assert _make(engine) == len(made)
    assert _partitions(engine)[0] == f"events_{_scalar(engine, _TODAY)}"
    submitted(engine)
    assert _scalar(engine, _OF_DEFAULT) == 0


def test_events_of_a_day_without_a_partition_are_written_all_the_same(engine: Engine) -> None:
    """The day gets none then; the next ones do."""
    _drop_all(engine)
    submitted(engine)
    assert _scalar(engine, _OF_DEFAULT) == 1
    assert _make(engine) == retention.EVENTS.ahead
    submitted(engine)
    assert _scalar(engine, _OF_DEFAULT) == 2
    assert _scalar(engine, _COUNT) == 2


def test_what_is_old_is_dropped_and_nothing_else(engine: Engine) -> None:
    submitted(engine)
    with engine.begin() as connection:
        connection.execute(_OLD_DAY)
        connection.execute(_DATE_BACK, {"at": "2020-01-01T12:00:00Z"})
    submitted(engine)
    kept = [name for name in _partitions(engine) if name != "events_20200101"]

    assert _drop(engine) == 1

    assert _partitions(engine) == kept
    assert _scalar(engine, _COUNT) == 1


def test_what_is_old_and_has_no_partition_is_deleted(engine: Engine) -> None:
    submitted(engine)
    with engine.begin() as connection:
        connection.execute(_DATE_BACK, {"at": "2020-01-01T12:00:00Z"})
    submitted(engine)
    assert _drop(engine) == 0
    assert _scalar(engine, _COUNT) == 1


def test_a_partition_is_made_beside_writers_and_dropped_once_they_have_ended(
    engine: Engine,
) -> None:
    with engine.begin() as connection:
        connection.execute(_OLD_DAY)
        connection.execute(text(f"DROP TABLE {_partitions(engine)[-1]}"))

    def drop(connection: Connection) -> int:
        return retention.drop_partitions(connection, retention.EVENTS, older_than=timedelta(days=7))

    with rivals(engine) as rival, engine.begin() as connection:
        submit.insert_jobs(connection, [new_job()])
        assert rival(lambda c: retention.make_partitions(c, retention.EVENTS)).answer() == 1
        assert rival(drop).answer() == 0
    assert "events_20200101" in _partitions(engine)
    assert _drop(engine) == 1
