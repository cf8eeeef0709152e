"""Many items in one call: each is answered, written once, and no fault of one is another's."""

import threading
from collections import Counter
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from tests.house import House, eventually
from tests.pictures import encoded
from tests.rivals import locked_out, rivals

from twofold_producer.producer import Producer
from twofold_producer.submit.acceptance import Acceptance
from twofold_producer.submit.bulk import Tally, in_turn, overlapping
from twofold_producer.submit.chunks import Chunk, gather
from twofold_producer.submit.request import JobRequest
from twofold_producer.submit.submission import Answer, Outcome
from twofold_producer.submit.writing import Writing
from twofold_schema.errors import (
    InvalidParameter,
    KeyReused,
    PlaceNotAllowed,
    QueueFull,
    StorageUnavailable,
    SubmissionSealed,
    SubmitError,
)
from twofold_schema.ids import new_id
from twofold_schema.ledger import rights, submit
from twofold_schema.ledger.new_jobs import Written
from twofold_schema.settings import (
    BrokerSettings,
    DatabaseSettings,
    LimitSettings,
    StorageSettings,
)
from twofold_schema.storage.places import OpenPlaces
from twofold_schema.tenant_places import TenantPlaces

_ROWS_OF = text("""
    SELECT right(key, 1) AS key, (parameters ->> 'steps')::integer AS steps
    FROM jobs WHERE source = :source ORDER BY id
""")
_KEYS_END = text("UPDATE submission_keys SET expires_at = clock_timestamp()")
_END = text("SELECT pg_terminate_backend(:pid, 10000)")


def fields(bucket: str, number: int, **more: Any) -> dict[str, Any]:
    """A good item with a key, as its fields."""
    return {"source": f"s3://{bucket}/{number}.png", "key": str(number)} | more


def requests(bucket: str, count: int, **more: Any) -> list[JobRequest]:
    return [JobRequest(**fields(bucket, number, **more)) for number in range(count)]


def keys_of(house: House) -> list[str]:
    """The keys of all committed jobs, in the order of their ids."""
    return [row["key"] for row in house.rows("SELECT key FROM jobs ORDER BY id")]


def open_submissions(house: House) -> int:
    rows = house.rows("SELECT count(*) AS n FROM submissions WHERE sealed_at IS NULL")
    return int(rows[0]["n"])


@contextmanager
def at_commits(
    producer: Producer, numbers: Container[int], act: Callable[[Connection], None]
) -> Iterator[None]:
    """Do something just before some of the producer's next commits, counted from 0."""
    commits = count()

    def on_commit(connection: Connection) -> None:
        if next(commits) in numbers:
            act(connection)

    event.listen(producer._engine, "commit", on_commit)
    try:
        yield
    finally:
        event.remove(producer._engine, "commit", on_commit)


def ends_its_server(house: House, *, committed: bool) -> Callable[[Connection], None]:
    """What ends a connection's server process before its commit, or before the reply to it."""

    def end(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        if committed:
            driver.commit()
        with house.engine.connect() as other:
            assert other.execute(_END, {"pid": driver.info.backend_pid}).scalar_one()

    return end


def rows_of(connection: Connection, table: str) -> bytes:
    """All that a table shows to a connection, as COPY writes it."""
    driver: Any = connection.connection.driver_connection
    with driver.cursor().copy(f"COPY {table} TO STDOUT") as copy:
        return b"".join(copy)


def write_new(connection: Connection, table: str, rows: bytes) -> None:
    """Write such rows, but for those that are there."""
    driver: Any = connection.connection.driver_connection
    cursor = driver.cursor()
    cursor.execute(f"CREATE TEMPORARY TABLE copied_{table} (LIKE {table}) ON COMMIT DROP")
    with cursor.copy(f"COPY copied_{table} FROM STDIN") as copy:
        copy.write(rows)
    cursor.execute(f"INSERT INTO {table} SELECT * FROM copied_{table} ON CONFLICT DO NOTHING")


class TestAnswers:
    def test_each_item_is_answered_in_order_and_faults_stop_nobody(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        taken = producer.submit(fields(bucket, 1)["source"], key="1").job_id
        producer.submit("s3://" + bucket + "/other.png", key="2")
        items: list[Any] = [
            fields(bucket, 0),
            JobRequest(**fields(bucket, 1)),
            JobRequest(**fields(bucket, 2)),
            fields(bucket, 3, width=0, height=1),
            "s3://closed/4.png",
            fields(bucket, 5, tags="cats"),
            fields(bucket, 0),
            fields(bucket, 0, steps=3),
            f"s3://{bucket}/8.png",
            17,
        ]
        answers: list[Answer] = []

        submission = producer.submit_many(items, on_answers=answers.extend)

        assert [(a.position, a.key, a.outcome, a.code) for a in answers] == [
            (0, "0", "created", None),
            (1, "1", "existing", None),
            (2, "2", "invalid", "key_reused"),
            (3, "3", "invalid", "invalid_parameter"),
            (4, None, "invalid", "place_not_allowed"),
            (5, "5", "invalid", "invalid_parameter"),
            (6, "0", "existing", None),
            (7, "0", "invalid", "key_reused"),
            (8, None, "created", None),
            (9, None, "invalid", "invalid_parameter"),
        ]
        assert "width" in (answers[3].message or "")
        assert (submission.created, submission.existing, submission.invalid) == (2, 2, 6)
        assert submission.faults == tuple(a for a in answers if a.outcome is Outcome.INVALID)
        accepted = [answer.job_id for answer in answers if answer.job_id]
        assert submission.job_ids == accepted
        assert accepted[1] == taken
        created = [a.job_id for a in answers if a.outcome is Outcome.CREATED]
        jobs = house.jobs([job_id for job_id in created if job_id])
        assert {job.submission_id for job in jobs} == {submission.id}

    def test_of_faults_a_thousand_are_kept_and_all_are_counted(self, producer: Producer) -> None:
        submission = producer.submit_many(("s3://closed/x.png" for _ in range(1500)), chunk=400)

        assert submission.invalid == 1500
        assert [fault.position for fault in submission.faults] == list(range(1000))

    def test_items_are_taken_as_they_are_written_never_all_at_once(
        self, producer: Producer, bucket: str
    ) -> None:
        """At most five chunks are being written, or wait to be, while another is gathered."""
        taken: list[int] = []
        seen: list[tuple[int, int]] = []

        def items() -> Iterator[dict[str, Any]]:
            for number in range(100):
                taken.append(number)
                yield fields(bucket, number)

        producer.submit_many(
            items(), chunk=10, on_answers=lambda some: seen.append((some[-1].position, len(taken)))
        )

        assert [position for position, _ in seen] == list(range(9, 100, 10))
        assert all(count <= position + 61 for position, count in seen)

    def test_what_is_said_was_committed(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        def look(some: Any) -> None:
            assert len(house.jobs([answer.job_id for answer in some])) == len(some)

        producer.submit_many(requests(bucket, 30), chunk=10, on_answers=look)


class TestSideBySide:
    """Chunks over several connections tell nobody that they were."""

    def test_of_items_with_one_key_the_first_has_it_wherever_they_are(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        items = [
            fields(bucket, number, key=str(number % 30), steps=1 + number // 30)
            for number in range(90)
        ]
        answers: list[Answer] = []
        submission = producer.submit_many(items, chunk=10, on_answers=answers.extend)

        assert (submission.created, submission.existing, submission.invalid) == (30, 0, 60)
        assert [answer.position for answer in answers] == list(range(90))
        assert {answer.code for answer in answers[30:]} == {"key_reused"}
        assert {job.parameters.steps for job in house.jobs(submission.job_ids)} == {1}

    @pytest.mark.parametrize("faults", [0, 10])
    def test_a_quota_is_kept_to_the_chunk(
        self, house: House, producer: Producer, bucket: str, *, faults: int
    ) -> None:
        """Also where the first chunk holds no job, by which it would be known."""
        with house.engine.begin() as connection:
            rights.set_rights(connection, "acme", reason="test", who="test", max_queued=55)
        items = ["s3://closed/x.png"] * faults + requests(bucket, 200)
        with pytest.raises(QueueFull):
            producer.submit_many(items, tenant="acme", chunk=10)

        assert keys_of(house) == [str(number) for number in range(50)]


class TestEnding:
    """Calls that end half way, and are made again."""

    def test_what_an_iterable_raises_leaves_whole_chunks_and_the_submission_open(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        def broken() -> Iterator[dict[str, Any]]:
            yield from (fields(bucket, number) for number in range(25))
            raise LookupError

        answers: list[Answer] = []
        with pytest.raises(LookupError):
            producer.submit_many(broken(), chunk=10, key="album", on_answers=answers.extend)

        assert keys_of(house) == [str(number) for number in range(20)]
        assert [answer.key for answer in answers] == keys_of(house)
        assert open_submissions(house) == 1

        again = producer.submit_many(requests(bucket, 30), chunk=7, key="album")

        assert (again.created, again.existing, again.invalid) == (10, 20, 0)
        assert keys_of(house) == [str(number) for number in range(30)]
        assert open_submissions(house) == 0
        assert {job.submission_id for job in house.jobs(again.job_ids)} == {again.id}

    def test_strict_raises_at_the_first_fault_and_leaves_the_submission_open(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        producer.submit(f"s3://{bucket}/0.png", key="taken")
        for bad, error in (
            ("s3://closed/x.png", PlaceNotAllowed),
            (fields(bucket, 7, key="taken"), KeyReused),
        ):
            items = [*requests(bucket, 15), bad, *requests(bucket, 3, key=None)]
            with pytest.raises(error) as raised:
                producer.submit_many(items, strict=True, chunk=10)
            assert any("item 15" in note for note in raised.value.__notes__)
            assert keys_of(house) == ["taken", *(str(number) for number in range(10))]
            assert open_submissions(house) == len(house.rows("SELECT FROM submissions"))

    def test_strict_with_a_fault_in_the_first_chunk_writes_nothing(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        with pytest.raises(PlaceNotAllowed):
            producer.submit_many([*requests(bucket, 3), "s3://closed/x.png"], strict=True)

        assert keys_of(house) == []
        assert house.rows("SELECT FROM submissions") == []

    def test_storage_that_is_away_ends_the_call_and_is_no_fault_of_an_item(
        self, house: House, bucket: str
    ) -> None:
        environment = house.environment | {
            "TWOFOLD_S3_ENDPOINT_URL": "http://127.0.0.1:9",
            "TWOFOLD_S3_ATTEMPTS": "1",
        }
        far = Producer(
            database_settings=DatabaseSettings.load(environment),
            broker=BrokerSettings.load(environment),
            storage=StorageSettings.load(environment),
            limits=LimitSettings.load(environment),
        )
        with far, pytest.raises(StorageUnavailable):
            far.submit_many([f"s3://{bucket}/0.png", encoded()])

        assert keys_of(house) == []

    @pytest.mark.parametrize("committed", [True, False])
    @pytest.mark.parametrize("keyed", [True, False])
    @pytest.mark.parametrize("commit", [0, 1, 3])
    def test_a_chunk_whose_connection_is_lost_is_written_once(
        self,
        house: House,
        producer: Producer,
        bucket: str,
        *,
        committed: bool,
        keyed: bool,
        commit: int,
    ) -> None:
        """Before its commit or before the reply to it; be it the first, or the one that seals."""
        items = requests(bucket, 30) if keyed else requests(bucket, 30, key=None)

        with at_commits(producer, {commit}, ends_its_server(house, committed=committed)):
            submission = producer.submit_many(items, chunk=10)

        assert (submission.created, submission.existing) == (30, 0)
        jobs = house.jobs(submission.job_ids)
        assert [job.source for job in jobs] == [request.source for request in items]
        assert len(house.rows("SELECT FROM jobs")) == 30
        assert open_submissions(house) == 0
        assert len(house.rows("SELECT FROM submissions")) == 1

    @pytest.mark.parametrize("keyed", [True, False])
    def test_a_chunk_whose_commit_goes_on_without_its_connection_is_written_once(
        self, house: House, producer: Producer, bucket: str, *, keyed: bool
    ) -> None:
        """It ends when it has been looked for, and is being written once more."""
        items = requests(bucket, 20) if keyed else requests(bucket, 20, key=None)
        with house.engine.connect() as late, ThreadPoolExecutor(1) as pool:
            late.begin()

            def lose(connection: Connection) -> None:
                written = {table: rows_of(connection, table) for table in ("job_keys", "jobs")}
                ends_its_server(house, committed=False)(connection)
                for table, rows in written.items():
                    write_new(late, table, rows)

            with at_commits(producer, {1}, lose):
                submitting = pool.submit(producer.submit_many, items, chunk=10)
                eventually(lambda: locked_out(house.engine) or submitting.done())
                late.commit()
                submission = submitting.result(60)

        assert (submission.created, submission.existing) == (20, 0)
        jobs = house.jobs(submission.job_ids)
        assert [job.source for job in jobs] == [request.source for request in items]
        assert len(house.rows("SELECT FROM jobs")) == 20

    def test_a_database_that_stays_away_leaves_whole_chunks(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        lost = at_commits(producer, range(1, 100), ends_its_server(house, committed=False))
        with lost, pytest.raises(DBAPIError):
            producer.submit_many(requests(bucket, 30), chunk=10)

        assert keys_of(house) == [str(number) for number in range(10)]

        again = producer.submit_many(requests(bucket, 30), chunk=10)

        assert (again.created, again.existing) == (20, 10)


class TestTogether:
    """Several calls at once."""

    def test_of_two_calls_with_the_same_items_each_job_is_created_once(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        ready = threading.Barrier(2)

        def run(_: int) -> Counter[str]:
            ready.wait()
            counted: Counter[str] = Counter()
            producer.submit_many(
                requests(bucket, 600),
                key="album",
                chunk=50,
                on_answers=lambda some: counted.update(answer.outcome for answer in some),
            )
            return counted

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(run, range(2))

        assert first + second == Counter(created=600, existing=600)
        assert sorted(keys_of(house), key=int) == [str(number) for number in range(600)]
        (row,) = house.rows("SELECT sealed_at FROM submissions")
        assert row["sealed_at"] is not None

    @pytest.mark.parametrize("commit", [True, False])
    def test_a_key_held_by_a_transaction_still_open_is_waited_for(
        self, house: House, producer: Producer, bucket: str, *, commit: bool
    ) -> None:
        (held, *_) = many = requests(bucket, 100)
        new_job = producer._acceptance.accept(held)
        answers: list[Answer] = []
        with rivals(house.engine) as rival, house.engine.connect() as connection:
            (mine,) = submit.insert_jobs(connection, [new_job])

            def call(other: Connection) -> None:
                with Session(other) as session:
                    producer.submit_many(many, session=session, on_answers=answers.extend)
                    session.commit()

            waiting = rival(call)
            assert waiting.blocked
            assert answers == []
            (connection.commit if commit else connection.rollback)()
            waiting.answer()

        assert (answers[0].job_id == mine.job_id) is commit
        assert [answer.outcome for answer in answers] == [
            Outcome.EXISTING if commit else Outcome.CREATED,
            *[Outcome.CREATED] * 99,
        ]


class TestKeyOfASubmission:
    def test_goes_on_with_the_same_submission_until_it_is_sealed(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        first = producer.submit_many(requests(bucket, 3), key="album")

        again = producer.submit_many(requests(bucket, 3), key="album")

        assert again.id == first.id
        assert (again.created, again.existing) == (0, 3)
        assert again.job_ids == first.job_ids
        for more in (requests(bucket, 4), requests(bucket, 1, key=None)):
            with pytest.raises(SubmissionSealed, match=str(first.id)):
                producer.submit_many(more, key="album")
        assert len(keys_of(house)) == 3

    @pytest.mark.parametrize("key", ["", "x" * 201, "a\0b", "\ud800"])
    def test_is_a_text_of_1_to_200_characters(self, producer: Producer, key: str) -> None:
        with pytest.raises(InvalidParameter, match="key: "):
            producer.submit_many([], key=key)

    def test_is_free_again_once_it_is_forgotten(self, house: House, producer: Producer) -> None:
        first = producer.submit_many([], key="album")
        with house.engine.begin() as connection:
            connection.execute(_KEYS_END)

        assert producer.submit_many([], key="album").id != first.id

    def test_a_submission_says_how_far_it_is(self, producer: Producer, bucket: str) -> None:
        submission = producer.submit_many(requests(bucket, 3), key="album")
        producer.cancel(submission.job_ids[0])

        report = producer.submission(submission.id)

        assert (report.id, report.key, report.generation) == (submission.id, "album", 1)
        assert report.counts == {"queued": 2, "cancelled": 1}
        assert (report.total, report.unfinished) == (3, 2)
        assert report.sealed_at is not None
        assert (report.finished_at, report.results, report.errors) == (None, None, None)


class TestSession:
    """All chunks in the caller's own transaction."""

    def test_all_chunks_come_with_the_commit_or_go_with_the_rollback(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        with Session(house.engine) as session:
            producer.submit_many(requests(bucket, 30), chunk=10, session=session)
            assert keys_of(house) == []
            session.rollback()
            assert keys_of(house) == []
            producer.submit_many(requests(bucket, 30), chunk=10, session=session)
            session.commit()

        assert keys_of(house) == [str(number) for number in range(30)]
        assert open_submissions(house) == 0

    def test_items_may_be_read_in_the_same_session(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        """Nothing is under way on its connection while an item is taken."""
        with Session(house.engine) as session:

            def items() -> Iterator[dict[str, Any]]:
                for number in range(25):
                    read = session.execute(text("SELECT :number"), {"number": number})
                    yield fields(bucket, int(read.scalar_one()))

            submission = producer.submit_many(items(), chunk=10, session=session)
            session.commit()

        assert submission.created == 25

    @pytest.mark.parametrize("keyed", [True, False])
    def test_strict_takes_everything_back_and_leaves_the_transaction_usable(
        self, house: House, producer: Producer, bucket: str, *, keyed: bool
    ) -> None:
        producer.submit(f"s3://{bucket}/0.png", key="taken")
        bad = fields(bucket, 7, key="taken") if keyed else {"source": "s3://closed/x.png"}
        with Session(house.engine) as session:
            kept = producer.submit(f"s3://{bucket}/kept.png", key="kept", session=session)
            with pytest.raises((KeyReused, PlaceNotAllowed)):
                producer.submit_many(
                    [*requests(bucket, 25), bad], strict=True, chunk=10, session=session
                )
            session.commit()

        assert keys_of(house) == ["taken", "kept"]
        assert house.jobs([kept.job_id])
        assert house.rows("SELECT FROM submissions") == []


@pytest.mark.parametrize("one", ["s3://twofold/cat.png", b"bytes", {"source": "s3://twofold/a"}])
def test_one_item_is_not_several(producer: Producer, one: Any) -> None:
    with pytest.raises(InvalidParameter, match="several"):
        producer.submit_many(one)


Keys = st.none() | st.sampled_from("abcde")
#: Good ones that differ in their payload, and bad ones.
Payloads = st.sampled_from([1, 2, 3, 0, 500])
Items = st.lists(st.tuples(Keys, Payloads), max_size=12)


def anywhere(tenant: str) -> TenantPlaces:
    return TenantPlaces(tenant=tenant)


def submitted_alone(engine: Engine, acceptance: Acceptance, item: dict[str, Any]) -> str:
    """What came of an item that was submitted alone."""
    try:
        new_job = acceptance.accept(JobRequest.of_fields(item))
        with engine.begin() as connection:
            (accepted,) = submit.insert_jobs(connection, [new_job])
    except SubmitError as error:
        return error.code
    return "created" if accepted.created else "existing"


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example has its own keys
)
@given(before=Items, items=Items, chunk=st.integers(1, 13), overlap=st.booleans())
def test_any_mix_over_any_chunks_is_the_same_as_one_at_a_time(
    engine: Engine,
    before: list[tuple[str | None, int]],
    items: list[tuple[str | None, int]],
    chunk: int,
    *,
    overlap: bool,
) -> None:
    places = StorageSettings()
    acceptance = Acceptance(OpenPlaces(places), places, LimitSettings(max_steps=100), anywhere)

    def together(asked: list[dict[str, Any]]) -> list[str]:
        answers: list[Answer] = []
        writing = Writing(None, tenant="default", remember=timedelta(days=1), strict=False)

        def write(one: Chunk) -> Written:
            with engine.begin() as connection:
                return writing.write(connection, one, alone=True)

        chunks = gather(asked, acceptance.accept, strict=False, most=chunk)
        (overlapping if overlap else in_turn)(chunks, write, Tally(answers.extend))
        assert [answer.position for answer in answers] == list(range(len(asked)))
        assert [answer.key for answer in answers] == [item["key"] for item in asked]
        return [answer.code or answer.outcome for answer in answers]

    def alone(asked: list[dict[str, Any]]) -> list[str]:
        return [submitted_alone(engine, acceptance, item) for item in asked]

    seen = []
    for submitted in (alone, together):
        mark = new_id().hex
        source = f"s3://twofold/{mark}.png"
        old, asked = (
            [{"source": source, "key": key and mark + key, "steps": steps} for key, steps in some]
            for some in (before, items)
        )
        alone(old)
        outcomes = submitted(asked)
        with engine.connect() as connection:
            rows = connection.execute(_ROWS_OF, {"source": source})
            seen.append((outcomes, [tuple(row) for row in rows]))
    assert seen[0] == seen[1]
