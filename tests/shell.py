"""The command `twofold` as a shell runs it.

Loading Twofold takes a processor longer than most commands take in all. So a server, begun with
the first command, loads what commands import and forks for each. A command is still a process of
its own, with its own environment, folder and exit code, that prints to where it was told.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

Ended: TypeAlias = subprocess.CompletedProcess[str]
Going: TypeAlias = subprocess.Popen[str]

_LIMIT = 60.0  # seconds

# Not the command line itself: it asks when it is imported whether it prints to a terminal.
_LOADED = (
    "alembic.command",
    "boto3",
    "rich.progress",
    "typer",
    "twofold_producer.client",
    "twofold_producer.dev.stack",
    "twofold_producer.doctor.checks",
    "twofold_producer.keeper",
    "twofold_producer.producer",
    "twofold_schema.effective",
)
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(list(_LOADED))


class Shell:
    """Runs `twofold` in a folder, with these settings and no others."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        outside = {k: v for k, v in os.environ.items() if not k.startswith("TWOFOLD_")}
        self._environment = {**outside, **environment}
        self._folder = folder

    @contextmanager
    def begun(self, *arguments: object, stdin: int = subprocess.DEVNULL) -> Iterator[Going]:
        """A command that goes on while the caller does something; it ends with that at the latest.

        Nothing of it is loaded before.

        Args:
            arguments: Of the command.
            stdin: A terminal's file, say.
        """
        process = subprocess.Popen(
            [sys.executable, "-m", "twofold_producer", *map(str, arguments)],
            cwd=self._folder,
            env=self._environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def __call__(self, *arguments: object, **settings: str) -> Ended:
        """Run a command to its end."""
        words = [str(argument) for argument in arguments]
        with tempfile.TemporaryDirectory() as folder:
            streams = [Path(folder) / name for name in ("stdout", "stderr")]
            environment = self._environment | settings
            command = _server.Process(
                target=_become, args=(words, environment, self._folder, streams)
            )
            command.start()
            command.join(_LIMIT)
            if command.exitcode is None:
                command.kill()
                command.join()
                raise subprocess.TimeoutExpired(words, _LIMIT)
            printed = [stream.read_text(encoding="utf-8") for stream in streams]
        return subprocess.CompletedProcess(words, command.exitcode, *printed)


def _become(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, streams: Sequence[Path]
) -> None:
    """Be that command: what the forked process runs."""
    for descriptor, stream in enumerate([Path(os.devnull), *streams]):
        with stream.open("r+b" if descriptor == 0 else "wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["twofold", *words]
    runpy.run_module("twofold_producer", run_name="__main__", alter_sys=True)
