"""What whoever waits at a terminal sees, and what an interrupt leaves: nothing is undone."""

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.api.conftest import Served
from tests.api.test_client import _run, _source
from tests.factories import new_job, submitted
from tests.house import eventually

from twofold_producer.api.follower import Follower

_BEGIN = """
import sys
from uuid import UUID
from twofold_producer.client import Client
client = Client()
def shown():
    return "rich" in sys.modules
"""
_CUT_OFF = -signal.SIGINT


@dataclass
class _Program:
    """A program on a terminal, or with pipes, and what it said so far on standard error."""

    process: subprocess.Popen[bytes]
    error: int
    _said: bytearray = field(default_factory=bytearray)

    def listen(self) -> None:
        try:
            while part := os.read(self.error, 4096):
                self._said += part
        except OSError:
            # Linux ends a terminal whose other side is closed with an error.
            return

    @property
    def said(self) -> str:
        return bytes(self._said).decode(errors="replace").replace("\r\n", "\n")

    def end(self) -> tuple[int, str]:
        """How it ended, and its standard output."""
        out, _ = self.process.communicate(timeout=60)
        return self.process.returncode, out.decode()


@contextmanager
def _program(served: Served, code: str, *, terminal: bool) -> Iterator[_Program]:
    ours, theirs = pty.openpty() if terminal else os.pipe()
    outside = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "TERM"}}
    process = subprocess.Popen(
        [sys.executable, "-c", _BEGIN + code],
        env=outside
        | {"TWOFOLD_URL": served.url, "TWOFOLD_API_KEY": served.issue(), "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    program = _Program(process, ours)
    listener = threading.Thread(target=program.listen)
    listener.start()
    try:
        yield program
    finally:
        process.kill()
        process.wait()
        listener.join()
        os.close(ours)
        if process.stdout is not None:
            process.stdout.close()


def _noting(event: threading.Event, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, which sets an event when it is called."""

    def noted(*arguments: object, **options: object) -> object:
        event.set()
        return method(*arguments, **options)

    return noted


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    "call",
    ["client.wait(ids)", "list(client.as_completed(ids))"],
    ids=["wait", "as_completed"],
)
def test_a_terminal_alone_is_shown_how_far_it_is(
    served: Served, call: str, *, terminal: bool
) -> None:
    ids = submitted(served.house.engine, *[new_job()] * 3)
    assert _run(served) == 3
    names = ", ".join(f"UUID('{job_id}')" for job_id in ids)
    code = f"ids = [{names}]\nprint(len({call}), shown())"
    with _program(served, code, terminal=terminal) as program:
        assert program.end() == (0, f"3 {terminal}\n")
        if terminal:
            eventually(lambda: "3/3" in program.said)
            assert "upscaling" in program.said
        else:
            assert program.said == ""


@pytest.mark.parametrize(
    ("progress", "said"), [("True", "4 of 4 items were answered\n"), ("False", ""), ("None", "")]
)
def test_a_pipe_is_told_where_that_is_asked_for(served: Served, progress: str, said: str) -> None:
    code = (
        f"items = [{{'source': '{_source(served)}'}}] * 4\n"
        f"print(client.submit_many(items, progress={progress}).created)"
    )
    with _program(served, code, terminal=False) as program:
        assert program.end() == (0, "4\n")
        eventually(lambda: program.said == said)


def test_what_is_printed_meanwhile_goes_where_it_should(served: Served) -> None:
    """Standard output is a pipe here, and a bar is on the terminal."""
    (job_id,) = submitted(served.house.engine)
    assert _run(served) == 1
    code = f"for job in client.as_completed([UUID('{job_id}')]):\n    print(job.id)"
    with _program(served, code, terminal=True) as program:
        assert program.end() == (0, f"{job_id}\n")
        assert str(job_id) not in program.said


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    ("call", "hint"),
    [
        ("client.wait(ids)", "The jobs go on. Wait again with: twofold jobs get --wait {job}\n"),
        ("list(client.as_completed(made))", "twofold submissions get {submission}; "),
        ("list(client.map(iter(items)))", "twofold submissions get "),
    ],
    ids=["wait", "as_completed", "map"],
)
def test_an_interrupt_says_how_to_go_on_and_the_work_does(
    served: Served, call: str, hint: str, monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> None:
    waits = threading.Event()
    for name in ("wait_for_job", "listen"):
        monkeypatch.setattr(Follower, name, _noting(waits, getattr(Follower, name)))
    code = (
        f"items = [{{'source': '{_source(served)}'}}]\n"
        "made = client.submit_many(items, progress=False)\n"
        "ids = list(made.job_ids)\n"
        "print(ids[0], made.id, flush=True)\n"
        f"{call}"
    )
    with _program(served, code, terminal=terminal) as program:
        assert program.process.stdout is not None
        job, submission = program.process.stdout.readline().decode().split()
        assert waits.wait(60)
        program.process.send_signal(signal.SIGINT)
        assert program.end()[0] == _CUT_OFF
        expected = hint.format(job=job, submission=submission)
        eventually(lambda: "KeyboardInterrupt" in program.said)
        before, _, _ = program.said.partition("Traceback")
        assert expected in before
        if not terminal:
            assert before.count("\n") == 1
    states = {row["state"] for row in served.house.rows("SELECT state FROM jobs")}
    assert states == {"queued"}


def test_an_interrupted_submission_goes_on_under_its_key(served: Served) -> None:
    """The key was drawn by the client, and is in the line that it prints."""
    code = (
        "import signal\n"
        f"items = [{{'source': '{_source(served)}'}}] * 3\n"
        "def interrupt(answers):\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "client.submit_many(items, on_answers=interrupt)"
    )
    with _program(served, code, terminal=False) as program:
        assert program.end()[0] == _CUT_OFF
        eventually(lambda: "KeyboardInterrupt" in program.said)
        key = program.said.partition('key="')[2].partition('"')[0]
    with served.client() as client:
        again = client.submit_many([{"source": _source(served)}] * 3, key=key)
    assert (again.created, again.existing) == (0, 3)
