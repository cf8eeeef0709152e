"""The far end of a lifeline: a script for a bare interpreter, so standard library only.

Standard input is a socket to the owner. Its first line is the plan, in JSON: the keywords of
`run`, and `remove`, a list of folders. The answer is the child's process id. After that one byte
is the owner's order to end, and the end of the file says that the owner is gone.
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_OWNER = 0  # standard input
_CANNOT_RUN = 127  # what a shell answers for a command that it cannot run


def read_plan() -> bytes:
    """Read the owner's first line, and not one byte more: the next is an order."""
    # Unbuffered, as every read here: a thread that waits in a buffered read holds a lock without
    # which the interpreter cannot end.
    with open(_OWNER, "rb", buffering=0, closefd=False) as owner:
        return owner.readline()


def answer(pid: int) -> None:
    """Tell the owner which process it got; 0 for none."""
    with suppress(BrokenPipeError):  # a dead owner shows at the next read
        os.write(_OWNER, str(pid).encode())


def await_order() -> int:
    """Wait for the owner's order or its end; gives the signal it asks for, 0 for the usual one."""
    try:
        order = os.read(_OWNER, 1)
    except ConnectionResetError:  # killed before it read our answer
        return 0
    return order[0] if order else 0


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None,
    cwd: str | None,
    user: str | None,
    stop_signal: int,
    grace_seconds: float,
) -> int:
    """Run a command until it ends, or end it when the owner orders so or is gone.

    Returns:
        The command's exit code; 128 + N when signal N ended it; 127 when it cannot be run.
    """
    try:
        child = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            user=user,
            group=None if user is None else pwd.getpwnam(user).pw_gid,
            extra_groups=None if user is None else [],
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return _CANNOT_RUN
    answer(child.pid)
    ended = threading.Event()

    def follow_owner() -> None:
        child.send_signal(await_order() or stop_signal)
        if not ended.wait(grace_seconds):
            kill_group(child.pid)

    threading.Thread(target=follow_owner, daemon=True).start()
    code = child.wait()
    ended.set()
    kill_group(child.pid)  # what the child itself left behind
    return code if code >= 0 else 128 - code


def kill_group(group: int) -> None:
    """Kill what is left of a process group."""
    with suppress(ProcessLookupError, PermissionError):  # macOS: the latter for a zombie's group
        os.killpg(group, signal.SIGKILL)


def remove(folder: Path, *, within_seconds: float) -> None:
    """Delete a folder into which the last of a killed group may still be writing."""
    deadline = time.monotonic() + within_seconds
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.01)
    if folder.exists():
        sys.stderr.write(f"{folder} cannot be removed\n")


def main() -> int:
    """Do as the owner's plan says; gives the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Only the owner's end ends a lifeline. Not SIG_IGN: the child would inherit that.
        signal.signal(number, lambda *_: None)
    plan = json.loads(read_plan())
    folders = [Path(folder) for folder in plan.pop("remove")]
    code = 0
    if plan["command"]:
        code = run(**plan)
    else:
        answer(0)
        await_order()
    for folder in folders:
        remove(folder, within_seconds=5.0)
    return code


if __name__ == "__main__":
    sys.exit(main())
