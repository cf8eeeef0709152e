"""The command line as a shell sees it: what goes where, and how it ends."""

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from rich.console import Console
from sqlalchemy import text
from sqlalchemy.engine import make_url
from tests.factories import begun, claimed, job_of, new_job, result_of, submitted
from tests.house import House
from tests.pictures import encoded
from tests.shell import Shell

from twofold_producer.cli import jobs
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import CorruptSource
from twofold_schema.ids import new_id
from twofold_schema.ledger import outcomes
from twofold_schema.settings import StorageSettings
from twofold_schema.states import JobState
from twofold_schema.storage.places import OpenPlaces
from twofold_schema.wire import JobReport

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.fixture
def twofold(house: House, tmp_path: Path) -> Shell:
    return Shell(house.environment, tmp_path)


def complete(house: House, name: str = "cat.png") -> UUID:
    """A job that succeeded."""
    run_id = begun(house.engine)
    (job_id,) = submitted(house.engine, new_job(source=f"s3://twofold/{name}"))
    (claim,) = claimed(house.engine, run_id)
    result = result_of(claim).model_copy(update={"uri": f"s3://twofold/results/{name}"})
    with house.engine.begin() as connection:
        outcomes.complete(connection, run_id, {claim: result})
    return job_id


def fail(house: House) -> UUID:
    """A job that failed."""
    run_id = begun(house.engine)
    (job_id,) = submitted(house.engine)
    (claim,) = claimed(house.engine, run_id)
    with house.engine.begin() as connection:
        outcomes.fail(connection, run_id, {claim: CorruptSource()})
    return job_id


class TestSubmit:
    def test_uploads_local_files_and_prints_the_jobs_alone(
        self, house: House, twofold: Shell, tmp_path: Path, bucket: str
    ) -> None:
        (tmp_path / "cat.png").write_bytes(encoded())
        uri = f"s3://{bucket}/dog.png"

        ended = twofold("submit", "cat.png", uri, "--steps", 3, "--class", "bulk", "-o", "ids")

        assert (ended.returncode, ended.stderr) == (0, "")
        cat, dog = house.jobs([UUID(line) for line in ended.stdout.splitlines()])
        assert (dog.source, dog.parameters.steps, dog.job_class) == (uri, 3, "bulk")
        assert cat.submission_id == dog.submission_id
        storage = OpenPlaces(StorageSettings.load(house.environment))
        assert storage.read(ArtifactUri.parse(cat.source), max_bytes=10**6).data == encoded()

    def test_gives_up_waiting_with_124_and_the_job_goes_on(
        self, house: House, twofold: Shell, bucket: str
    ) -> None:
        ended = twofold("submit", f"s3://{bucket}/cat.png", "--wait", "--timeout", 0.2)

        assert (ended.returncode, ended.stdout) == (124, "")
        assert "wait_timeout" in ended.stderr
        assert [row["state"] for row in house.rows("SELECT state FROM jobs")] == ["queued"]

    def test_says_what_was_not_accepted_and_submits_the_rest(
        self, house: House, twofold: Shell, bucket: str
    ) -> None:
        good = f"s3://{bucket}/cat.png"

        ended = twofold("submit", good, "missing[1].png", "s3://closed/x.png", "-o", "ids")

        assert ended.returncode == 2
        (job,) = house.jobs([UUID(line) for line in ended.stdout.splitlines()])
        assert job.source == good
        first, second, counts = ended.stderr.splitlines()
        assert first.startswith("missing[1].png: source_unreadable: ")
        assert second.startswith("s3://closed/x.png: place_not_allowed: ")
        assert counts == "1 created, 0 existing, 2 invalid."

    def test_what_is_logged_is_not_among_the_ids(self, twofold: Shell, bucket: str) -> None:
        away = "redis://127.0.0.1:9/0"

        ended = twofold(*("submit", f"s3://{bucket}/cat.png", "-o", "ids"), TWOFOLD_BROKER_URL=away)

        assert UUID(ended.stdout.strip()), ended.stderr

    def test_a_submission_key_goes_on_where_it_was(
        self, house: House, twofold: Shell, bucket: str
    ) -> None:
        call = ("submit", f"s3://{bucket}/cat.png", "--key", "cat", "--submission-key", "album")

        first, again = twofold(*call), twofold(*call)

        assert (first.returncode, first.stderr) == (0, "1 created, 0 existing, 0 invalid.\n")
        assert (again.returncode, again.stderr) == (0, "0 created, 1 existing, 0 invalid.\n")
        assert len(house.rows("SELECT FROM submissions WHERE key = 'album'")) == 1

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["missing.png"], "source_unreadable"),
            (["a.png", "b.png", "--key", "cat"], "--key names one job"),
            ([], "give a source, or --manifest"),
            (["--manifest", "a.jsonl", "--steps", "3"], "its lines say what is asked"),
            (["a.png", "--manifest", "a.jsonl"], "its lines say what is asked"),
        ],
    )
    def test_a_refused_one_ends_with_2(
        self, tmp_path: Path, arguments: list[str], code: str
    ) -> None:
        """Before any server is asked."""
        nowhere = {
            "TWOFOLD_DATABASE_URL": "postgresql://127.0.0.1:9/none",
            "TWOFOLD_BROKER_URL": "redis://127.0.0.1:9/0",
        }
        ended = Shell(nowhere, tmp_path)("submit", *arguments)

        assert (ended.returncode, ended.stdout) == (2, "")
        assert code in ended.stderr
        assert "Traceback" not in ended.stderr


class TestManifests:
    """Submitting the lines of a file, here or in storage."""

    @pytest.fixture
    def lines(self, bucket: str) -> list[str]:
        return [
            json.dumps({"source": f"s3://{bucket}/0.png", "key": "a", "metadata": {"n": "0"}}),
            "",
            "{",
            json.dumps({"source": "/etc/passwd", "key": "c"}),
            json.dumps({"source": f"s3://{bucket}/4.png", "key": "d", "steps": 0}),
            json.dumps({"source": f"s3://{bucket}/5.png", "key": "a"}),
            json.dumps({"source": f"s3://{bucket}/6.png", "steps": 7}),
        ]

    @pytest.mark.parametrize("stored", [True, False])
    def test_says_what_came_of_each_line(
        self,
        house: House,
        twofold: Shell,
        tmp_path: Path,
        s3: "S3Client",
        bucket: str,
        lines: list[str],
        *,
        stored: bool,
    ) -> None:
        place, text = "m.jsonl", "\n".join(lines)
        if stored:
            place = f"s3://{bucket}/m.jsonl"
            s3.put_object(Bucket=bucket, Key="m.jsonl", Body=text.encode())
        else:
            (tmp_path / place).write_text(text, encoding="utf-8")

        ended = twofold("submit", "--manifest", place, "-o", "jsonl")

        assert (ended.returncode, ended.stderr) == (2, "2 created, 0 existing, 4 invalid.\n")
        answers = [json.loads(line) for line in ended.stdout.splitlines()]
        assert [(a["line"], a["key"], a["outcome"], a["code"]) for a in answers] == [
            (1, "a", "created", None),
            (3, None, "invalid", "invalid_parameter"),
            (4, "c", "invalid", "invalid_parameter"),
            (5, "d", "invalid", "invalid_parameter"),
            (6, "a", "invalid", "key_reused"),
            (7, None, "created", None),
        ]
        assert answers[3]["message"].startswith("Line 5: ")
        first, second = house.jobs([UUID(a["job_id"]) for a in answers if a["job_id"]])
        assert (dict(first.metadata), second.parameters.steps) == ({"n": "0"}, 7)

    def test_prints_the_submission_whose_course_can_be_looked_at(
        self, twofold: Shell, tmp_path: Path, lines: list[str]
    ) -> None:
        (tmp_path / "m.jsonl").write_text("\n".join(lines), encoding="utf-8")

        ended = twofold("submit", "--manifest", "m.jsonl", "--submission-key", "album")

        assert ended.stderr.splitlines()[0].startswith("line 3: invalid_parameter: Line 3 is no")
        shown = twofold("submissions", "get", ended.stdout.strip(), "-o", "json")
        report = json.loads(shown.stdout)
        assert (report["id"], report["key"]) == (ended.stdout.strip(), "album")
        assert report["counts"] == {"queued": 2}
        table = twofold("submissions", "get", ended.stdout.strip())
        assert (table.returncode, table.stderr) == (0, "")
        assert "2 queued" in table.stdout

    def test_other_forms_are_for_programs(
        self, twofold: Shell, tmp_path: Path, lines: list[str]
    ) -> None:
        (tmp_path / "m.jsonl").write_text("\n".join(lines), encoding="utf-8")

        ids = twofold("submit", "--manifest", "m.jsonl", "-o", "ids")
        counts = twofold("submit", "--manifest", "m.jsonl", "-o", "json")

        assert len([UUID(line) for line in ids.stdout.splitlines()]) == 2
        assert {"created": 1, "existing": 1, "invalid": 4}.items() <= json.loads(
            counts.stdout
        ).items()

    def test_one_that_cannot_be_read_ends_with_an_error(self, twofold: Shell, bucket: str) -> None:
        here = twofold("submit", "--manifest", "none.jsonl")
        there = twofold("submit", "--manifest", f"s3://{bucket}/none.jsonl")

        assert (here.returncode, there.returncode) == (2, 1)
        assert "source_unreadable" in here.stderr
        assert "source_not_found" in there.stderr

    def test_a_submission_that_is_not_there_ends_with_5(self, twofold: Shell) -> None:
        ended = twofold("submissions", "get", new_id())

        assert (ended.returncode, "submission_not_found" in ended.stderr) == (5, True)


class TestLooking:
    def test_lists_jobs_in_four_forms_newest_first(self, house: House, twofold: Shell) -> None:
        done, failed = complete(house), fail(house)
        (odd,) = submitted(house.engine, new_job(source="s3://twofold/[/red] :cat: [x]/ü.png"))
        ids = [str(odd), str(failed), str(done)]

        forms = {form: twofold("jobs", "list", "-o", form) for form in ("ids", "jsonl", "json")}
        table = twofold("jobs", "list")

        for ended in forms.values():
            assert (ended.returncode, ended.stderr) == (0, "")
        assert (table.returncode, table.stderr) == (0, "Made by: sd-x2-latent-upscaler\n")
        assert forms["ids"].stdout.split() == ids
        rows = json.loads(forms["json"].stdout)
        assert [json.loads(line) for line in forms["jsonl"].stdout.splitlines()] == rows
        assert [row["id"] for row in rows] == ids
        assert [row["state"] for row in rows] == ["queued", "failed", "succeeded"]
        assert rows[1]["errors"][0]["code"] == "corrupt_source"
        assert rows[2]["result"]["uri"] == "s3://twofold/results/cat.png"
        header, *lines = table.stdout.splitlines()
        assert header.split() == ["id", "state", "size", "attempts", "error", "source"]
        assert [line.split()[0] for line in lines] == ids
        assert lines[0].rstrip().endswith("s3://twofold/[/red] :cat: [x]/ü.png")
        assert lines[1].split()[1:4] == ["failed", "1/3", "corrupt_source"]

    def test_finds_jobs_by_the_metadata_that_they_were_submitted_with(
        self, house: House, twofold: Shell, bucket: str
    ) -> None:
        submit = ("submit", f"s3://{bucket}/cat.png", "-o", "ids", "--metadata")
        ids = [twofold(*submit, pair).stdout for pair in ("order=42", "order=a=b")]
        find = ("jobs", "list", "-o", "ids", "--metadata")

        assert [twofold(*find, pair).stdout for pair in ("order=42", "order=a=b")] == ids
        assert twofold(*find, "order=42", "--tenant", "acme").stdout == ""
        refused = twofold(*find, "order")
        assert (refused.returncode, "write NAME=VALUE" in refused.stderr) == (2, True)

    def test_pages_by_state(self, house: House, twofold: Shell) -> None:
        failed = [str(fail(house)) for _ in range(3)]
        submitted(house.engine)

        ended = twofold("jobs", "list", "--state", "failed", "--before", failed[2], "--limit", 1)
        more = ended.stderr.removeprefix("More: ")

        assert more == f"twofold jobs list --state failed --limit 1 --before {failed[1]}\n"
        assert [line.split()[0] for line in ended.stdout.splitlines()] == ["id", failed[1]]
        last = twofold(*shlex.split(more)[1:])
        assert [line.split()[0] for line in last.stdout.splitlines()] == ["id", failed[0]]

    def test_the_next_page_is_asked_for_as_the_first_was(
        self, house: House, twofold: Shell
    ) -> None:
        ids = submitted(house.engine, *[new_job(metadata={"o": "a b", "[p]": "$x"})] * 2)
        filters = ["--state", "queued", "--state", "failed", "--tenant", "default"]
        filters += ["--metadata", "o=a b", "--metadata", "[p]=$x", "--limit", "1"]

        ended = twofold("jobs", "list", *filters)

        (more,) = ended.stderr.splitlines()
        expected = ["twofold", "jobs", "list", *filters, "--before", str(ids[1])]
        assert shlex.split(more.removeprefix("More: ")) == expected

    def test_a_terminal_of_80_columns_shows_how_each_job_is(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However long the names of sources are: these give way."""
        job = job_of(house.engine, complete(house, "cat" * 100))
        console = Console(file=io.StringIO(), width=80)
        monkeypatch.setattr(jobs, "out", console)

        jobs.show([JobReport.of(job)], jobs.Output.TABLE)

        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert all(word in shown for word in (str(job.id), "succeeded", "1/3", "…"))

    def test_gets_all_there_is_to_know(self, house: House, twofold: Shell) -> None:
        job_id = complete(house)

        ended = twofold("jobs", "get", job_id)

        (row,) = json.loads(ended.stdout)
        assert (row["id"], row["state"], row["job_class"]) == (str(job_id), "succeeded", "standard")
        assert row["result"]["seed"] == 7
        assert row["finished_at"].startswith("20")

    def test_waiting_prints_the_places_of_results_and_ends_with_3_when_one_failed(
        self, house: House, twofold: Shell
    ) -> None:
        name = "[bold]" + "x" * 100 + ":cat:.png"
        done, failed = complete(house, name), fail(house)

        ended = twofold("jobs", "get", done, failed, "--wait", "-o", "table")

        assert ended.returncode == 3
        assert ended.stdout == f"s3://twofold/results/{name}\n"
        assert "2 of 2 jobs have ended" in ended.stderr
        assert f"{failed} failed corrupt_source" in ended.stderr

    def test_an_unknown_job_is_not_waited_for_and_ends_with_5(self, twofold: Shell) -> None:
        unknown = new_id()

        ended = twofold("jobs", "get", unknown, "--wait")

        assert (ended.returncode, ended.stdout) == (5, "")
        assert f"job_not_found: No job has the id {unknown}" in ended.stderr


class TestChanging:
    def test_cancels_and_says_what_came_of_it(self, house: House, twofold: Shell) -> None:
        done, unknown = complete(house), new_id()
        (queued,) = submitted(house.engine)

        ended = twofold("jobs", "cancel", done, queued, unknown)

        assert ended.returncode == 5
        assert ended.stdout.splitlines() == [
            f"{done} succeeded",
            f"{queued} cancelled",
            f"{unknown} not_found",
        ]
        assert job_of(house.engine, queued).state is JobState.CANCELLED

    def test_retries_what_failed(self, house: House, twofold: Shell) -> None:
        failed = fail(house)

        ended = twofold("jobs", "retry", failed)

        assert (ended.returncode, ended.stdout) == (0, f"{failed} queued\n")
        assert job_of(house.engine, failed).generation == 2

    @pytest.mark.parametrize(
        "said",
        [["--dry-run"], ["--reason", "why"], ["--who", "ann"], ["-o", "json"], ["--no-wait"]],
    )
    def test_by_id_refuses_what_goes_with_a_filter_and_does_nothing(
        self, house: House, twofold: Shell, said: list[str]
    ) -> None:
        failed = fail(house)
        (queued,) = submitted(house.engine)

        for command, job_id in (("cancel", queued), ("retry", failed)):
            ended = twofold("jobs", command, job_id, *said)
            assert (ended.returncode, ended.stdout) == (2, "")
            assert "with ids there is no" in ended.stderr

        assert job_of(house.engine, queued).state is JobState.QUEUED
        assert job_of(house.engine, failed).generation == 1


class TestServing:
    def test_migrates_an_empty_database_and_does_it_again(
        self, house: House, twofold: Shell
    ) -> None:
        with house.engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))

        for _ in range(2):
            ended = twofold("db", "migrate")
            assert (ended.returncode, ended.stderr) == (0, "")

        assert submitted(house.engine)

    @pytest.mark.parametrize(
        "command", [("jobs", "list"), ("submit", "s3://twofold/a.png"), ("keeper",)]
    )
    def test_a_database_that_was_never_migrated_is_told_so(
        self, house: House, twofold: Shell, command: tuple[str, ...]
    ) -> None:
        with house.engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))

        ended = twofold(*command, TWOFOLD_BUCKETS="twofold")

        assert (ended.returncode, ended.stdout) == (2, "")
        assert "twofold db migrate" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_a_role_without_rights_is_told_so(self, house: House, twofold: Shell) -> None:
        role = f"nobody_{new_id().hex[-8:]}"
        url = make_url(house.environment["TWOFOLD_DATABASE_URL"])
        url = url.set(drivername="postgresql", username=role, password="nobody")
        with house.engine.begin() as connection:
            connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'nobody'"))
        try:
            ended = twofold(
                *("jobs", "list"),
                TWOFOLD_DATABASE_URL=url.render_as_string(hide_password=False),
            )
        finally:
            with house.engine.begin() as connection:
                connection.execute(text(f"DROP ROLE {role}"))

        assert (ended.returncode, ended.stdout) == (2, "")
        assert "may not do this: permission denied for table" in ended.stderr
        assert "twofold doctor" in ended.stderr
        assert "Traceback" not in ended.stderr

    @pytest.mark.parametrize(
        ("command", "named"),
        [
            (("api", "--port", 70000), "--port"),
            (("api", "--port", -1), "--port"),
            (("collect", "--older-than", "1e15"), "--older-than"),
            (("webhooks", "redeliver", "--since-hours", "1e9"), "--since-hours"),
            (("dev", "--data", "a-file"), "--data"),
            (("dev", "--data", "a-file/below"), "--data"),
        ],
    )
    def test_what_no_option_can_be_ends_with_2(
        self, tmp_path: Path, command: tuple[object, ...], named: str
    ) -> None:
        (tmp_path / "a-file").touch()

        ended = Shell({}, tmp_path)(*command)

        assert (ended.returncode, ended.stdout) == (2, "")
        assert named in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_a_bad_setting_is_named_and_ends_with_2(self, tmp_path: Path) -> None:
        shell = Shell({"TWOFOLD_DATABASE_URL": "mysql://user:hunter2@host/name"}, tmp_path)

        ended = shell("jobs", "list")

        assert (ended.returncode, ended.stdout) == (2, "")
        assert "invalid_setting: TWOFOLD_DATABASE_URL is wrong" in ended.stderr
        assert "hunter2" not in ended.stderr


class TestSettings:
    def test_shows_each_masked_and_where_it_comes_from(self, house: House, tmp_path: Path) -> None:
        file = tmp_path / "url"
        file.write_text("redis://:hunter2hunter2@redis:6379/0", encoding="utf-8")
        environment = {k: v for k, v in house.environment.items() if k != "TWOFOLD_BROKER_URL"}
        shell = Shell(environment | {"TWOFOLD_BROKER_URL_FILE": str(file)}, tmp_path)

        ended = shell("config", "show")

        rows = {line.split()[0]: line.split()[1:] for line in ended.stdout.splitlines()}
        assert (ended.returncode, ended.stderr) == (0, "")
        assert rows["TWOFOLD_BROKER_URL"] == ["redis://:***@redis:6379/0", "file", str(file)]
        assert rows["TWOFOLD_LEASE_SECONDS"] == ["4.0", "environment"]
        assert rows["TWOFOLD_MAX_ATTEMPTS"] == ["3", "default"]

    def test_a_wrong_one_is_shown_as_wrong_and_ends_with_2(self, twofold: Shell) -> None:
        ended = twofold(
            "config",
            "show",
            "-o",
            "json",
            TWOFOLD_MAX_SIDE="0",
            TWOFOLD_DATABASE_URL="mysql://user:hunter2@host/name",
        )

        rows = {row["variable"]: row for row in json.loads(ended.stdout)}
        assert ended.returncode == 2
        assert rows["TWOFOLD_MAX_SIDE"]["value"] == "0"
        assert "greater than" in rows["TWOFOLD_MAX_SIDE"]["fault"]
        assert rows["TWOFOLD_DATABASE_URL"]["value"] == "***"
        assert "TWOFOLD_DATABASE_URL is wrong: write postgresql://" in ended.stderr
        assert "hunter2" not in ended.stdout + ended.stderr


def test_a_database_that_is_away_is_one_line_and_no_traceback() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "twofold_producer", "jobs", "list"],
        env={**os.environ, "TWOFOLD_DATABASE_URL": "postgresql://nobody:x@127.0.0.1:1/none"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("twofold: database_unavailable: ")
    assert "Traceback" not in ended.stderr
