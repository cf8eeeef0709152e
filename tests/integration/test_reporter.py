"""The end of a submission: once per generation, its manifests first."""

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from tests.factories import (
    FUTURE,
    PAST,
    begun,
    claimed,
    new_job,
    result_of,
)
from tests.house import House, eventually
from tests.plans import rows_read, settle

from twofold_producer.keeper.reporter import Reporter
from twofold_schema.artifacts import ArtifactUri, manifest_place
from twofold_schema.database import read_in_order
from twofold_schema.errors import CorruptSource, StorageUnavailable
from twofold_schema.ids import new_id
from twofold_schema.ledger import generations, outcomes, requests, submissions, submit, sweeps
from twofold_schema.ledger.new_jobs import NewJob
from twofold_schema.storage.directory import DirectoryStorage
from twofold_schema.storage.port import Storage
from twofold_schema.submission import SubmissionReport

_AGE = text("UPDATE jobs SET created_at = created_at - :age")
_AGE_SUBMISSIONS = text("UPDATE submissions SET created_at = created_at - :age")
DAY = timedelta(days=1)


class Desk:
    """A database and a folder, and reporters over them."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.storage = DirectoryStorage(folder)
        self.results = ArtifactUri.of_file(folder / "results")

    def reporter(self, storage: Storage | None = None) -> Reporter:
        return Reporter(self.engine, storage or self.storage, self.results)

    def submit(self, *new_jobs: NewJob, sealed: bool = True) -> tuple[UUID, list[UUID]]:
        """A submission's id, and those of its jobs."""
        with self.engine.begin() as connection:
            submission_id = submissions.begin(connection)
            answers = submit.insert_jobs(connection, new_jobs, submission_id=submission_id)
            if sealed:
                submissions.seal(connection, submission_id)
        return submission_id, [answer.job_id for answer in answers]

    def finish_jobs(self) -> None:
        """Let all queued jobs succeed."""
        run_id = begun(self.engine)
        held = claimed(self.engine, run_id)
        with self.engine.begin() as connection:
            outcomes.complete(connection, run_id, {claim: result_of(claim) for claim in held})

    def fail_jobs(self) -> None:
        """Let all queued jobs fail."""
        run_id = begun(self.engine)
        held = claimed(self.engine, run_id)
        with self.engine.begin() as connection:
            outcomes.fail(connection, run_id, dict.fromkeys(held, CorruptSource()))

    def report(self, submission_id: UUID) -> SubmissionReport:
        with self.engine.connect() as connection:
            return submissions.report(connection, submission_id)

    def lines(self, uri: str | None) -> list[dict[str, Any]]:
        """A manifest's."""
        assert uri is not None
        data = self.storage.read(ArtifactUri.parse(uri), max_bytes=10**7).data
        return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
def desk(engine: Engine, tmp_path: Path) -> Desk:
    return Desk(engine, tmp_path)


class Wrapped:
    """A store of which one verb is done by the test."""

    def __init__(self, storage: Storage, **verbs: Callable[..., object]) -> None:
        self._storage = storage
        self._verbs = verbs

    def __getattr__(self, name: str) -> Any:
        return self._verbs.get(name) or getattr(self._storage, name)


def test_says_of_every_job_what_came_of_it_in_the_order_of_submitting(desk: Desk) -> None:
    submission_id, (first, second, third, fourth) = desk.submit(
        new_job(key="a", metadata={"album": "ü"}),
        new_job(key="b", finish_by=PAST),
        new_job(key="c"),
        new_job(),
    )
    desk.submit(new_job(key="other's"), sealed=False)
    with desk.engine.begin() as connection:
        sweeps.expire(connection)
        requests.cancel(connection, [third])
        run_id = begun(desk.engine)
    (claim, failing) = claimed(desk.engine, run_id, limit=2)
    with desk.engine.begin() as connection:
        outcomes.complete(connection, run_id, {claim: result_of(claim)})
        outcomes.fail(connection, run_id, {failing: CorruptSource("Cut short.")})

    assert desk.reporter().report() == 1

    report = desk.report(submission_id)
    assert report.finished_at is not None
    assert report.counts == {"succeeded": 1, "expired": 1, "cancelled": 1, "failed": 1}
    (result,) = desk.lines(report.results)
    assert (result["job_id"], result["key"], result["state"]) == (str(first), "a", "succeeded")
    assert result["metadata"] == {"album": "ü"}
    assert result["uri"] == result_of(claim).uri
    assert {"sha256", "size_bytes", "width", "height", "seed"} <= set(result)
    errors = desk.lines(report.errors)
    assert [(line["job_id"], line["key"], line["state"], line["code"]) for line in errors] == [
        (str(second), "b", "expired", None),
        (str(third), "c", "cancelled", None),
        (str(fourth), None, "failed", "corrupt_source"),
    ]
    assert errors[2]["message"] == "Cut short."


def test_an_open_submission_and_one_at_work_have_no_end(desk: Desk) -> None:
    desk.submit(sealed=False)
    desk.submit(new_job(start_at=FUTURE))
    submission_id, _ = desk.submit(new_job())
    reporter = desk.reporter()
    assert reporter.report() == 0
    assert reporter.report() == 0

    desk.finish_jobs()

    assert reporter.report() == 1
    assert reporter.report() == 0
    assert desk.report(submission_id).counts == {"succeeded": 1}


def test_an_empty_submission_ends_with_empty_manifests(desk: Desk) -> None:
    submission_id, _ = desk.submit()

    assert desk.reporter().report() == 1

    report = desk.report(submission_id)
    assert (report.total, report.counts) == (0, {})
    assert desk.lines(report.results) == desk.lines(report.errors) == []


@pytest.mark.parametrize("again", [True, False])
def test_jobs_are_looked_at_page_by_page(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    """From the one that was waited for, by who was there before; from the first, by another."""
    monkeypatch.setattr("twofold_producer.keeper.reporter._JOBS_PER_PAGE", 3)
    submission_id, job_ids = desk.submit(*[new_job(key=str(number)) for number in range(10)])
    reporter = desk.reporter()
    run_id = begun(desk.engine)
    for _ in range(5):
        held = claimed(desk.engine, run_id, limit=2)
        with desk.engine.begin() as connection:
            assert reporter.report() == 0
            outcomes.complete(connection, run_id, {claim: result_of(claim) for claim in held})

    assert (reporter if again else desk.reporter()).report() == 1

    lines = desk.lines(desk.report(submission_id).results)
    assert [line["job_id"] for line in lines] == [str(job_id) for job_id in job_ids]


def test_a_retry_brings_another_end_with_manifests_of_its_own(desk: Desk) -> None:
    submission_id, job_ids = desk.submit(new_job(), new_job())
    desk.fail_jobs()
    reporter = desk.reporter()
    assert reporter.report() == 1
    first = desk.report(submission_id)
    with desk.engine.begin() as connection:
        requests.retry(connection, job_ids[:1])
    assert reporter.report() == 0
    assert desk.report(submission_id).finished_at is None

    desk.finish_jobs()

    assert reporter.report() == 1
    second = desk.report(submission_id)
    assert (first.generation, second.generation) == (1, 2)
    assert second.counts == {"succeeded": 1, "failed": 1}
    assert [line["job_id"] for line in desk.lines(second.results)] == [str(job_ids[0])]
    assert [line["job_id"] for line in desk.lines(second.errors)] == [str(job_ids[1])]
    assert len(desk.lines(first.errors)) == 2


def test_a_retry_while_manifests_are_written_leaves_the_submission_open(desk: Desk) -> None:
    """What the old ones say is true of a generation that nobody will hear of."""
    submission_id, job_ids = desk.submit(new_job())
    desk.fail_jobs()

    def retry_meanwhile(*arguments: Any, **options: Any) -> None:
        desk.storage.write_once(*arguments, **options)
        with desk.engine.begin() as connection:
            if desk.report(submission_id).generation == 1:
                requests.retry(connection, job_ids)

    reporter = desk.reporter(Wrapped(desk.storage, write_once=retry_meanwhile))
    assert reporter.report() == 0
    assert desk.report(submission_id).finished_at is None
    desk.finish_jobs()

    assert reporter.report() == 1
    report = desk.report(submission_id)
    assert (report.generation, report.counts) == (2, {"succeeded": 1})


@pytest.mark.parametrize("stored", [0, 1, 2])
def test_a_keeper_that_dies_on_the_way_is_followed_by_one_that_does_it_again(
    desk: Desk, stored: int
) -> None:
    submission_id, _ = desk.submit(new_job(), new_job())
    desk.fail_jobs()
    left = [stored]

    def die(*arguments: Any, **options: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        desk.storage.write_once(*arguments, **options)
        if not left[0] and stored == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        desk.reporter(Wrapped(desk.storage, write_once=die)).report()
    assert desk.report(submission_id).finished_at is None

    assert desk.reporter().report() == 1
    assert len(desk.lines(desk.report(submission_id).errors)) == 2


def test_names_that_something_else_has_are_passed_over(desk: Desk) -> None:
    submission_id, _ = desk.submit()
    desk.storage.write_once(
        manifest_place(desk.results, submission_id, 1, "errors"),
        b"mine",
        content_type="text/plain",
        sha256="0" * 64,
        metadata={},
    )
    reporter = desk.reporter()

    assert reporter.report() == 0
    assert reporter.report() == 1
    assert desk.report(submission_id).generation == 2


def test_of_several_keepers_one_ends_it(desk: Desk) -> None:
    submission_id, _ = desk.submit(new_job())
    desk.fail_jobs()
    busy, go_on = threading.Event(), threading.Event()

    def wait(*arguments: Any, **options: Any) -> None:
        busy.set()
        assert go_on.wait(30)
        desk.storage.write_once(*arguments, **options)

    slow: list[int] = []
    reporter = desk.reporter(Wrapped(desk.storage, write_once=wait))
    thread = threading.Thread(target=lambda: slow.append(reporter.report()))
    thread.start()
    assert busy.wait(30)
    assert desk.reporter().report() == 0
    go_on.set()
    thread.join(30)

    assert slow == [1]
    assert desk.reporter().report() == 0
    assert desk.report(submission_id).generation == 1


def test_who_changes_tables_does_not_wait_for_storage(desk: Desk) -> None:
    """Else everybody waits behind him."""
    submission_id, _ = desk.submit(new_job())
    desk.fail_jobs()

    def change(*arguments: Any, **options: Any) -> None:
        with desk.engine.begin() as connection:
            connection.execute(text("LOCK TABLE jobs, history, submissions NOWAIT"))
        desk.storage.write_once(*arguments, **options)

    assert desk.reporter(Wrapped(desk.storage, write_once=change)).report() == 1
    assert desk.report(submission_id).finished_at is not None


@pytest.mark.parametrize("error", [StorageUnavailable, OSError(28, "No space left on device")])
def test_what_cannot_be_stored_now_holds_up_this_submission_only(
    desk: Desk, error: Exception
) -> None:
    first, _ = desk.submit()
    second, _ = desk.submit()

    def refuse(uri: ArtifactUri, *arguments: Any, **options: Any) -> None:
        if str(first) in str(uri):
            raise error
        desk.storage.write_once(uri, *arguments, **options)

    reporter = desk.reporter(Wrapped(desk.storage, write_once=refuse))

    assert reporter.report() == 1
    assert desk.report(second).finished_at is not None
    # It is not asked again at once.
    assert reporter.report() == 0
    assert desk.reporter().report() == 1


def test_looking_on_and_reading_on_read_no_others_jobs_and_no_more_than_a_page(
    desk: Desk,
) -> None:
    """Of one that is small among many jobs, and of one that is most of them."""
    small, _ = desk.submit(sealed=False)
    big, _ = desk.submit()
    with desk.engine.begin() as connection:
        for submission_id, jobs in ((small, 100), (big, 20_000), (small, 100)):
            many = [new_job()] * jobs
            submit.insert_jobs(connection, many, submission_id=submission_id)
    settle(desk.engine)

    for submission_id in (big, small):
        for statement in (generations._LOOK_ON, generations._JOBS):
            page = {"id": submission_id, "after": UUID(int=0), "limit": 50}
            assert rows_read(desk.engine, statement, page, first=read_in_order) == 50
    assert rows_read(desk.engine, submissions._SEAL_ABANDONED, {"age": -DAY, "rows": 1}) <= 10


class TestSealing:
    """Submissions whose producers died."""

    def test_one_to_which_nothing_was_added_for_long_is_sealed(self, desk: Desk) -> None:
        abandoned, _ = desk.submit(new_job(), sealed=False)
        empty, _ = desk.submit(sealed=False)
        with desk.engine.begin() as connection:
            connection.execute(_AGE, {"age": DAY})
            connection.execute(_AGE_SUBMISSIONS, {"age": DAY})
        fresh, _ = desk.submit(new_job(), sealed=False)

        with desk.engine.begin() as connection:
            assert submissions.seal_abandoned(connection, age=DAY) == 2

        sealed = {one: desk.report(one).sealed_at for one in (abandoned, empty, fresh)}
        assert [one for one, at in sealed.items() if at is None] == [fresh]

    def test_one_that_is_still_added_to_is_not(self, desk: Desk) -> None:
        """However old it is."""
        submission_id, _ = desk.submit(new_job(), sealed=False)
        with desk.engine.begin() as connection:
            connection.execute(_AGE, {"age": DAY})
            connection.execute(_AGE_SUBMISSIONS, {"age": DAY})
            submissions.join(connection, submission_id)
            with desk.engine.begin() as keeper:
                assert submissions.seal_abandoned(keeper, age=DAY) == 0
            submit.insert_jobs(connection, [new_job()], submission_id=submission_id)

        with desk.engine.begin() as connection:
            assert submissions.seal_abandoned(connection, age=DAY) == 0


def test_the_keeper_ends_submissions(house: House) -> None:
    producer = house.producer()
    submission = producer.submit_many([f"s3://{new_id()}/cat.png"])
    assert submission.invalid == 1
    house.keeper()

    def ended() -> SubmissionReport | None:
        report = producer.submission(submission.id)
        return report if report.finished_at else None

    report = eventually(ended, why=house.logs)
    assert report is not None
    assert report.results == (
        f"{house.environment['TWOFOLD_RESULTS']}/submissions/{submission.id}/1/results.jsonl"
    )
    assert producer.storage.read(ArtifactUri.parse(str(report.errors)), max_bytes=10).data == b""
