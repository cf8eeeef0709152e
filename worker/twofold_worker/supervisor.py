"""Keeps worker processes alive: one per device, each replaced when it ends or falls silent.

Imports neither torch nor Celery, so that it starts at once and nothing in it can hang with them.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

import structlog

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

    def start(self) -> None:
        """Start the process, its end of the liveness pipe in its hands only."""
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        self.process = subprocess.Popen(
            [*self.command, f"--liveness={theirs}"],
            env={**os.environ, **self.environment},
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
        status = child.bury()
        if status is None:
            return
        log.info("worker_ended", pid=pid, status=status)
        if status == 0:
            # It was told to end, by us or by a drain order: replacing it would undo that.
            self._children.remove(child)
        elif status == os.EX_CONFIG:
            # The same setting would be wrong for all and for ever.
            self._status = os.EX_CONFIG
            if self._stop_at is None:
                self._begin_stop()

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

    With more processes than GPUs they are shared in turn.
    """
    gpus = _visible_gpus() if settings.device in {"auto", "cuda"} else []
    count = settings.processes or max(1, len(gpus))
    if not gpus:
        return [{} for _ in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} for index in range(count)]


def _visible_gpus() -> list[str]:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
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
