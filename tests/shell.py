"""The command `twofold` as a shell runs it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

Ended: TypeAlias = subprocess.CompletedProcess[str]
Going: TypeAlias = subprocess.Popen[str]


class Shell:
    """Runs `twofold` in a folder, with these settings and no others."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        outside = {k: v for k, v in os.environ.items() if not k.startswith("TWOFOLD_")}
        self._environment = {**outside, **environment}
        self._folder = folder

    @contextmanager
    def begun(self, *arguments: object, stdin: int = subprocess.DEVNULL) -> Iterator[Going]:
        """A command that goes on while the caller does something; it ends with that at the latest.

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
        return subprocess.run(
            [sys.executable, "-m", "twofold_producer", *map(str, arguments)],
            cwd=self._folder,
            env=self._environment | settings,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
