"""`twofold db check` finds what does not agree, repairs tallies, and touches nothing else."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text
from tests.factories import begun, claimed, new_job, result_of, submitted
from tests.rivals import rivals
from typer.testing import CliRunner, Result

from twofold_producer.cli.app import app
from twofold_schema.errors import DatabaseUnavailable
from twofold_schema.ledger import history, outcomes, submissions, submit, sweeps, tallies
from twofold_schema.settings import DatabaseSettings
from twofold_schema.states import JobClass

Check = Callable[..., Result]

_NAMES = ("tallies", "runs", "submissions", "keys", "events", "transitions", "stream")

#: What breaks each promise, the check that sees it, and what it says.
_BREAK = [
    (
        "tallies",
        "DELETE FROM tally_changes WHERE state = 'running'",
        "1 tallies are not what a count says: default/standard/running by +1 jobs.",
    ),
    ("runs", "DELETE FROM runs", "1 running jobs name a run that does not exist: {running}."),
    (
        "submissions",
        """
        UPDATE submissions
        SET sealed_at = now(), results = '', errors = '', counts = '{}', finished_at = now()
        """,
        "1 submissions have ended, but not all of their jobs: {submission}.",
    ),
    (
        "keys",
        "UPDATE job_keys SET job_id = gen_random_uuid()",
        "1 keys name a job that does not exist: default/cat.",
    ),
    (
        "events",
        "DELETE FROM events WHERE state = 'running'",
        "1 jobs are not as their events tell: {running}.",
    ),
    (
        "events",
        "UPDATE events SET left_state = 'scheduled' WHERE state = 'running'",
        "1 jobs are not as their events tell: {running}.",
    ),
    (
        "transitions",
        "UPDATE events SET left_state = 'running', state = 'running' WHERE state = 'running'",
        "1 changes of state are not allowed: running -> running.",
    ),
    (
        "stream",
        "UPDATE events SET xid = xid + 1000000 WHERE state = 'running'",
        "1 events were restored from another server and hold the stream up: {running}.",
    ),
]


@pytest.fixture
def check(database_settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch) -> Check:
    url = database_settings.database_url.get_secret_value()
    monkeypatch.setenv("TWOFOLD_DATABASE_URL", url)

    def run(*options: str) -> Result:
        return CliRunner().invoke(app, ["db", "check", *options])

    return run


@pytest.fixture
def ids(engine: Engine) -> dict[str, str]:
    """One job of a submission with a key, and a running one."""
    (running,) = submitted(engine, new_job(job_class=JobClass.INTERACTIVE))
    claimed(engine, begun(engine))
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET job_class = 1"))
        submission = submissions.begin(connection)
        submit.insert_jobs(connection, [new_job(key="cat")], submission_id=submission)
    return {"running": str(running), "submission": str(submission)}


def _found(ended: Result) -> dict[str, dict[str, Any]]:
    return {finding["check"]: finding for finding in json.loads(ended.stdout)}


def test_says_that_all_is_well(engine: Engine, check: Check) -> None:
    submitted(engine, *[new_job()] * 3)
    run_id = begun(engine)
    taken = claimed(engine, run_id, limit=2)
    with engine.begin() as connection:
        outcomes.complete(connection, run_id, {taken[0]: result_of(taken[0])})
        tallies.fold(connection)

    ended = check()

    assert ended.exit_code == 0
    lines = ended.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in _NAMES]
    assert "7 ok, 0 warning, 0 failed" in ended.stderr


def test_a_key_names_its_job_in_the_history_too(engine: Engine, check: Check) -> None:
    with engine.begin() as connection:
        submission = submissions.begin(connection)
        submit.insert_jobs(connection, [new_job(key="cat")], submission_id=submission)
    run_id = begun(engine)
    (taken,) = claimed(engine, run_id)
    with engine.begin() as connection:
        outcomes.complete(connection, run_id, {taken: result_of(taken)})
    with engine.begin() as connection:
        assert history.move(connection, age=timedelta(0)) == 1

    assert _found(check("-o", "json"))["keys"]["status"] == "ok"


def test_an_empty_database_is_well(check: Check) -> None:
    assert check().exit_code == 0


@pytest.mark.parametrize(("name", "harm", "what"), _BREAK)
def test_finds_what_does_not_agree(
    engine: Engine, check: Check, ids: dict[str, str], name: str, harm: str, what: str
) -> None:
    with engine.begin() as connection:
        connection.execute(text(harm))

    ended = check("--output", "json")

    finding = _found(ended)[name]
    assert finding["what"] == what.format(**ids)
    assert finding["mend"]
    assert finding["status"] == ("warning" if name == "keys" else "failed")
    assert ended.exit_code == (0 if name == "keys" else 1)


def test_repairs_tallies_and_nothing_else(
    engine: Engine, check: Check, ids: dict[str, str]
) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM tally_changes; DELETE FROM runs"))
        connection.execute(text("INSERT INTO tallies VALUES ('zoo', 0, 'failed', 3, 1000000, 2)"))

    ended = check("--repair", "-o", "json")

    assert "3 tallies corrected" in ended.stderr
    assert ended.exit_code == 1
    found = _found(ended)
    assert (found["tallies"]["status"], found["runs"]["status"]) == ("ok", "failed")
    with engine.connect() as connection:
        assert {tally.state: tally.jobs for tally in tallies.overview(connection)} == {
            "queued": 1,
            "running": 1,
        }
    assert "0 tallies corrected" in check("--repair").stderr


def test_two_repairs_do_not_both_add_what_is_missing(engine: Engine, check: Check) -> None:
    with engine.begin() as connection:
        assert sweeps.try_duty(connection, "correct_tallies")
        ended = check("--repair")
    assert isinstance(ended.exception, DatabaseUnavailable)


def test_a_repair_is_right_whatever_is_written_and_folded_meanwhile(engine: Engine) -> None:
    submitted(engine, new_job(), new_job())
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM tally_changes"))
    with rivals(engine) as rival, engine.begin() as connection:
        submit.insert_jobs(connection, [new_job()])
        assert rival(tallies.correct).answer() == 1
        assert rival(tallies.fold).answer() == 1
    with engine.connect() as connection:
        assert [tally.jobs for tally in tallies.overview(connection)] == [3]
        assert tallies.differences(connection) == []
