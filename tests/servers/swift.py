"""OpenStack Swift on loopback, speaking S3 over http and TLS, in one temporary folder."""

import os
import pwd
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tests.house import ROOT, eventually
from tests.servers.certificates import HOST, Certificates

from twofold_producer.dev.lifeline import Lifeline

REGION = "us-east-1"

_BACKENDS = ("account", "container", "object")
_PROXIES = ("proxy-http", "proxy-https")

_COMMON = """[DEFAULT]
bind_ip = {host}
bind_port = {port}
bind_timeout = 5
user = {user}
swift_dir = {folder}
workers = 0
log_level = WARNING
conn_timeout = 20
node_timeout = 60
"""

_BACKEND = """devices = {folder}/devices
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
container_update_timeout = 60
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

_PROXY = """[pipeline:main]
pipeline = catch_errors gatekeeper s3api tempauth copy slo dlo versioned_writes proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
error_suppression_limit = 10000
[filter:s3api]
use = egg:swift#s3api
location = {region}
[filter:tempauth]
use = egg:swift#tempauth
user_test_owner = {secret} .admin
user_test_guest = {secret}
"""

_FILTERS = ("catch_errors", "gatekeeper", "copy", "slo", "dlo", "versioned_writes")

_START = "import sys; from swift.{package}.server import main; sys.exit(main())"
_PACKAGES = {"object": "obj"}


class Swift:
    """An account, container and object server and two proxies, ended with this object.

    Attributes:
        http, https: Where the two proxies listen.
        secret: The secret key of both users: `test:owner`, who may do everything, and
            `test:guest`, who may do nothing.
    """

    def __init__(self, certificates: Certificates) -> None:
        self.secret = os.urandom(12).hex()
        self._certificates = certificates
        self._processes = ExitStack()
        self._running: list[Lifeline] = []
        self._folder = Path(tempfile.mkdtemp(prefix="twofold-swift-", dir=_with_attributes()))
        self._guard = Lifeline.start((), log=self._folder / "lifeline.log", remove=[self._folder])
        with ExitStack() as undo:
            undo.callback(self.stop)
            self._ports = dict(zip((*_BACKENDS, *_PROXIES), _free_ports(5), strict=True))
            self.http = f"http://{HOST}:{self._ports['proxy-http']}"
            self.https = f"https://{HOST}:{self._ports['proxy-https']}"
            self._configure()
            self._come_up()
            undo.pop_all()

    def restart(self) -> None:
        """End all processes and start them again over the same folder and ports."""
        self._processes.close()
        self._come_up()

    def stop(self) -> None:
        """End all processes and remove the folder; may be repeated."""
        self._processes.close()
        self._guard.stop()

    def _configure(self) -> None:
        (self._folder / "devices" / "disk").mkdir(parents=True)
        suffix = f"[swift-hash]\nswift_hash_path_suffix = {self.secret}\n"
        (self._folder / "swift.conf").write_text(suffix, encoding="utf-8")
        filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in _FILTERS)
        tls = f"cert_file = {self._certificates.certificate}\nkey_file = {self._certificates.key}\n"
        for name, port in self._ports.items():
            text = _COMMON + (_BACKEND if name in _BACKENDS else _PROXY + filters)
            if name == "proxy-https":
                text = _COMMON + tls + _PROXY + filters
            words = {
                "host": HOST,
                "port": port,
                "user": pwd.getpwuid(os.geteuid()).pw_name,
                "folder": self._folder,
                "kind": name,
                "region": REGION,
                "secret": self.secret,
            }
            (self._folder / f"{name}.conf").write_text(text.format(**words), encoding="utf-8")
        rings = [sys.executable, "-m", "tests.servers.swift_rings", str(self._folder)]
        ports = [str(self._ports[kind]) for kind in _BACKENDS]
        subprocess.run([*rings, *ports], cwd=ROOT, env=_environment(), check=True)

    def _come_up(self) -> None:
        self._running = []
        for name in self._ports:
            kind = name.partition("-")[0]
            start = _START.format(package=_PACKAGES.get(kind, kind))
            process = Lifeline.start(
                [sys.executable, "-c", start, self._folder / f"{name}.conf", "--verbose"],
                log=self._folder / f"{name}.log",
                env=_environment(),
                cwd=self._folder,
                hold=[self._guard.fileno()],
            )
            self._processes.callback(process.stop)
            self._running.append(process)
        eventually(lambda: all(map(self._answers, (self.http, self.https))), why=self.last_words)

    def _answers(self, url: str) -> bool:
        """Whether the whole way to the disk works: a bucket can be made and written."""
        if any(process.poll() is not None for process in self._running):
            raise AssertionError(self.last_words())
        client = boto3.Session().client(
            "s3",
            endpoint_url=url,
            region_name=REGION,
            verify=str(self._certificates.authority),
            aws_access_key_id="test:owner",
            aws_secret_access_key=self.secret,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )
        with closing(client), suppress(BotoCoreError, ClientError):
            with suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket="twofold-ready")
            client.put_object(Bucket="twofold-ready", Key="ready", Body=b"")
            return True
        return False

    def last_words(self) -> str:
        """The end of every process's log."""
        logs = sorted(self._folder.glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in logs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _environment() -> Mapping[str, str]:
    return {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "PYTHONWARNINGS": "ignore"}


def _free_ports(count: int) -> list[int]:
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in sockets]


def _with_attributes() -> Path:
    """A folder for temporary files whose file system keeps attributes, as Swift needs."""
    for folder in (Path(tempfile.gettempdir()), Path("/var/tmp"), ROOT, Path.home()):
        with suppress(OSError), tempfile.NamedTemporaryFile(dir=folder) as probe:
            os.setxattr(probe.fileno(), "user.twofold", b"probe")
            return folder
    raise NoAttributes


class NoAttributes(Exception):
    """No folder for temporary files keeps extended attributes; set TMPDIR to one that does."""
