"""The doctor over real servers: a well house, and each way in which one is not."""

import importlib
import json
import os
import pkgutil
import pty
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import redis
from sqlalchemy import Engine, TextClause, text
from sqlalchemy.engine import make_url
from tests.factories import PAST, begun, new_job, of_side, submitted
from tests.house import House, eventually
from tests.shell import Ended, Shell

from twofold_producer.doctor.checks import CheckName, examine
from twofold_schema import database, findings, ledger
from twofold_schema.effective import Effective
from twofold_schema.findings import Finding, Status
from twofold_schema.ledger import sweeps, vitals
from twofold_schema.settings import DatabaseSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: Looks with these checks and changed settings.
Look: TypeAlias = Callable[..., list[Finding]]

OK, WARNING, FAILED, SKIPPED = Status


@pytest.fixture
def look(house: House) -> Look:
    def look(*only: str, **changes: str) -> list[Finding]:
        changed = {f"TWOFOLD_{name}": value for name, value in changes.items()}
        return list(examine(Effective.of(house.environment | changed), only=only))

    return look


def one(found: list[Finding]) -> Finding:
    (finding,) = found
    return finding


def shell(house: House, *arguments: str, **changes: str) -> Ended:
    """Run `twofold` in this house."""
    return Shell(house.environment, Path.cwd())(*arguments, **changes)


class TestCommand:
    def test_in_a_well_house_all_is_well(
        self, house: House, stand_in_model: Path, tmp_path: Path
    ) -> None:
        """With a worker that holds a lease here, a keeper, and a model that is not the stand-in."""
        model = tmp_path / "model"
        shutil.copytree(stand_in_model, model)
        (model / "STAND-IN.txt").unlink()
        begun(house.engine, host=socket.gethostname())
        house.keeper()
        eventually(
            lambda: house.rows("SELECT FROM pulse WHERE kept_at IS NOT NULL"), why=house.logs
        )

        ended = shell(house, "doctor", "-o", "json", TWOFOLD_MODEL=str(model))

        found = [Finding.from_json(plain) for plain in json.loads(ended.stdout)]
        assert {(f.check, f.status) for f in found} == {
            (name, OK) for name in set(CheckName) - {CheckName.API, CheckName.KEY}
        }, found
        assert (ended.returncode, ended.stderr) == (0, "")
        assert all(finding.seconds >= 0 and not finding.mend for finding in found)

    def test_text_and_json_say_the_same_and_what_failed_ends_with_1(self, house: House) -> None:
        names = ["settings", "database", "schema", "keeper", "worker"]
        only = [word for name in names for word in ("--only", name)]

        plain = shell(house, "doctor", *only, "-o", "json", TWOFOLD_MAX_SIDES="1")
        lines = shell(house, "doctor", *only, TWOFOLD_MAX_SIDES="1")

        assert (plain.returncode, lines.returncode) == (1, 1)
        told = [(one["status"], one["check"]) for one in json.loads(plain.stdout)]
        words = [line.split() for line in lines.stdout.splitlines()]
        assert [(status, check) for status, check, *_ in words if status != "mend:"] == told
        assert told == [
            ("failed", "settings"),
            ("ok", "database"),
            ("ok", "schema"),
            ("failed", "keeper"),
            ("failed", "worker"),
        ]
        assert sum(line.lstrip().startswith("mend: ") for line in lines.stdout.splitlines()) == 3
        assert "2 ok, 0 warning, 3 failed, 0 skipped" in lines.stderr
        assert "\x1b" not in lines.stdout + lines.stderr

    @pytest.mark.parametrize("both", [False, True])
    def test_a_database_url_that_cannot_be_read_is_one_fault_among_others(
        self, house: House, tmp_path: Path, *, both: bool
    ) -> None:
        del house.environment["TWOFOLD_DATABASE_URL"]
        changes = {"TWOFOLD_DATABASE_URL_FILE": str(tmp_path / "none")}
        if both:
            changes["TWOFOLD_DATABASE_URL"] = "postgresql://u:hunter2@127.0.0.1:9/none"

        only = ("--only", "settings")
        ended = shell(house, "doctor", "-o", "json", *only, TWOFOLD_MAX_SIDE="0", **changes)

        assert ended.returncode == 1, ended.stderr
        assert [one["status"] for one in json.loads(ended.stdout)] == ["failed", "failed"]
        assert "TWOFOLD_DATABASE_URL_FILE" in ended.stdout
        assert "hunter2" not in ended.stdout + ended.stderr

    def test_an_unknown_check_ends_with_2(self, house: House) -> None:
        ended = shell(house, "doctor", "--only", "weather")

        assert (ended.returncode, ended.stdout) == (2, "")
        assert "weather" in ended.stderr

    @pytest.mark.parametrize(("more", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
    def test_a_terminal_gets_marks_and_colour_unless_it_wants_none(
        self, house: House, more: Mapping[str, str], *, coloured: bool
    ) -> None:
        shown = _on_terminal(house, "doctor", "--only", "schema", **more)

        assert "✓" in shown
        assert ("\x1b[32m" in shown) == coloured

    def test_no_password_is_in_any_output(self, house: House) -> None:
        password = "s3cr3t&/@%+" + secrets.token_hex(4)
        written = "s3cr3t%26%2F%40%25%2B" + password[-8:]
        ports = {name: make_url(house.environment[f"TWOFOLD_{name}_URL"]).port
                 for name in ("DATABASE", "BROKER")}  # fmt: skip
        changes = {
            "TWOFOLD_DATABASE_URL": f"postgresql://x:{written}@127.0.0.1:{ports['DATABASE']}/d",
            "TWOFOLD_BROKER_URL": f"redis://:{written}@127.0.0.1:{ports['BROKER']}/0",
        }
        only = ("--only", "settings", "--only", "database", "--only", "broker")
        for command in (("doctor", *only), ("doctor", "-o", "json", *only), ("config", "show")):
            ended = shell(house, *command, **changes)
            for form in (password, written, password[-8:], "s3cr3t"):
                assert form not in ended.stdout + ended.stderr
            assert "Traceback" not in ended.stderr


class TestSettings:
    def test_every_fault_is_a_finding_and_hides_no_other_check(self, look: Look) -> None:
        found = look("settings", "database", "storage", MAX_SIDE="0", RESULTS="here", TYPO="1")

        assert [(f.check, f.status) for f in found] == [
            *[("settings", FAILED)] * 3,
            ("database", OK),
            ("storage", SKIPPED),
        ]
        assert all(finding.mend for finding in found[:3])

    def test_alone_a_check_says_itself_what_is_wrong_with_its_settings(self, look: Look) -> None:
        finding = one(look("broker", BROKER_URL="amqp://host"))

        assert finding.status is FAILED
        assert "TWOFOLD_BROKER_URL is wrong" in finding.what


class TestDatabase:
    @pytest.mark.parametrize(
        ("change", "mend"),
        [
            ({"port": 1}, "Start Postgres"),
            ({"password": "wrong"}, "user and password"),
            ({"database": "nowhere"}, "createdb"),
            ({"host": "no.such.host.invalid"}, "Correct the host"),
            ({"query": {"options": "-cdefault_transaction_read_only=on"}}, "primary"),
        ],
    )
    def test_says_why_it_cannot_be_used(
        self, house: House, look: Look, change: Any, mend: str
    ) -> None:
        finding = one(look("database", DATABASE_URL=_changed(house, **change)))

        assert finding.status is FAILED
        assert mend in finding.mend

    def test_a_silent_server_ends_in_time_and_hides_nothing(self, house: House, look: Look) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = _changed(house, port=server.getsockname()[1])
            found = look("database", "schema", "keeper", "broker", DATABASE_URL=url)

        assert [finding.status for finding in found] == [FAILED, SKIPPED, OK, SKIPPED]
        assert "timeout" in found[0].what
        assert found[0].seconds < 10

    def test_a_role_that_lacks_rights_is_told_which(self, house: House, look: Look) -> None:
        role = f"reader_{secrets.token_hex(4)}"
        with house.engine.begin() as connection:
            connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'reader'"))
            connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"))
        try:
            url = _changed(house, username=role, password="reader")
            finding = one(look("database", DATABASE_URL=url))
        finally:
            with house.engine.begin() as connection:
                connection.execute(text(f"DROP OWNED BY {role}"))
                connection.execute(text(f"DROP ROLE {role}"))

        assert finding.status is FAILED
        assert "INSERT on jobs, UPDATE on jobs" in finding.what
        assert finding.mend.startswith("GRANT")

    def test_a_role_that_may_not_read_secrets_is_well(self, house: House, look: Look) -> None:
        role = f"worker_{secrets.token_hex(4)}"
        with house.engine.begin() as connection:
            connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'worker'"))
            connection.execute(text(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"))
            connection.execute(text(f"REVOKE ALL ON webhook_secrets FROM {role}"))
        try:
            url = _changed(house, username=role, password="worker")
            finding = one(look("database", DATABASE_URL=url))
        finally:
            with house.engine.begin() as connection:
                connection.execute(text(f"DROP OWNED BY {role}"))
                connection.execute(text(f"DROP ROLE {role}"))

        assert finding.status is OK, finding

    def test_what_is_deleted_from_is_asked_for(self) -> None:
        modules = [
            importlib.import_module(f"{ledger.__name__}.{module.name}")
            for module in pkgutil.iter_modules(ledger.__path__)
        ]
        emptied = {
            table
            for module in modules
            for statement in vars(module).values()
            if isinstance(statement, TextClause)
            for table in re.findall(r"DELETE FROM (\w+)", statement.text)
        }

        assert emptied - set(vitals._SECRET) == set(vitals._EMPTIED)

    def test_leaves_nothing_behind(self, house: House, look: Look) -> None:
        look("database", "schema", "clock", "keeper", "workers", "worker")

        for name in ("jobs", "runs", "submissions", "pulse"):
            assert house.rows(f"SELECT * FROM {name}") == []


class TestSchema:
    def test_one_that_was_never_migrated(self, house: House, look: Look) -> None:
        _empty(house.engine)

        found = look("database", "schema", "keeper", "workers")

        assert [finding.status for finding in found] == [OK, FAILED, SKIPPED, SKIPPED]
        assert "no job table yet" in found[1].what
        assert "twofold db migrate" in found[1].mend

    def test_one_that_is_behind(
        self, look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A version with one more migration looks at the database of this one."""
        own = Path(database.__file__).with_name("migrations")
        newer = tmp_path / "migrations"
        shutil.copytree(own, newer)
        (newer / "versions" / "next.py").write_text(
            "revision = 'next'\ndown_revision = " + repr(_head()) + "\n", encoding="utf-8"
        )
        of_settings = database.alembic_config

        def config(settings: DatabaseSettings) -> Any:
            made = of_settings(settings)
            made.set_main_option("script_location", str(newer))
            return made

        monkeypatch.setattr(database, "alembic_config", config)

        finding = one(look("schema"))

        assert finding.status is FAILED
        assert "needs next" in finding.what
        assert "twofold db migrate" in finding.mend

    def test_one_that_is_ahead_still_works(self, house: House, look: Look) -> None:
        _stamp(house.engine, "9999")

        finding = one(look("schema"))

        assert finding.status is WARNING
        assert "newer than this program" in finding.what
        assert "Update this program" in finding.mend

    def test_another_programs_database(self, house: House, look: Look) -> None:
        _empty(house.engine)
        with house.engine.begin() as connection:
            connection.execute(text("CREATE TABLE alembic_version (version_num text)"))
            connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))

        finding = one(look("schema"))

        assert finding.status is FAILED
        assert "another program's" in finding.what


class TestBroker:
    def test_says_what_it_does_with_tickets_when_it_is_full(
        self, look: Look, broker_url: str
    ) -> None:
        with redis.Redis.from_url(broker_url) as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
            try:
                finding = one(look("broker"))
            finally:
                client.config_set("maxmemory-policy", "noeviction")
            assert client.keys() == []

        assert finding.status is OK
        assert "allkeys-lru: harmless" in finding.what

    @pytest.mark.parametrize(
        ("url", "mend"),
        [
            ("redis://127.0.0.1:1/0", "Start Redis"),
            ("redis://:wrong@{0.host}:{0.port}/0", "Correct the password"),
            ("redis://:{0.password}@{0.host}:{0.port}/99", "database number"),
            ("redis://:{0.password}@{0.host}:p/0", "Percent-encode"),
            ("filesystem:///no/such/folder", "Create it"),
        ],
    )
    def test_says_why_it_cannot_be_used(
        self, look: Look, broker_url: str, url: str, mend: str
    ) -> None:
        finding = one(look("broker", BROKER_URL=url.format(make_url(broker_url))))

        assert finding.status is FAILED
        assert mend in finding.mend

    def test_a_silent_server_ends_in_time(self, look: Look) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
            finding = one(look("broker", BROKER_URL=url))

        assert finding.status is FAILED
        assert "rediss://" in finding.mend
        assert finding.seconds < 10

    def test_a_folder_takes_tickets(self, look: Look, tmp_path: Path) -> None:
        for name in ("queue", "control"):
            (tmp_path / "bell" / name).mkdir(parents=True)

        assert one(look("broker", BROKER_URL=f"filesystem://{tmp_path}/bell")).status is OK


class TestStorage:
    def test_leaves_nothing_behind(self, look: Look, s3: "S3Client", bucket: str) -> None:
        found = look("storage")

        assert [finding.status for finding in found] == [OK, OK]
        assert "Contents" not in s3.list_objects_v2(Bucket=bucket)

    def test_a_missing_bucket(self, look: Look) -> None:
        results, _ = look("storage", RESULTS="s3://no-such-bucket-here/results")

        assert results.status is FAILED
        assert "aws s3 mb s3://no-such-bucket-here" in results.mend

    @pytest.mark.parametrize(
        ("action", "status"),
        [("PutObject", FAILED), ("GetObject", FAILED), ("DeleteObject", WARNING)],
    )
    def test_what_may_not_be_done_is_named(
        self, look: Look, s3: "S3Client", bucket: str, action: str, status: Status
    ) -> None:
        _deny(s3, bucket, action)

        results, *_ = look("storage")

        assert results.status is status
        assert f"s3:{action} on arn:aws:s3:::{bucket}/results/*" in results.mend

    def test_a_store_that_ignores_conditions(self, look: Look) -> None:
        with _forgetful_store() as url:
            found = look("storage", S3_ENDPOINT_URL=url)

        assert [finding.status for finding in found] == [FAILED, FAILED]
        assert "ignores the condition" in found[0].what
        assert "CONDITIONAL_WRITES=false" in found[0].mend

    def test_a_server_that_is_gone_or_silent(self, look: Look) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            silent = f"http://127.0.0.1:{server.getsockname()[1]}"
            for url in ("http://127.0.0.1:1", silent):
                found = look("storage", "clock", S3_ENDPOINT_URL=url)

                assert [finding.status for finding in found] == [FAILED, FAILED, OK, SKIPPED]
                assert "TWOFOLD_S3_ENDPOINT_URL" in found[0].mend
                assert all(finding.seconds < 10.5 for finding in found)

    def test_further_buckets_are_asked_for_and_not_written_to(
        self, look: Look, s3: "S3Client"
    ) -> None:
        other = f"twofold-other-{secrets.token_hex(4)}"
        s3.create_bucket(Bucket=other)
        s3.put_bucket_versioning(Bucket=other, VersioningConfiguration={"Status": "Enabled"})

        _, _, there, missing = look("storage", BUCKETS=f"zz-missing-bucket,{other}")

        assert (there.status, missing.status) == (OK, FAILED)
        assert "zz-missing-bucket" in missing.mend
        assert "Versions" not in s3.list_object_versions(Bucket=other)

    def test_a_folder(self, look: Look, tmp_path: Path) -> None:
        place = {"RESULTS": f"file://{tmp_path}/results", "UPLOADS": f"file://{tmp_path}/up"}

        assert [f.status for f in look("storage", FILE_ROOT=str(tmp_path), **place)] == [OK, OK]
        results, _ = look("storage", FILE_ROOT=str(tmp_path), RESULTS="file:///elsewhere/results")
        assert results.status is FAILED
        assert "TWOFOLD_FILE_ROOT" in results.what
        assert not [
            path for path in tmp_path.rglob("*") if path.is_file() and "log" not in path.name
        ]


class TestClock:
    def test_agrees_with_the_servers_of_this_machine(self, look: Look) -> None:
        assert [finding.status for finding in look("clock")] == [OK, OK]

    def test_a_store_whose_clock_is_off(self, look: Look) -> None:
        with _forgetful_store(late=timedelta(minutes=20)) as url:
            _, theirs = look("clock", S3_ENDPOINT_URL=url)

        assert theirs.status is FAILED
        assert "1200 s ahead of S3's" in theirs.what


class TestKeeper:
    def test_nobody_ever_looked(self, look: Look) -> None:
        assert "ever" in one(look("keeper")).what

    def test_nobody_looked_for_long(self, house: House, look: Look) -> None:
        _beat(house.engine, "1 hour")

        finding = one(look("keeper"))

        assert finding.status is FAILED
        assert "60 min" in finding.what
        assert "twofold keeper" in finding.mend

    def test_workers_look_but_nobody_keeps(self, house: House, look: Look) -> None:
        begun(house.engine)
        with house.engine.begin() as connection:
            sweeps.rescue(connection, every_seconds=1)
        never = one(look("keeper"))
        _beat(house.engine, "1 hour")
        long_ago = one(look("keeper"))

        assert (never.status, long_ago.status) == (FAILED, FAILED)
        assert ("ever" in never.what, "60 min" in long_ago.what) == (True, True)

    def test_a_keeper_keeps_but_does_not_keep_up(self, house: House, look: Look) -> None:
        submitted(house.engine, new_job(finish_by=PAST))
        _beat(house.engine, "0 s")

        finding = one(look("keeper"))

        assert finding.status is FAILED
        assert "does not keep up" in finding.what

    def test_a_worker_that_froze_in_a_rescue_is_not_waited_for(self, house: House) -> None:
        """The keeper does all the rest, and says when it kept once the row is free."""
        _beat(house.engine, "0 s")
        with (
            house.engine.begin() as frozen,
            house.engine.begin() as connection,
        ):
            sweeps.rescue(frozen, every_seconds=1)
            database.bound_waits(connection, seconds=1)
            sweeps.note_kept(connection)


class TestWorkers:
    def test_nobody_works_and_jobs_wait(self, house: House, look: Look) -> None:
        assert one(look("workers")).status is OK
        submitted(house.engine)

        finding = one(look("workers"))

        assert finding.status is WARNING
        assert "1 queued" in finding.what

    def test_live_workers_are_counted_by_what_they_are(self, house: House, look: Look) -> None:
        for _ in range(2):
            begun(house.engine)
        assert "2 workers on cpu with sd-x2-latent-upscaler revision-1" in one(look("workers")).what
        begun(house.engine, model_revision="revision-2")

        finding = one(look("workers"))

        assert finding.status is WARNING
        assert "different models" in finding.what

    def test_jobs_that_fit_no_live_worker_are_told_where_no_pools_are(
        self, house: House, look: Look
    ) -> None:
        begun(house.engine, max_lattice_pixels=512 * 512)
        submitted(house.engine, of_side(1024), new_job())

        fleet, unfit = look("workers")

        assert (fleet.status, unfit.status) == (OK, WARNING)
        assert unfit.what.endswith(": 1.")
        assert "TWOFOLD_POOLS" in unfit.mend
        assert one(look("workers", POOLS="large=4194304")).status is OK

    def test_the_worker_of_this_host(self, house: House, look: Look) -> None:
        """Skipped where none runs and nobody asked; a failure for a health check that asks."""
        begun(house.engine, host="another")
        every = list(examine(Effective.of(house.environment)))
        assert [f.status for f in every if f.check == "worker"] == [SKIPPED]
        assert one(look("worker")).status is FAILED
        begun(house.engine, host=socket.gethostname())
        assert one(look("worker")).status is OK


class TestWorkersOwn:
    def test_is_skipped_where_the_worker_is_not_installed(
        self, look: Look, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

        found = [*look("model"), *look("device")]

        assert [finding.status for finding in found] == [FAILED, FAILED]
        assert all("twofold[worker]" in finding.mend for finding in found)

    def test_is_told_by_a_process_of_its_own(
        self, look: Look, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TWOFOLD_MODEL", "/no/such/model")
        monkeypatch.setenv("TWOFOLD_DEVICE", "cuda:99")

        model, device = look("model", "device")

        assert (model.check, model.status) == ("model", FAILED)
        assert "/no/such/model" in model.what
        assert (device.check, device.status) == ("device", FAILED)
        assert "cuda:99" in device.what

    def test_one_that_ends_halfway_is_a_failure(
        self, look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = tmp_path / "python"
        line = json.dumps(findings.ok("device", "so far.").to_json())
        program.write_text(f"#!/bin/sh\necho '{line}'\necho gone >&2\nexit 3\n", encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

        begun, ended = look("device")

        assert (begun.status, ended.status) == (OK, FAILED)
        assert "ended with 3" in ended.what
        assert "gone" in ended.what


def _changed(house: House, **change: Any) -> str:
    url = make_url(house.environment["TWOFOLD_DATABASE_URL"]).set(drivername="postgresql", **change)
    return url.render_as_string(hide_password=False)


def _empty(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))


def _stamp(engine: Engine, revision: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})


def _beat(engine: Engine, ago: str) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO pulse (id, kept_at) "
                "VALUES (1, clock_timestamp() - CAST(:ago AS interval)) "
                "ON CONFLICT (id) DO UPDATE SET kept_at = excluded.kept_at"
            ),
            {"ago": ago},
        )


def _head() -> str:
    versions = Path(database.__file__).with_name("migrations") / "versions"
    return max(path.name for path in versions.glob("0*.py")).partition("_")[0]


def _deny(s3: "S3Client", bucket: str, action: str) -> None:
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": [f"s3:{action}"],
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


def _on_terminal(house: House, *arguments: str, **more: str) -> str:
    """What `twofold` shows on a terminal."""
    ours, theirs = pty.openpty()
    outside = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "TERM"}}
    with subprocess.Popen(
        [sys.executable, "-m", "twofold_producer", *arguments],
        env=outside | house.environment | {"TERM": "xterm", "LC_ALL": "C.UTF-8"} | more,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    ):
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:
            # Linux ends a terminal whose other side is closed with an error.
            pass
        finally:
            os.close(ours)
    return shown.decode()


@contextmanager
def _forgetful_store(late: timedelta = timedelta()) -> Iterator[str]:
    """The URL of an S3 that knows no conditions, and whose clock may be late."""
    objects: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            objects[self.path] = self._body()
            self._answer(200)

        def do_GET(self) -> None:
            self._answer(200, objects[self.path])

        def do_HEAD(self) -> None:
            self._answer(200)

        def do_DELETE(self) -> None:
            objects.pop(self.path, None)
            self._answer(204)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return format_datetime(datetime.now(UTC) - late, usegmt=True)

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers["Content-Length"]))

        def _answer(self, status: int, data: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
