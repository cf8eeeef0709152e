"""How long a process takes from its exec to its first finished job, phase by phase."""

import os
import time
from pathlib import Path
from uuid import UUID

import structlog

from twofold_worker.work import Watch

log = structlog.get_logger(__name__)

_STAT = Path("/proc/self/stat")


class ColdStart:
    """Notes when each phase ends, and says it all in one line of the log when a job has ended."""

    def __init__(self) -> None:
        self._last = time.monotonic() - _age_seconds()
        self._phases: dict[str, float] | None = {}

    def end(self, phase: str) -> None:
        """A phase ends now; the next one begins."""
        if (phases := self._phases) is not None:
            now = time.monotonic()
            phases[f"{phase}_s"] = round(now - self._last, 3)
            self._last = now

    def watching(self, watch: Watch) -> Watch:
        """A watch that tells this one, too: of the first claim, and of the first job's end."""

        def both(verb: str, job_id: UUID) -> None:
            watch(verb, job_id)
            # Jobs are claimed in one thread and settled in another, which ends this.
            if (phases := self._phases) is None:
                return
            if verb == "claim" and "wait_s" not in phases:
                self.end("wait")
            elif verb == "settle":
                self.end("job")
                # What it waited for its first job is nobody's cost.
                took = sum(phases.values()) - phases.get("wait_s", 0.0)
                log.info("cold_start", **phases, all_but_wait_s=round(took, 3))
                self._phases = None

        return both


def _age_seconds() -> float:
    """Since this process was begun; 0 where the system does not say."""
    if not _STAT.is_file():
        return 0.0
    # Behind the name, which may hold anything, the 20th field: its start after boot, in ticks.
    ticks = int(_STAT.read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
