"""Everything on one machine: real Postgres and Redis, a folder as store, keeper, API, worker."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from twofold_producer.dev import STAND_IN
from twofold_producer.dev.files import FileServer
from twofold_producer.dev.lifeline import Lifeline
from twofold_producer.dev.postgres import Postgres
from twofold_producer.dev.redis import Redis
from twofold_schema import database
from twofold_schema.api_key import Scope
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.environment import PREFIX
from twofold_schema.errors import ConfigError
from twofold_schema.ledger import api_keys, runs
from twofold_schema.settings import DEMO_MODEL, DatabaseSettings

_READY_SECONDS = 300.0
_KEY_LIFETIME = timedelta(days=30)
_LOG_TAIL = 2000

#: Told what is being started.
OnStep = Callable[[str], None]


class Stack:
    """The parts, started in order and ended together; none outlives this process.

    Attributes:
        folder: Where the store and the logs lie.
        environment: The TWOFOLD_ settings that reach this stack.
    """

    def __init__(self, folder: Path, *, temporary: bool) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}
        self._temporary = temporary
        self._parts = ExitStack()
        self._processes: dict[str, Lifeline] = {}

    @classmethod
    def start(
        cls,
        folder: Path | None = None,
        *,
        model: str = DEMO_MODEL,
        processes: int = 1,
        on_step: OnStep = lambda step: None,  # noqa: ARG005 - nobody listens
    ) -> Self:
        """Start everything and wait until a worker is ready.

        Args:
            folder: Keeps jobs and pictures for the next start; None for a folder that goes at the
                end.
            model: `demo`, `stand-in`, or the folder of a model.
            processes: Worker processes.
            on_step: Told what is being started.

        Raises:
            ConfigError: A part is missing or did not start; the message has its last words.
        """
        temporary = folder is None
        stack = cls(folder or Path(tempfile.mkdtemp(prefix="twofold-dev-")), temporary=temporary)
        try:
            stack._start_services(on_step)
            stack._start_processes(model, processes, on_step)
        except BaseException:
            stack.stop()
            raise
        return stack

    def logs(self) -> Mapping[str, Path]:
        """Where each process writes what it has to say."""
        return {name: self.folder / "logs" / f"{name}.log" for name in self._processes}

    def check(self) -> None:
        """Notice the end of a part.

        Raises:
            ConfigError: A part has ended by itself.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise ConfigError(f"The {name} has ended. {self._last_words(name)}")

    def stop(self) -> None:
        """End all parts, the worker first, so that it can hand its jobs back."""
        for name in reversed(list(self._processes)):
            self._processes.pop(name).stop()
        self._parts.close()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start_services(self, on_step: OnStep) -> None:
        for name in ("logs", "store"):
            try:
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"{self.folder} can be no folder of jobs and pictures: {error.strerror}. "
                    "Name another with --data."
                ) from None
        on_step("Postgres")
        keep = None if self._temporary else self.folder / "postgres"
        postgres = self._parts.enter_context(Postgres.start(keep))
        on_step("Redis")
        store = (self.folder / "store").resolve()
        files = self._parts.enter_context(FileServer(store))
        self.environment = {
            f"{PREFIX}DATABASE_URL": postgres.url.replace("postgresql+psycopg", "postgresql"),
            f"{PREFIX}BROKER_URL": self._broker_url(),
            f"{PREFIX}FILE_ROOT": str(store),
            f"{PREFIX}FILE_URL": files.route.url,
            f"{PREFIX}FILE_URL_SECRET": files.route.secret,
            f"{PREFIX}UPLOADS": str(ArtifactUri.of_file(store / "uploads")),
            f"{PREFIX}RESULTS": str(ArtifactUri.of_file(store / "results")),
            # Webhooks reach a receiver on this machine.
            f"{PREFIX}WEBHOOK_ALLOW": "127.0.0.0/8,::1/128",
            f"{PREFIX}WEBHOOK_HTTP": "true",
            f"{PREFIX}WEBHOOK_PORTS": "443,1024-65535",
        }
        on_step("job table")
        database.migrate(DatabaseSettings.load(self.environment))

    def _broker_url(self) -> str:
        try:
            return self._parts.enter_context(Redis.start()).url
        except ConfigError:
            # No wheel of a Redis server fits this machine; a folder carries tickets as well.
            folder = self.folder / "tickets"
            for name in ("queue", "control"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            return f"filesystem://{folder.resolve()}"

    def _start_processes(self, model: str, processes: int, on_step: OnStep) -> None:
        on_step("keeper")
        self._start_process("keeper", ["twofold_producer", "keeper"], {})
        on_step("API")
        log = self.folder / "logs" / "api.log"
        # What the API of an earlier start said stands before this.
        before = log.stat().st_size if log.exists() else 0
        self._start_process("api", ["twofold_producer", "api", "--port", "0"], {})
        self.environment[f"{PREFIX}URL"] = self._wait_for_api(log, before)
        self.environment[f"{PREFIX}API_KEY"] = self._new_key()
        on_step(f"worker with the {model} model")
        if model == STAND_IN:
            model = str(self._stand_in_folder())
        # Part of what reaches this stack: the doctor looks at it.
        self.environment[f"{PREFIX}MODEL"] = model
        self.environment[f"{PREFIX}ENV"] = "dev"
        self._start_process("worker", ["twofold_worker"], {f"{PREFIX}PROCESSES": str(processes)})
        self._wait_for_worker()

    def _start_process(self, name: str, module: list[str], more: Mapping[str, str]) -> None:
        others = {key: text for key, text in os.environ.items() if not key.startswith(PREFIX)}
        self._processes[name] = Lifeline.start(
            [sys.executable, "-m", *module],
            log=self.folder / "logs" / f"{name}.log",
            env={**others, **self.environment, **more},
            grace_seconds=70.0,
        )

    def _stand_in_folder(self) -> Path:
        folder = self.folder / "stand-in-model"
        build = [sys.executable, "-m", "twofold_worker.upscaler.standin", str(folder)]
        built = subprocess.run(build, capture_output=True, text=True, check=False)
        if built.returncode:
            raise ConfigError(
                "The stand-in model cannot be built; install the worker's part with "
                f"`pip install 'twofold[worker,dev]'`. {built.stderr[-_LOG_TAIL:]}"
            )
        return folder

    def _wait_for_api(self, log: Path, before: int) -> str:
        """Its URL, once it says behind so many bytes of its log that it listens."""
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            self.check()
            for line in log.read_bytes()[before:].decode(errors="replace").splitlines():
                if '"listening"' in line:
                    return str(json.loads(line)["url"])
            time.sleep(0.05)
        raise ConfigError(f"The API did not get ready. {self._last_words('api')}")

    def _new_key(self) -> str:
        """An API key to everything, of this start."""
        engine = database.connect(DatabaseSettings.load(self.environment))
        try:
            with engine.begin() as connection:
                made = api_keys.create(
                    connection,
                    "twofold dev",
                    tenant=None,
                    scopes=[Scope.ADMIN],
                    reason="everything on one machine",
                    who="twofold dev",
                    lifetime=_KEY_LIFETIME,
                )
        finally:
            engine.dispose()
        return made.secret

    def _wait_for_worker(self) -> None:
        engine = database.connect(DatabaseSettings.load(self.environment))
        deadline = time.monotonic() + _READY_SECONDS
        try:
            while time.monotonic() < deadline:
                self.check()
                with engine.connect() as connection:
                    if runs.count_idle(connection):
                        return
                time.sleep(0.1)
        finally:
            engine.dispose()
        raise ConfigError(f"The worker did not get ready. {self._last_words('worker')}")

    def _last_words(self, name: str) -> str:
        log = self.folder / "logs" / f"{name}.log"
        return f"{log} ends: {log.read_text(errors='replace')[-_LOG_TAIL:].strip()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
