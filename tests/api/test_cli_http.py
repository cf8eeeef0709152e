"""The command line with an API key and no database: the same commands, the same words."""

import json
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from tests.api.conftest import Served
from tests.factories import begun, claimed, job_of, new_job, result_of, submitted
from tests.imports import imported
from tests.pictures import encoded
from tests.shell import Shell

from twofold_producer.api.follower import Follower
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import CorruptSource
from twofold_schema.ids import new_id
from twofold_schema.ledger import outcomes
from twofold_schema.settings import StorageSettings
from twofold_schema.states import JobClass, JobState
from twofold_schema.storage.places import OpenPlaces

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NOWHERE = {"TWOFOLD_URL": "http://127.0.0.1:9", "TWOFOLD_API_KEY": "tfk_x"}


@pytest.fixture
def twofold(served: Served, tmp_path: Path) -> Shell:
    return shell(served, tmp_path)


def shell(served: Served, folder: Path, tenant: str | None = "default", *scopes: str) -> Shell:
    """One with a key of its own."""
    key = served.issue(tenant, *scopes)
    return Shell({"TWOFOLD_URL": served.url, "TWOFOLD_API_KEY": key}, folder)


def ended(served: Served) -> tuple[UUID, UUID]:
    """A job that succeeded and one that failed."""
    engine = served.house.engine
    done, failed = submitted(engine, new_job(source="s3://twofold/[b].png"), new_job(key="bad"))
    run_id = begun(engine)
    claims = {claim.job_id: claim for claim in claimed(engine, run_id)}
    with engine.begin() as connection:
        outcomes.complete(connection, run_id, {claims[done]: result_of(claims[done])})
        outcomes.fail(connection, run_id, {claims[failed]: CorruptSource()})
    return done, failed


class TestBothDoors:
    def test_say_the_same_of_the_same(
        self, served: Served, twofold: Shell, tmp_path: Path, bucket: str
    ) -> None:
        """Data, hints and exit codes, to the byte."""
        database = Shell(served.house.environment, tmp_path)
        done, failed = ended(served)
        unknown = new_id()
        paused = database("pause", "--class", "bulk", "--tenant", "default", "--reason", "noon")
        queued = database(
            *("submit", f"s3://{bucket}/cat.png", "--metadata", "order=42"),
            *("--submission-key", "album", "-o", "json"),
        )
        (job,) = json.loads(queued.stdout)
        # Nobody carries it out.
        asked = ("jobs", "cancel", "--submission", job["submission_id"], "--reason", "twice")
        begun_ = database(*asked, "--tenant", "default", "--yes", "--no-wait", "-o", "json")
        operation = json.loads(begun_.stdout)
        assert [one.returncode for one in (paused, queued, begun_)] == [0, 0, 0]
        commands: Sequence[Sequence[object]] = [
            ("jobs", "list", "--limit", 2),
            ("jobs", "list", "--metadata", "order=42", "-o", "json"),
            (
                "jobs",
                "list",
                "--submission",
                job["submission_id"],
                "--before",
                unknown,
                "-o",
                "ids",
            ),
            ("jobs", "get", done, failed),
            ("jobs", "get", done, unknown, "--wait"),
            ("jobs", "get", job["id"], "--wait", "--timeout", 0.1, "-o", "ids"),
            ("jobs", "cancel", done, unknown),
            ("jobs", "retry", "--error", "corrupt_source", "--dry-run", "-o", "json"),
            ("jobs", "retry", done),
            ("submissions", "get", job["submission_id"], "-o", "json"),
        ]
        # Of operators a tenant is told less than the database tells whoever has it.
        operator = shell(served, tmp_path, None, "read")
        of_operators: Sequence[Sequence[object]] = [
            ("operations", "list", "--kind", "pause", "-o", "json"),
            ("operations", "get", operation["id"], "-o", "json"),
            ("pauses", "-o", "json"),
        ]
        for service, command in (
            *((twofold, command) for command in commands),
            *((operator, command) for command in of_operators),
        ):
            with ThreadPoolExecutor() as both:
                heard, told = both.map(
                    lambda door, asked: door(*asked), (database, service), (command, command)
                )
            assert (told.returncode, told.stdout) == (heard.returncode, heard.stdout), command
            if "wait_timeout" not in heard.stderr:
                assert told.stderr == heard.stderr, command

    def test_the_database_is_asked_where_both_are_stated(
        self, served: Served, tmp_path: Path
    ) -> None:
        (job_id,) = submitted(served.house.engine)
        both = Shell({**served.house.environment, **NOWHERE}, tmp_path)
        assert both("jobs", "list", "-o", "ids").stdout == f"{job_id}\n"

    def test_who_goes_over_http_pays_for_no_server(
        self, served: Served, tmp_path: Path, bucket: str
    ) -> None:
        """Neither the database's driver is imported, nor the broker's, the store's or Pillow."""
        (tmp_path / "cat.png").write_bytes(encoded())
        key = served.issue("default", "submit", "read")
        settings = {"TWOFOLD_URL": served.url, "TWOFOLD_API_KEY": key}
        noted = Shell(settings | {"PYTHONPROFILEIMPORTTIME": "1"}, tmp_path)
        for command in (
            ("submit", "cat.png", f"s3://{bucket}/dog.png"),
            ("jobs", "list"),
            ("operations", "list"),
        ):
            modules = imported(noted, *command)
            assert "httpx2" in modules
            assert modules & {"sqlalchemy", "psycopg", "celery", "redis", "boto3", "PIL"} == set()

    def test_none_is_named_where_neither_is_stated(self, tmp_path: Path) -> None:
        nobody = Shell({}, tmp_path)("jobs", "list")
        assert (nobody.returncode, nobody.stdout) == (2, "")
        assert "TWOFOLD_DATABASE_URL" in nobody.stderr
        assert "TWOFOLD_URL and TWOFOLD_API_KEY" in nobody.stderr.replace("\n", " ")

    @pytest.mark.parametrize(
        "command",
        [
            ["db", "migrate"],
            ["db", "check"],
            ["keeper"],
            ["api"],
            ["collect"],
            ["keys", "list"],
            ["tenants", "list"],
            ["webhooks", "list"],
        ],
    )
    def test_what_needs_the_database_says_so(self, tmp_path: Path, command: list[str]) -> None:
        told = Shell(NOWHERE | _PLACES, tmp_path)(*command)
        assert (told.returncode, told.stdout) == (2, "")
        (line,) = told.stderr.splitlines()
        assert line.endswith("not over HTTP: set TWOFOLD_DATABASE_URL.")


_PLACES = {
    "TWOFOLD_RESULTS": "s3://bucket/results",
    "TWOFOLD_UPLOADS": "s3://bucket/uploads",
    "TWOFOLD_BROKER_URL": "redis://127.0.0.1:9/0",
}


class TestSubmitting:
    def test_uploads_local_files_for_the_tenant_of_the_key(
        self, served: Served, tmp_path: Path, bucket: str
    ) -> None:
        (tmp_path / "cat.png").write_bytes(encoded())
        uri = f"s3://{bucket}/dog.png"
        acme = shell(served, tmp_path, "acme", "submit")

        told = acme("submit", "cat.png", uri, "--steps", 3, "--class", "bulk", "-o", "ids")

        assert (told.returncode, told.stderr) == (0, "")
        cat, dog = served.house.jobs([UUID(line) for line in told.stdout.splitlines()])
        assert (dog.source, dog.parameters.steps, dog.job_class) == (uri, 3, JobClass.BULK)
        assert (cat.tenant, cat.submission_id) == ("acme", dog.submission_id)
        storage = OpenPlaces(StorageSettings.load(served.house.environment))
        assert storage.read(ArtifactUri.parse(cat.source), max_bytes=10**6).data == encoded()

    def test_says_what_was_not_accepted_and_submits_the_rest(
        self, served: Served, twofold: Shell, bucket: str
    ) -> None:
        """In the words in which the database's door says it."""
        good = f"s3://{bucket}/cat.png"

        told = twofold("submit", "missing[1].png", good, "s3://closed/x.png", "-o", "ids")

        assert told.returncode == 2
        (job,) = served.house.jobs([UUID(line) for line in told.stdout.splitlines()])
        assert job.source == good
        first, second, counts = told.stderr.splitlines()
        assert first.startswith("missing[1].png: source_unreadable: ")
        assert second.startswith("s3://closed/x.png: place_not_allowed: ")
        assert "Line" not in second
        assert counts == "1 created, 0 existing, 2 invalid."

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["missing.png"], "source_unreadable"),
            (["s3://closed/x.png"], "place_not_allowed"),
            (["s3://closed/x.png", "--steps", "0"], "invalid_parameter"),
            (["a.png", "b.png", "--key", "cat"], "--key names one job"),
            (["a.png", "--tenant", "acme"], "leave --tenant out"),
            (["--manifest", "none.jsonl"], "source_unreadable"),
        ],
    )
    def test_a_refused_one_ends_with_2(
        self, served: Served, twofold: Shell, arguments: list[str], code: str
    ) -> None:
        told = twofold("submit", *arguments)

        assert (told.returncode, told.stdout) == (2, "")
        assert code in told.stderr
        assert "Traceback" not in told.stderr
        assert served.house.rows("SELECT FROM jobs") == []

    def test_the_same_again_is_the_same(self, served: Served, twofold: Shell, bucket: str) -> None:
        call = ("submit", f"s3://{bucket}/cat.png", "--key", "cat", "--submission-key", "album")

        first, again = twofold(*call), twofold(*call)

        assert (first.returncode, first.stderr) == (0, "1 created, 0 existing, 0 invalid.\n")
        assert (again.returncode, again.stderr) == (0, "0 created, 1 existing, 0 invalid.\n")
        assert len(served.house.rows("SELECT FROM submissions WHERE key = 'album'")) == 1

    def test_a_local_file_again_is_the_same_job(
        self, served: Served, twofold: Shell, tmp_path: Path
    ) -> None:
        (tmp_path / "cat.png").write_bytes(encoded())
        call = ("submit", "cat.png", "--key", "cat", "-o", "ids")

        first, again = twofold(*call), twofold(*call)
        (tmp_path / "cat.png").write_bytes(encoded(8, 8))
        other = twofold(*call)

        assert (first.returncode, again.returncode) == (0, 0), again.stderr
        assert again.stdout == first.stdout
        assert len(served.house.rows("SELECT FROM jobs")) == 1
        assert (other.returncode, "key_reused" in other.stderr) == (2, True)

    @pytest.mark.parametrize("stored", [True, False])
    def test_a_manifest_is_answered_line_by_line(
        self, twofold: Shell, tmp_path: Path, s3: "S3Client", bucket: str, *, stored: bool
    ) -> None:
        place = "m.jsonl"
        text = "\n".join(
            [
                json.dumps({"source": f"s3://{bucket}/0.png", "key": "a"}),
                "{",
                json.dumps({"source": f"s3://{bucket}/2.png", "key": "c", "steps": 0}),
                json.dumps({"source": f"s3://{bucket}/3.png", "key": "d"}),
            ]
        )
        if stored:
            place = f"s3://{bucket}/m.jsonl"
            s3.put_object(Bucket=bucket, Key="m.jsonl", Body=text.encode())
        else:
            (tmp_path / place).write_text(text, encoding="utf-8")

        told = twofold("submit", "--manifest", place, "-o", "jsonl")

        assert (told.returncode, told.stderr) == (2, "2 created, 0 existing, 2 invalid.\n")
        answers = [json.loads(line) for line in told.stdout.splitlines()]
        assert [(a["line"], a["key"], a["outcome"], a["code"]) for a in answers] == [
            (1, "a", "created", None),
            (2, None, "invalid", "invalid_parameter"),
            (3, "c", "invalid", "invalid_parameter"),
            (4, "d", "created", None),
        ]
        assert UUID(answers[0]["job_id"])


class TestWaiting:
    def test_gives_up_with_124_and_the_job_goes_on(
        self, served: Served, twofold: Shell, bucket: str
    ) -> None:
        told = twofold("submit", f"s3://{bucket}/cat.png", "--wait", "--timeout", 0.2)

        assert (told.returncode, told.stdout) == (124, "")
        assert "wait_timeout" in told.stderr
        assert [row["state"] for row in served.house.rows("SELECT state FROM jobs")] == ["queued"]

    def test_an_interrupt_ends_with_130_and_says_how_to_wait_again(
        self, served: Served, twofold: Shell, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits, wait_for_job = threading.Event(), Follower.wait_for_job

        async def noted(follower: Follower, job_id: UUID, *, seconds: float) -> None:
            waits.set()
            await wait_for_job(follower, job_id, seconds=seconds)

        monkeypatch.setattr(Follower, "wait_for_job", noted)
        with twofold.begun("submit", f"s3://{bucket}/cat.png", "--wait") as command:
            assert waits.wait(60)
            command.send_signal(signal.SIGINT)
            _, said = command.communicate(timeout=60)

        (job,) = served.house.rows("SELECT id, state FROM jobs")
        assert (command.returncode, job["state"]) == (130, "queued")
        assert f"Wait again with: twofold jobs get --wait {job['id']}\n" in said


class TestChanging:
    def test_cancels_and_retries_by_id(self, served: Served, twofold: Shell) -> None:
        done, failed = ended(served)
        (queued,) = submitted(served.house.engine)

        cancelled = twofold("jobs", "cancel", done, queued)
        retried = twofold("jobs", "retry", failed, done)

        assert (cancelled.returncode, cancelled.stdout) == (
            0,
            f"{done} succeeded\n{queued} cancelled\n",
        )
        assert (retried.returncode, retried.stdout) == (1, f"{failed} queued\n")
        assert "job_not_retryable" in retried.stderr
        assert job_of(served.house.engine, failed).generation == 2

    def test_cancels_by_filter_what_is_the_tenants(self, served: Served, tmp_path: Path) -> None:
        house = served.house
        mine = submitted(house.engine, *[new_job(tenant="acme")] * 3)
        (others,) = submitted(house.engine)
        acme = shell(served, tmp_path, "acme", "operate", "read")
        house.keeper()
        call = ("jobs", "cancel", "--state", "queued", "--reason", "sent twice", "--yes")

        named = acme(*call, "--who", "ann")
        told = acme(*call, "-o", "json")

        assert (named.returncode, "leave --who out" in named.stderr) == (2, True)
        assert told.returncode == 0, told.stderr
        operation = json.loads(told.stdout)
        assert (operation["counts"], operation["expected"]) == ({"cancelled": 3}, 3)
        assert {job.state for job in house.jobs(mine)} == {JobState.CANCELLED}
        assert job_of(house.engine, others).state is JobState.QUEUED
        (seen,) = json.loads(acme("operations", "list", "--kind", "cancel", "-o", "json").stdout)
        assert seen == operation
        stopped = acme("operations", "stop", operation["id"], "-o", "json")
        assert json.loads(stopped.stdout) == operation

    def test_pauses_and_resumes_the_tenants_jobs(self, served: Served, tmp_path: Path) -> None:
        acme = shell(served, tmp_path, "acme", "operate", "read")

        asked = acme("pause", "--reason", "noon")
        told = acme("pause", "--reason", "noon", "--yes")
        bulk = acme("pause", "--reason", "night", "--class", "bulk")

        assert (asked.returncode, "--yes" in asked.stderr) == (2, True)
        long = acme("pause", "--reason", "x" * 501, "--class", "bulk")
        assert (long.returncode, "invalid_request" in long.stderr) == (2, True)
        assert told.stdout == "paused all that this API key speaks for\n"
        assert bulk.stdout == "paused class bulk\n"
        shown = json.loads(acme("pauses", "-o", "json").stdout)
        assert [(one["tenant"], one["job_class"]) for one in shown] == [
            ("acme", None),
            ("acme", "bulk"),
        ]
        assert acme("resume").stdout == "resumed all that this API key speaks for\n"
        assert acme("resume").returncode == 5
        assert len(json.loads(acme("pauses", "-o", "json").stdout)) == 1


class TestDoctor:
    def test_looks_at_the_service_and_the_key_and_nothing_else(
        self, served: Served, tmp_path: Path
    ) -> None:
        told = shell(served, tmp_path, "acme", "submit", "read")("doctor", "-o", "json")
        found = [(one["check"], one["status"]) for one in json.loads(told.stdout)]
        assert (told.returncode, found) == (0, [("settings", "ok"), ("api", "ok"), ("key", "ok")])
        key = json.loads(told.stdout)[2]["what"]
        assert key.endswith("speaks for the tenant acme: read, submit.")

    @pytest.mark.parametrize(
        ("url", "key", "statuses", "mend"),
        [
            ("there", "tfk_x", ["ok", "ok", "failed"], "twofold keys create"),
            ("there", None, ["ok", "failed", "failed"], "TWOFOLD_API_KEY"),
            ("away", "tfk_x", ["ok", "failed", "skipped"], "TWOFOLD_URL"),
            ("wrong", "tfk_x", ["failed", "skipped", "skipped"], "https://host"),
        ],
    )
    def test_says_how_to_mend_what_is_wrong(
        self,
        served: Served,
        tmp_path: Path,
        url: str,
        key: str | None,
        statuses: list[str],
        mend: str,
    ) -> None:
        urls = {"there": served.url, "away": "http://127.0.0.1:9", "wrong": "twofold.example"}
        settings = {"TWOFOLD_URL": urls[url]} | ({"TWOFOLD_API_KEY": key} if key else {})
        told = Shell(settings, tmp_path)("doctor", "-o", "json")
        findings = json.loads(told.stdout)
        assert told.returncode == 1
        assert [one["status"] for one in findings] == statuses
        assert mend in told.stdout

    def test_another_check_may_be_asked_for(self, served: Served, twofold: Shell) -> None:
        told = twofold("doctor", "--only", "database", "-o", "json")
        ((check, status),) = [(one["check"], one["status"]) for one in json.loads(told.stdout)]
        assert (told.returncode, check, status) == (1, "database", "failed")


class TestWhoMayNot:
    def test_a_key_that_is_none_ends_with_4(self, served: Served, tmp_path: Path) -> None:
        stranger = Shell({"TWOFOLD_URL": served.url, "TWOFOLD_API_KEY": "tfk_x"}, tmp_path)
        told = stranger("jobs", "list")
        assert (told.returncode, told.stdout) == (4, "")
        assert told.stderr.startswith("twofold: invalid_api_key: ")

    def test_a_key_that_is_not_for_this_ends_with_4(self, served: Served, tmp_path: Path) -> None:
        reader = shell(served, tmp_path, "default", "read")
        assert reader("jobs", "list").returncode == 0
        told = reader("pause", "--class", "bulk", "--reason", "x")
        assert (told.returncode, told.stdout) == (4, "")
        assert told.stderr.startswith("twofold: scope_missing: ")

    def test_another_tenants_job_is_not_there(self, served: Served, tmp_path: Path) -> None:
        (job_id,) = submitted(served.house.engine)
        acme = shell(served, tmp_path, "acme")
        assert acme("jobs", "get", job_id).returncode == 5
        assert acme("jobs", "cancel", job_id).stdout == f"{job_id} not_found\n"

    def test_a_service_that_is_away_is_one_line(self, tmp_path: Path) -> None:
        told = Shell(NOWHERE, tmp_path)("jobs", "list")
        assert (told.returncode, told.stdout) == (1, "")
        assert told.stderr.startswith("twofold: api_unreachable: ")
        assert "Traceback" not in told.stderr

    def test_without_a_key_it_ends_with_2(self, tmp_path: Path) -> None:
        told = Shell({"TWOFOLD_URL": "http://127.0.0.1:9"}, tmp_path)("jobs", "list")
        assert (told.returncode, "TWOFOLD_API_KEY" in told.stderr) == (2, True)
