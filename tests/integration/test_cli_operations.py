"""Operating Twofold from a shell: pauses, shares, and many jobs by filter."""

import getpass
import json
import os
import pty
import re
import shlex
import signal
from pathlib import Path

import pytest
from tests.factories import begun, claimed, job_of, new_job, submitted
from tests.house import ROOT, House
from tests.shell import Shell

from twofold_producer.cli.app import login_name
from twofold_schema.errors import CorruptSource
from twofold_schema.ids import new_id
from twofold_schema.ledger import outcomes, pauses
from twofold_schema.states import JobClass, JobState


@pytest.fixture
def twofold(house: House, tmp_path: Path) -> Shell:
    return Shell(house.environment, tmp_path)


class TestPauses:
    def test_begin_and_end_by_scope_and_are_listed(self, house: House, twofold: Shell) -> None:
        job_ids = submitted(
            house.engine,
            new_job(tenant="acme", job_class=JobClass.BULK),
            new_job(tenant="acme"),
        )
        scope = ("--tenant", "acme", "--class", "bulk")

        begun_ = twofold("pause", *scope, "--reason", "[invoice] is open", "--who", "ann")
        shown, table = twofold("pauses", "-o", "json"), twofold("pauses")

        assert (begun_.returncode, begun_.stderr) == (0, "")
        assert begun_.stdout == "paused tenant acme, class bulk\n"
        (pause,) = json.loads(shown.stdout)
        assert (pause["tenant"], pause["job_class"], pause["paused_by"]) == ("acme", "bulk", "ann")
        assert "[invoice] is open" in table.stdout
        run_id = begun(house.engine)
        assert [claim.job_id for claim in claimed(house.engine, run_id)] == job_ids[1:]

        assert twofold("resume", "--tenant", "acme").returncode == 5
        assert twofold("resume", *scope).stdout == "resumed tenant acme, class bulk\n"
        assert [claim.job_id for claim in claimed(house.engine, run_id)] == job_ids[:1]
        (end, start) = json.loads(twofold("operations", "list", "-o", "json").stdout)
        assert (start["kind"], start["who"]) == ("pause", "ann")
        assert (end["kind"], end["who"]) == ("resume", getpass.getuser())

    def test_show_what_would_command_the_terminal_instead_of_obeying(
        self, house: House, twofold: Shell
    ) -> None:
        with house.engine.begin() as connection:
            pauses.pause(connection, tenant="acme", reason="\x1b[2Jgone\x9b1m\nroot", who="a\x07b")
        (noted,) = json.loads(twofold("operations", "list", "-o", "json").stdout)

        for command in (
            ["pauses"],
            ["operations", "list"],
            ["operations", "get", noted["id"]],
        ):
            shown = twofold(*command).stdout
            assert r"\x1b[2Jgone\x9b1m\nroot" in shown
            assert r"a\x07b" in shown
            assert {"\x1b", "\x9b", "\x07"} & set(shown) == set()

    def test_everything_is_paused_by_a_yes_only(self, twofold: Shell) -> None:
        refused = twofold("pause", "--reason", "disk is full")
        assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
        assert json.loads(twofold("pauses", "-o", "json").stdout) == []

        assert twofold("pause", "--reason", "disk is full", "--yes").stdout == "paused everything\n"

    @pytest.mark.parametrize(
        "command",
        [
            ["pause", "--reason", "x", "--tenant", ""],
            ["tenants", "set", "", "--weight", "2", "--reason", "x"],
            ["tenants", "set", "", "--max-queued", "2", "--reason", "x"],
            ["submit", "s3://twofold/cat.png", "--tenant", ""],
            ["submit", "--manifest", "s3://twofold/jobs.jsonl", "--tenant", ""],
            ["keys", "create", "shop", "--tenant", "", "--scope", "read", "--reason", "x"],
            ["webhooks", "create", "https://example.org/", "--tenant", "", "--reason", "x"],
        ],
        ids=lambda command: " ".join(command[:2]),
    )
    def test_nobody_is_no_tenant(self, house: House, twofold: Shell, command: list[str]) -> None:
        refused = twofold(*command)
        assert (refused.returncode, "blank" in refused.stderr) == (2, True), refused.stderr
        assert house.rows("SELECT FROM operations UNION ALL SELECT FROM submissions") == []

    def test_whoever_has_no_name_has_a_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nobody() -> str:
            raise OSError

        monkeypatch.setattr(getpass, "getuser", nobody)
        assert login_name() == f"uid {os.getuid()}"


class TestTenants:
    def test_are_listed_with_what_they_are_due_and_have(self, house: House, twofold: Shell) -> None:
        submitted(house.engine, *[new_job(tenant="acme")] * 3)
        claimed(house.engine, begun(house.engine), limit=1)
        said = twofold(
            *("tenants", "set", "zoo", "--weight", "2", "--max-running", "64"),
            *("--reason", "paid for it"),
        )

        assert (said.returncode, said.stdout) == (0, "zoo: weight 2, 64 running at once\n")
        rows = json.loads(twofold("tenants", "list", "-o", "json").stdout)
        assert [list(row.values()) for row in rows] == [
            ["acme", 1.0, None, 2, 1, *[None] * 6],
            ["zoo", 2.0, 64, 0, 0, *[None] * 6],
        ]
        table = twofold("tenants", "list").stdout.splitlines()
        assert table[1].split() == ["acme", "1", "any", "2", "1", *["any"] * 6]

        again = twofold("tenants", "set", "zoo", "--any-number", "--reason", "why not")
        assert again.stdout == "zoo: weight 2, any number running at once\n"

    @pytest.mark.parametrize(
        "said",
        [
            [],
            ["--weight", "0"],
            ["--weight", "0.0009"],
            ["--weight", "1001"],
            ["--weight", "nan"],
            ["--any-number", "--max-running", "1"],
            ["--may-read", "http://elsewhere/"],
            ["--may-write", "any", "--may-write", "s3://zoo"],
            ["--max-queued", "-1"],
            ["--max-queued", "many"],
            ["--rate", "0"],
            ["--burst", "0"],
            ["--jobs-days", "0"],
        ],
    )
    def test_what_is_no_share_or_right_ends_with_2(self, twofold: Shell, said: list[str]) -> None:
        ended = twofold("tenants", "set", "zoo", *said, "--reason", "why")
        assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)

    def test_may_do_what_was_said_and_what_was_not_said_stays(self, twofold: Shell) -> None:
        said = twofold(
            *("tenants", "set", "zoo", "--may-read", "s3://zoo/in/", "--may-read", "s3://shared"),
            *("--may-write", "none", "--max-queued", "500", "--rate", "2.5", "--burst", "10"),
            *("--weight", "2", "--reason", "contract 7"),
        )
        again = twofold(
            *("tenants", "set", "zoo", "--max-queued", "any", "--may-write", "s3://zoo/out"),
            *("--reason", "contract 8"),
        )

        assert said.stdout == (
            "zoo: weight 2, any number running at once, reads s3://zoo/in s3://shared, writes "
            "nowhere, 500 waiting, 2.5 requests per second, 10 at once\n"
        ), said.stderr
        assert again.returncode == 0, again.stderr
        (row,) = json.loads(twofold("tenants", "list", "-o", "json").stdout)
        assert list(row.values()) == [
            *("zoo", 2.0, None, 0, 0, None, 2.5, 10, None),
            *(["s3://zoo/in", "s3://shared"], ["s3://zoo/out"]),
        ]
        assert "s3://zoo/in s3://shared" in twofold("tenants", "list").stdout
        noted = json.loads(twofold("operations", "list", "--kind", "rights", "-o", "json").stdout)
        assert [one["reason"] for one in noted] == ["contract 8", "contract 7"]
        assert noted[1]["change"]["may_write"] == []

    def test_their_days_are_fewer_than_everybodys_and_shown(self, twofold: Shell) -> None:
        said = twofold("tenants", "set", "zoo", "--jobs-days", "7", "--reason", "privacy")
        many = twofold("tenants", "set", "zoo", "--jobs-days", "91", "--reason", "archive")
        rows = json.loads(twofold("tenants", "list", "-o", "json").stdout)
        lifted = twofold("tenants", "set", "zoo", "--jobs-days", "any", "--reason", "over")
        without = json.loads(twofold("tenants", "list", "-o", "json").stdout)
        assert "jobs kept for 7 days" in said.stdout, said.stderr
        assert (many.returncode, "TWOFOLD_JOBS_DAYS (90)" in many.stderr) == (2, True)
        assert lifted.returncode == 0, lifted.stderr
        assert [row["jobs_days"] for row in (*rows, *without)] == [7, None]


class TestByFilter:
    def test_cancels_what_matches_and_watches_it(self, house: House, twofold: Shell) -> None:
        mine = submitted(house.engine, *[new_job(tenant="acme")] * 5)
        (other,) = submitted(house.engine, new_job(tenant="other"))
        house.keeper()

        ended = twofold(
            *("jobs", "cancel", "--tenant", "acme", "--reason", "sent twice", "--yes"),
            *("-o", "json"),
        )

        assert ended.returncode == 0, ended.stderr
        operation = json.loads(ended.stdout)
        assert (operation["counts"], operation["expected"]) == ({"cancelled": 5}, 5)
        assert operation["filter"] == {"tenant": "acme"}
        assert {job.state for job in house.jobs(mine)} == {JobState.CANCELLED}
        assert job_of(house.engine, other).state is JobState.QUEUED
        shown = twofold("operations", "get", operation["id"])
        assert "sent twice" in shown.stdout
        assert "5 cancelled" in shown.stdout

    def test_retries_by_error_submission_and_time(self, house: House, twofold: Shell) -> None:
        (failed,) = submitted(house.engine)
        run_id = begun(house.engine)
        (claim,) = claimed(house.engine, run_id)
        with house.engine.begin() as connection:
            outcomes.fail(connection, run_id, {claim: CorruptSource()})
        house.keeper()
        call = ("jobs", "retry", "--reason", "mended", "--yes")

        nothing = twofold(*call, "--error", "source_not_found")
        early = twofold(*call, "--created-before", "2020-01-01")
        ended = twofold(
            *call, "--error", "corrupt_source", "--created-after", "2020-01-01T00:00:00+02:00"
        )

        for one in (nothing, early):
            assert (one.returncode, one.stdout) == (0, "")
            assert "No job matches" in one.stderr
        assert (ended.returncode, "1 queued" in ended.stdout) == (0, True)
        assert job_of(house.engine, failed).generation == 2

    def test_a_dry_run_says_how_many_and_writes_nothing(self, house: House, twofold: Shell) -> None:
        submitted(house.engine, *[new_job()] * 3)
        claimed(house.engine, begun(house.engine), limit=1)

        text = twofold("jobs", "cancel", "--tenant", "default", "--dry-run")
        plain = twofold("jobs", "cancel", "--state", "queued", "--dry-run", "-o", "json")

        assert (text.returncode, text.stdout) == (0, "2 cancelled, 1 cancelling\n")
        assert json.loads(plain.stdout) == {"cancelled": 2}
        assert house.rows("SELECT FROM operations") == []

    @pytest.mark.parametrize(
        "arguments",
        [
            ["cancel"],
            ["cancel", str(new_id()), "--tenant", "a"],
            ["cancel", "--tenant", "a"],
            ["cancel", "--state", "failed", "--reason", "why", "--yes"],
            ["retry", "--created-after", "yesterday", "--reason", "why", "--yes"],
        ],
    )
    def test_what_is_not_clear_ends_with_2(self, twofold: Shell, arguments: list[str]) -> None:
        ended = twofold("jobs", *arguments)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "Traceback" not in ended.stderr

    def test_is_not_done_unasked_where_nobody_can_be_asked(
        self, house: House, twofold: Shell
    ) -> None:
        submitted(house.engine)
        ended = twofold("jobs", "cancel", "--tenant", "default", "--reason", "why")
        assert (ended.returncode, "--yes" in ended.stderr) == (2, True)
        assert house.rows("SELECT FROM operations") == []

    @pytest.mark.parametrize(("answer", "operations"), [("y\n", 1), ("n\n", 0)])
    def test_asks_on_a_terminal_with_the_count(
        self, house: House, twofold: Shell, answer: str, operations: int
    ) -> None:
        submitted(house.engine, *[new_job()] * 3)
        keyboard, terminal = pty.openpty()
        call = ("jobs", "cancel", "--tenant", "default", "--reason", "why", "--no-wait")
        with twofold.begun(*call, stdin=terminal) as process:
            os.write(keyboard, answer.encode())
            _, said = process.communicate(timeout=60)
        os.close(keyboard)
        os.close(terminal)

        assert "Cancel 3 jobs (3 cancelled)?" in said
        assert process.returncode == (0 if operations else 1)
        assert len(house.rows("SELECT FROM operations")) == operations

    def test_an_interrupt_ends_the_watching_and_not_the_operation(
        self, house: House, twofold: Shell
    ) -> None:
        (job_id,) = submitted(house.engine)
        call = ("jobs", "cancel", "--tenant", "default", "--reason", "why", "--yes")
        with twofold.begun(*call) as process:
            assert process.stderr is not None
            operation_id = process.stderr.readline().split()[1]
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)

        assert process.returncode == 130, said
        assert f"twofold operations get --wait {operation_id}" in said
        assert f"twofold operations stop {operation_id}" in said
        late = twofold("operations", "get", operation_id, "--wait", "--timeout", "0.1")
        assert (late.returncode, "wait_timeout" in late.stderr) == (124, True)
        house.keeper()
        assert twofold("operations", "get", operation_id, "--wait").returncode == 0
        assert job_of(house.engine, job_id).state is JobState.CANCELLED

    def test_can_be_stopped(self, house: House, twofold: Shell) -> None:
        submitted(house.engine)
        call = ("jobs", "cancel", "--tenant", "default", "--reason", "why", "--yes")
        operation = json.loads(twofold(*call, "--no-wait", "-o", "json").stdout)
        (going,) = twofold("operations", "list", "--unfinished", "-o", "ids").stdout.split()

        page = ["operations", "list", "--kind", "cancel", "--unfinished", "--limit", "1"]
        more = " ".join(["twofold", *page, "--before", going])
        assert twofold(*page).stderr == f"More: {more}\n"

        stopped = twofold("operations", "stop", going, "--who", "bob", "-o", "json")

        assert going == operation["id"]
        assert json.loads(stopped.stdout)["stopped_by"] == "bob"
        assert "stopped by bob" in twofold("operations", "list").stdout
        assert twofold("operations", "get", new_id()).returncode == 5


class TestThePage:
    """docs/13-operations.md runs as written."""

    @staticmethod
    def _blocks(language: str) -> list[str]:
        page = (ROOT / "docs/13-operations.md").read_text(encoding="utf-8")
        return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)

    def test_every_command_does_what_it_says(self, house: House, twofold: Shell) -> None:
        house.keeper()
        keyboard, terminal = pty.openpty()
        lines = [line for block in self._blocks("sh") for line in block.splitlines()]
        assert len(lines) > 10
        for line in lines:
            submitted(house.engine, new_job(tenant="acme", job_class=JobClass.BULK))
            name, *arguments = shlex.split(line, comments=True)
            assert name == "twofold"
            os.write(keyboard, b"y\n")
            with twofold.begun(*arguments, stdin=terminal) as process:
                _, said = process.communicate(timeout=60)
            assert process.returncode == 0, f"{line}\n{said}\n{house.logs()}"
        os.close(keyboard)
        os.close(terminal)
        assert house.rows("SELECT FROM pauses WHERE resumed_at IS NULL") == []

    def test_from_python(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in house.environment.items():
            monkeypatch.setenv(name, value)
        submitted(house.engine, new_job(tenant="acme"))
        (code,) = self._blocks("python")

        exec(compile(code, "docs/13-operations.md", "exec"), {})

        assert [row["who"] for row in house.rows("SELECT who FROM operations")] == ["billing"]
