"""A child process that cannot outlive its owner, even one that is killed with SIGKILL.

    owner ── socket ──▶ far end ── signals ──▶ child

The far end (`far_end.py`) is a small process that waits on a socket which only the owner holds.
When the owner says so, or is gone, it stops the child, waits for it, and removes the folders it
was given.

Linux has PR_SET_PDEATHSIG for this, but that follows the thread that forked, is lost when the
child changes its user, and does not exist elsewhere.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from twofold_schema.errors import ConfigError

_FAR_END = Path(__file__).with_name("far_end.py")


class Lifeline:
    """The owner's end. As a context manager it stops the child when the block is left.

    It must be stopped, or its owner must end; several may run at once and stop in any order.

    Attributes:
        pid: The child's process id; 0 when there is no command.
    """

    pid: int

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket) -> None:
        self.pid = 0
        self._process = process
        self._line = line
        _lines.add(line)

    @classmethod
    def start(
        cls,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_seconds: float = 10.0,
        remove: Collection[Path] = (),
        hold: Collection[int] = (),
    ) -> Self:
        """Start a command that ends with this process.

        Args:
            command: The program and its arguments; empty to only remove folders in the end.
            log: Gets what the child prints, appended.
            env: The child's whole environment; None for this process's own.
            cwd: Where the child starts; None for here.
            user: Whom the child runs as, with that user's own group only; needs root.
            stop_signal: What the child gets when it shall end or the owner is gone.
            grace_seconds: How long it may take then; after that its process group gets SIGKILL.
            remove: Folders that are deleted, whoever owns their files, once the child has ended.
            hold: File descriptors of this process that stay open until the lifeline ends, while
                the child gets none of them. A lock on a file lasts as long as the child this way;
                with another lifeline's `fileno()` that other one outlives this one.

        Raises:
            ConfigError: The command cannot be run.
        """
        ours, theirs = socket.socketpair()
        label = Path(command[0]).name if command else "folders"
        with theirs, log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", _FAR_END, label],
                stdin=theirs.fileno(),
                stdout=output,
                stderr=output,
                # A terminal's Ctrl-C goes to the owner alone, who decides what to stop and when.
                start_new_session=True,
                pass_fds=tuple(hold),
            )
        lifeline = cls(process, ours)
        plan = {
            "command": [str(word) for word in command],
            "env": None if env is None else dict(env),
            "cwd": None if cwd is None else str(cwd),
            "user": user,
            "stop_signal": int(stop_signal),
            "grace_seconds": grace_seconds,
            "remove": [str(folder) for folder in remove],
        }
        # The plan goes over the socket, not the command line: an environment may hold secrets.
        answer = b""
        with suppress(ConnectionError):
            ours.sendall(json.dumps(plan).encode() + b"\n")
            answer = ours.recv(32)
        if not answer:
            lifeline.stop()
            raise ConfigError(f"{label} cannot be run; {log} says why.")
        lifeline.pid = int(answer)
        return lifeline

    def fileno(self) -> int:
        """The descriptor whose closing ends the lifeline, to be held by another lifeline."""
        return self._line.fileno()

    def poll(self) -> int | None:
        """The child's exit code, 128 + N when signal N ended it; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_seconds: float | None = None) -> int:
        """Wait until the child ends by itself.

        Returns:
            The exit code, as `poll` gives it.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        return self._process.wait(timeout_seconds)

    def stop(self, stop_signal: signal.Signals | None = None) -> int:
        """End the child and wait until it is gone and its folders are removed; may be repeated.

        Args:
            stop_signal: Another signal than the one given at the start.

        Returns:
            The exit code, as `poll` gives it.
        """
        if self._line.fileno() >= 0:
            # The order is a byte, not only the closing: others may hold the descriptor too. Once
            # the child has ended by itself nobody reads it.
            with suppress(ConnectionError):
                self._line.send(bytes([stop_signal or 0]))
            self._line.close()
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


_lines: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _let_go() -> None:
    for line in tuple(_lines):
        line.close()


# Programs that this process executes never inherit the sockets. A forked copy of it does, and
# would keep the children alive after the owner's death.
os.register_at_fork(after_in_child=_let_go)
