"""Threads beside the engine's are nicer than it; no turn with the interpreter's lock is long."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from twofold_worker.precedence import let_the_engine_pass

_SHORTENED = """
import sys
from twofold_worker.precedence import shorten_turns
before = sys.getswitchinterval()
shorten_turns()
print(before / sys.getswitchinterval())
"""


#: Elsewhere a thread is as nice as its process.
_NICER = 10 if sys.platform == "linux" else 0


def _niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def test_a_thread_that_lets_the_engine_pass_changes_nobody_else() -> None:
    mine = _niceness()
    with ThreadPoolExecutor(1, initializer=let_the_engine_pass) as pool:
        theirs = pool.submit(_niceness).result()
    assert (theirs, _niceness()) == (min(mine + _NICER, 19), mine)


def test_turns_are_a_tenth_of_pythons_default() -> None:
    """In a process of its own: the interval is the whole interpreter's."""
    answer = subprocess.run(
        [sys.executable, "-c", _SHORTENED], capture_output=True, text=True, check=True
    )
    assert float(answer.stdout) == pytest.approx(10)
