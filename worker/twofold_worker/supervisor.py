"""Keeps worker processes alive: one per device, each replaced when it ends or falls silent.

Imports neither torch nor Celery, so that it starts at once and nothing in it can hang with them.
"""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from types import FrameType

import structlog

from twofold_schema.environment import FILE, PREFIX
from twofold_schema.settings import WorkerSettings

log = structlog.get_logger(__name__)

_LONGEST_PAUSE = 60
#: A process that lived this long had a good start: the next pause is short again.
_HEALTHY_SECONDS = 60.0
#: What loading a model may take before the first sign of life.
_LOADING_SECONDS = 1800.0
#: Leases that may pass without a sign of life. The process's own watchdog ends it after one.
_SILENT_LEASES = 3
_TICK_SECONDS = 0.2
#: CUDA shows a process the GPUs that this variable names, up to the first that is none.
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_GPU = re.compile(r"[0-9]+|(GPU|MIG)-.+")
#: What torch's allocator heeds. Where none of them is set, its memory grows in place: sizes that
#: change from step to step would leave it in pieces.
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_GROWS = "expandable_segments:True"
#: With which a process ends that cannot begin, and how the log calls that.
_REFUSALS = {os.EX_CONFIG: "worker_misconfigured", os.EX_UNAVAILABLE: "worker_without_device"}


@dataclass
class Child:
    """The process on one device, and the ones that come after it."""

    environment: Mapping[str, str]
    command: Sequence[str]
    first_pause: float
    process: subprocess.Popen[bytes] | None = None
    liveness: int = -1
    born: float = 0.0
    heard: float | None = None
    pause: float = 0.0
    start_at: float = field(default_factory=time.monotonic)

    @property
    def has_gpu(self) -> bool:
        """Whether it may run on one GPU and nowhere else."""
        return _VISIBLE in self.environment

    def start(self) -> None:
        """Start the process, its end of the liveness pipe in its hands only."""
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        # Of a setting that is given here, a file that was named outside says nothing any more.
        outside = {
            name: text
            for name, text in os.environ.items()
            if name.removesuffix(FILE) not in self.environment
        }
        if not any(name in outside for name in _ALLOCATOR):
            outside[_ALLOCATOR[0]] = _GROWS
        self.process = subprocess.Popen(
            [*self.command, f"--liveness={theirs}"],
            env={**outside, **self.environment},
            pass_fds=[theirs],
            start_new_session=True,
        )
        os.close(theirs)
        self.liveness, self.born, self.heard = ours, time.monotonic(), None
        log.info("worker_started", pid=self.process.pid)

    def listen(self) -> None:
        """Note whether it has given a sign of life since."""
        if select.select([self.liveness], [], [], 0)[0] and os.read(self.liveness, 4096):
            self.heard = time.monotonic()

    def is_silent(self, lease_seconds: float) -> bool:
        """Whether it has been quiet for too long."""
        now = time.monotonic()
        if self.heard is None:
            return now - self.born > _LOADING_SECONDS
        return now - self.heard > _SILENT_LEASES * lease_seconds

    def bury(self) -> int | None:
        """Its exit status once it has ended, else None; plans the next start."""
        if self.process is None or (status := self.process.poll()) is None:
            return None
        os.close(self.liveness)
        self.process = None
        now = time.monotonic()
        healthy = now - self.born > _HEALTHY_SECONDS
        self.pause = self.first_pause if healthy or not self.pause else 2 * self.pause
        self.pause = min(self.pause, _LONGEST_PAUSE * self.first_pause)
        self.start_at = now + self.pause
        return status


class Supervisor:
    """Runs until SIGTERM or SIGINT, which the processes get too; a second one kills them.

    Args:
        settings: Of the worker.
        command: Starts one worker process.
        first_pause: Before a process is replaced, in seconds; doubles up to sixty times as much
            while its successors die young.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        command: Sequence[str] = (sys.executable, "-m", "twofold_worker.app"),
        *,
        first_pause: float = 1.0,
    ) -> None:
        self._settings = settings
        self._children = [
            Child(environment, command, first_pause=first_pause)
            for environment in devices(settings)
        ]
        self._stop_at: float | None = None
        self._signals_received = self._signals_heeded = 0
        self._status = 0
        self._was_any_heard = False

    def run(self) -> int:
        """Supervise; returns the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        while self._children:
            self._heed_signals()
            for child in list(self._children):
                self._tend(child)
            time.sleep(_TICK_SECONDS)
        return self._status

    def _tend(self, child: Child) -> None:
        if child.process is None:
            if self._stop_at is not None:
                self._children.remove(child)
            elif time.monotonic() >= child.start_at:
                child.start()
            return
        child.listen()
        self._was_any_heard |= child.heard is not None
        if child.is_silent(self._settings.lease_seconds):
            log.error("worker_silent", pid=child.process.pid)
            child.process.kill()
            child.process.wait()
        elif self._stop_at is not None and time.monotonic() > self._stop_at:
            log.error("worker_slow_to_stop", pid=child.process.pid)
            child.process.kill()
            child.process.wait()
            self._status = 1
        pid = child.process.pid
        if (status := child.bury()) is not None:
            log.info("worker_ended", pid=pid, status=status)
            self._learn(child, status)

    def _learn(self, child: Child, status: int) -> None:
        """Draw the consequences of how a process ended."""
        if status == 0:
            # It was told to end, by us or by a drain order: replacing it would undo that.
            self._children.remove(child)
        elif self._is_wrong_for_all(child, status):
            self._status = os.EX_CONFIG
            if self._stop_at is None:
                self._begin_stop()
        elif status in _REFUSALS and self._stop_at is None:
            gpu = child.environment.get(_VISIBLE)
            log.error(_REFUSALS[status], gpu=gpu, retry_in_seconds=child.pause)

    def _is_wrong_for_all(self, child: Child, status: int) -> bool:
        """Whether a process ended over a setting with which none can work, now or later.

        Where one has worked, the settings are right, and what they name is gone; a GPU may be gone
        from the start.
        """
        if status not in _REFUSALS or self._was_any_heard:
            return False
        return status == os.EX_CONFIG or not child.has_gpu

    def _heed_signals(self) -> None:
        while self._signals_heeded < self._signals_received:
            self._signals_heeded += 1
            if self._stop_at is None:
                self._begin_stop()
            else:
                self._stop_at = time.monotonic()

    def _begin_stop(self) -> None:
        self._stop_at = time.monotonic() + self._settings.stop_seconds
        for child in self._children:
            if child.process is not None:
                child.process.terminate()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # The loop heeds it: a process that is being started right now would never hear of it.
        self._signals_received += 1


def devices(settings: WorkerSettings) -> list[dict[str, str]]:
    """The environment of each process to keep: one per visible GPU, or as many as were asked for.

    With more processes than GPUs they are shared in turn. Who is given a GPU may not do with a CPU.
    """
    gpus = _visible_gpus() if settings.device in {"auto", "cuda"} else []
    count = settings.processes or max(1, len(gpus))
    if not gpus:
        return [{} for _ in range(count)]
    return [
        {_VISIBLE: gpus[index % len(gpus)], f"{PREFIX}DEVICE": "cuda"} for index in range(count)
    ]


def _visible_gpus() -> list[str]:
    chosen = os.environ.get(_VISIBLE)
    if chosen is not None:
        return list(takewhile(_GPU.fullmatch, (name.strip() for name in chosen.split(","))))
    if _is_torch_for_cpus():
        return []
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


def _is_torch_for_cpus() -> bool:
    """Whether torch could use no GPU, by its version: importing it would take seconds."""
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return True
