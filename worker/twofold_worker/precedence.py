"""The engine's thread goes first: a codec's delay costs nothing, a late launch a device's time."""

import os
import sys
from typing import Final

#: For how long others keep the interpreter's lock once a thread asks for it, in seconds. Python's
#: default is ten times as much: an eighth of a step.
_TURN_SECONDS: Final = 0.0005

#: By how much other threads are nicer than the engine's.
_NICER: Final = 10


def shorten_turns() -> None:
    """Let a thread that wants the interpreter's lock have it soon; for the whole process."""
    sys.setswitchinterval(_TURN_SECONDS)


def let_the_engine_pass() -> None:
    """Make the calling thread nicer than it was, where threads have a niceness of their own.

    On Linux they do, whatever POSIX says, and process 0 is the calling thread (setpriority(2));
    elsewhere nothing changes.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + _NICER)
