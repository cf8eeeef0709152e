"""Jobs are found by the pairs of their metadata, for as long as they are kept."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from tests.factories import begun, claimed, new_job, result_of, submitted

from twofold_schema.errors import InvalidParameter
from twofold_schema.ledger import history, outcomes, reads, requests, retention
from twofold_schema.states import JobState

_PARTITIONS = text("""
    SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'pairs'::regclass AND relname <> 'pairs_default' ORDER BY relname
""")
_COUNT = text("SELECT count(*) FROM pairs")
_OF_DEFAULT = text("SELECT count(*) FROM pairs_default")
_OLD_WEEK = text("""
    CREATE TABLE pairs_20200106 PARTITION OF pairs
    FOR VALUES FROM ('016f77fd-3c00-0000-0000-000000000000')
    TO ('016f9c09-fc00-0000-0000-000000000000')
""")
_OLD_ID = UUID("016f8000-0000-7000-8000-000000000000")
_DATE_BACK = text("""
    WITH dated AS (UPDATE jobs SET id = :old WHERE id = :id)
    UPDATE pairs SET job_id = :old WHERE job_id = :id
""")
_FORGET = text("WITH gone AS (DELETE FROM jobs) DELETE FROM history")


def _named(tenant: str = "default", **metadata: str) -> Any:
    return new_job(tenant=tenant, metadata=metadata)


def _found(engine: Engine, metadata: dict[str, str], **changes: Any) -> list[UUID]:
    with engine.begin() as connection:
        jobs = reads.find(connection, metadata=metadata, **{"tenant": "default"} | changes)
    return [job.id for job in jobs]


def _scalar(engine: Engine, statement: Any) -> Any:
    with engine.connect() as connection:
        return connection.execute(statement).scalar_one()


def _end_all(engine: Engine) -> None:
    run_id = begun(engine)
    taken = claimed(engine, run_id)
    with engine.begin() as connection:
        outcomes.complete(connection, run_id, {claim: result_of(claim) for claim in taken})


def _keep(engine: Engine, days: int = 90) -> tuple[int, int]:
    with engine.begin() as connection:
        made = retention.make_partitions(connection, retention.PAIRS)
        old = timedelta(days=days)
        return made, retention.drop_partitions(connection, retention.PAIRS, older_than=old)


class TestFinding:
    def test_takes_those_that_have_every_pair_newest_first(self, engine: Engine) -> None:
        both, order, page, _, again = submitted(
            engine,
            _named(order="42", page="1"),
            _named(order="42"),
            _named(page="1"),
            new_job(),
            _named(page="1", order="42", more="x"),
        )
        assert _found(engine, {"order": "42"}) == [again, order, both]
        assert _found(engine, {"order": "42", "page": "1"}) == [again, both]
        assert _found(engine, {"page": "1"}, limit=2) == [again, page]
        assert _found(engine, {"page": "1"}, before=page) == [both]
        assert _found(engine, {"order": "4"}) == []

    def test_takes_one_tenants_jobs(self, engine: Engine) -> None:
        mine, _ = submitted(engine, _named(order="42"), _named(tenant="zoo", order="42"))
        assert _found(engine, {"order": "42"}) == [mine]
        assert _found(engine, {"order": "42"}, tenant="acme") == []
        with pytest.raises(InvalidParameter, match="within one tenant"):
            _found(engine, {"order": "42"}, tenant=None)

    def test_goes_on_in_the_history_and_by_state(self, engine: Engine) -> None:
        done, _ = submitted(engine, _named(order="42"), new_job())
        _end_all(engine)
        with engine.begin() as connection:
            history.move(connection, age=timedelta(0))
        (waiting,) = submitted(engine, _named(order="42"))
        assert _found(engine, {"order": "42"}) == [waiting, done]
        assert _found(engine, {"order": "42"}, states=[JobState.SUCCEEDED]) == [done]
        assert _found(engine, {"order": "42"}, states=[JobState.QUEUED]) == [waiting]

    def test_a_job_that_comes_back_is_found_once(self, engine: Engine) -> None:
        (job_id,) = submitted(engine, _named(order="42"))
        with engine.begin() as connection:
            requests.cancel(connection, [job_id])
            history.move(connection, age=timedelta(0))
            assert history.bring_back(connection, [job_id], states=[JobState.CANCELLED])
        assert _found(engine, {"order": "42"}) == [job_id]

    def test_tells_long_values_apart(self, engine: Engine) -> None:
        one, other = submitted(engine, _named(path="a" * 200), _named(path="a" * 199 + "b"))
        assert _found(engine, {"path": "a" * 200}) == [one]
        assert _found(engine, {"path": "a" * 199 + "b"}) == [other]

    def test_takes_the_longest_pairs_that_are_accepted(self, engine: Engine) -> None:
        """An entry of an index has a limit, and characters of four bytes do not compress."""
        letters = [chr(0x20000 + n * 37 % 40000) for n in range(512)]
        names = ["".join(letters[n : n + 63]) + str(n % 10) for n in range(16)]
        metadata = {name: "".join(letters[n:] + letters[:n]) for n, name in enumerate(names)}
        (job_id,) = submitted(engine, new_job(tenant="".join(letters[:64]), metadata=metadata))
        for pair in metadata.items():
            assert _found(engine, dict([pair]), tenant="".join(letters[:64])) == [job_id]


class TestKeeping:
    def test_a_migrated_database_has_this_week_and_the_next_ones(self, engine: Engine) -> None:
        submitted(engine, _named(order="42"))
        assert (_scalar(engine, _COUNT), _scalar(engine, _OF_DEFAULT)) == (1, 0)
        monday = datetime.now(UTC) - timedelta(days=datetime.now(UTC).weekday())
        with engine.connect() as connection:
            made = list(connection.execute(_PARTITIONS).scalars())
        weeks = [monday + timedelta(weeks=n) for n in range(1 + retention.PAIRS.ahead)]
        assert made == [f"pairs_{week:%Y%m%d}" for week in weeks]

        with engine.begin() as connection:
            for name in made:
                connection.execute(text(f"DROP TABLE {name}"))
        assert _keep(engine) == (len(made), 0)
        submitted(engine, _named(order="42"))
        assert _scalar(engine, _OF_DEFAULT) == 0

    @pytest.mark.parametrize("partition", [True, False])
    def test_pairs_stay_until_the_last_job_of_their_week_is_gone(
        self, engine: Engine, *, partition: bool
    ) -> None:
        if partition:
            with engine.begin() as connection:
                connection.execute(_OLD_WEEK)
        (job_id,) = submitted(engine, _named(order="42"))
        with engine.begin() as connection:
            connection.execute(_DATE_BACK, {"old": _OLD_ID, "id": job_id})
        assert _scalar(engine, _OF_DEFAULT) == int(not partition)

        assert _keep(engine) == (0, 0)
        _end_all(engine)
        with engine.begin() as connection:
            history.move(connection, age=timedelta(0))
        assert _keep(engine) == (0, 0)
        assert _found(engine, {"order": "42"}) == [_OLD_ID]

        with engine.begin() as connection:
            connection.execute(_FORGET)
        assert _keep(engine) == (0, int(partition))
        assert _scalar(engine, _COUNT) == 0
