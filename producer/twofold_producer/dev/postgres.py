"""A Postgres server for one machine: loopback only, with a password, never as root.

With a folder the database stays:

    folder/data           the database cluster, owned by the user the server runs as
    folder/password       kept for the next start, 0600
    folder/postgres.log
    folder/lock           held while a server runs on the folder
"""

import fcntl
import os
import pwd
import shutil
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psycopg

from twofold_producer.dev.binaries import can, postgres_bin
from twofold_producer.dev.server import HOST, Server
from twofold_schema.errors import ConfigError

_NAME = "twofold"  # of the database and of its owner


class Postgres(Server):
    """A running Postgres."""

    name = "postgres"
    stop_signal = signal.SIGINT  # a fast shutdown: does not wait for clients
    crash_signal = signal.SIGQUIT  # an immediate one: the next start replays the log

    def __init__(self, folder: Path | None, account: pwd.struct_passwd | None) -> None:
        user = None if account is None else account.pw_name
        if folder is None:
            super().__init__(user=user)
        else:
            lock = _claim(folder, account)
            try:
                super().__init__(log=folder / "postgres.log", user=user, hold=[lock])
            finally:
                os.close(lock)
        self._account = account
        self._folder = folder
        self._data = (folder or self.scratch) / "data"
        with self._stopped_on_failure():
            self._programs = self._find_programs()
            self._find_cluster()
            self._open()
            self._create_database()

    @classmethod
    def start(cls, folder: Path | None = None, *, user: str = "nobody") -> Self:
        """Start Postgres with an empty database `twofold`, or with the one in the folder.

        Args:
            folder: Where the database is kept, made when it is missing; None for a database that
                goes with the server and is never synced to disk.
            user: Whom the server runs as when this process is root; otherwise without meaning.

        Raises:
            ConfigError: There is no Postgres, the folder is in use or closed to the user, the
                user is unknown, or the server did not start.
        """
        return cls(folder and folder.resolve(), _account(user))

    @property
    def url(self) -> str:
        """`postgresql+psycopg://twofold:PASSWORD@127.0.0.1:PORT/twofold`."""
        return f"postgresql+psycopg://{_NAME}:{self.password}@{HOST}:{self.port}/{_NAME}"

    def _find_programs(self) -> Path:
        if self._account is not None:
            self.scratch.chmod(0o711)
            if not can(self._account, "x", self.scratch):
                raise ConfigError(
                    f"The user {self._user}, whom Postgres runs as, cannot enter {self.scratch}; "
                    "set TMPDIR to a folder that is open to all users."
                )
        return postgres_bin(self._account, self.scratch)

    def _find_cluster(self) -> None:
        """Take the password of the cluster in the folder, or make a cluster."""
        if self._folder is None:
            self._make_cluster()
            return
        password = self._folder / "password"
        if not self._data.exists():
            password.unlink(missing_ok=True)
            _write_private(password, self.password)
            self._make_cluster()
        elif password.exists():
            self.password = password.read_text()
        else:
            raise ConfigError(
                f"{password} is missing, so nobody can open the database beside it; "
                "restore it or choose another folder."
            )

    def _make_cluster(self) -> None:
        """Run initdb, as https://www.postgresql.org/docs/18/app-initdb.html has it."""
        unfinished = self._data.with_name("data.new")
        if unfinished.exists():  # an owner was killed here
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        password = self.scratch / "password"
        _write_private(password, self.password)
        if self._account is not None:
            for path in (unfinished, password):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        command: list[str | Path] = [
            self._programs / "initdb",
            f"--pgdata={unfinished}",
            f"--username={_NAME}",
            "--auth=scram-sha-256",
            f"--pwfile={password}",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",  # sorts alike on every system
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
        ]
        if self._folder is None:
            command.append("--no-sync")
        with self._child(command) as initdb:
            if initdb.wait():
                raise ConfigError(f"Postgres cannot make a database. {self._tail(0)}")
        password.unlink()
        unfinished.rename(self._data)

    def _create_database(self) -> None:
        with self._connect() as connection:
            found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [_NAME])
            if not found.rowcount:
                connection.execute(f"CREATE DATABASE {_NAME}")

    def _command(self) -> Sequence[str | Path]:
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "fsync": "off" if self._folder is None else "on",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self._programs / "postgres", "-D", self._data, *options]

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=HOST,
            port=self.port,
            user=_NAME,
            password=self.password,
            dbname="postgres",
            sslmode="disable",
            connect_timeout=2,
            autocommit=True,
        )

    def _answers(self) -> bool:
        try:
            with self._connect() as connection:
                return connection.execute("SELECT 1").fetchone() is not None
        except psycopg.OperationalError:
            return False


def _account(user: str) -> pwd.struct_passwd | None:
    """Whom the server runs as; None for this process's own user."""
    if os.geteuid() != 0:
        return None
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(f"There is no user {user}; name one for Postgres to run as.") from None
    if account.pw_uid == 0:
        raise ConfigError("Postgres does not run as root; name another user.")
    return account


def _claim(folder: Path, account: pwd.struct_passwd | None) -> int:
    """Make the folder where it is missing and lock it; gives the lock's file descriptor."""
    try:
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"{folder} cannot hold a database: {error.strerror}.") from error
    with ExitStack() as undo:
        undo.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder} is in use by another server; stop that one or choose another folder."
            ) from None
        if account is not None and not can(account, "x", folder):
            raise ConfigError(
                f"The user {account.pw_name}, whom Postgres runs as, cannot enter {folder}; "
                "choose a folder that is open to all users, or do not run this as root."
            )
        undo.pop_all()
    return lock


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text)
