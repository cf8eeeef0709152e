"""A process says once, after its first job, how long each phase of its start took."""

import subprocess
import sys
import time
from uuid import UUID

from structlog.testing import capture_logs

from twofold_worker.cold_start import ColdStart

JOB = UUID(int=1)


def test_all_phases_are_said_in_one_line_when_the_first_job_has_ended() -> None:
    seen: list[str] = []
    cold_start = ColdStart()
    watch = cold_start.watching(lambda verb, _: seen.append(verb))
    cold_start.end("weights")
    with capture_logs() as logs:
        for verb in ("claim", "claim", "store", "settle", "claim", "settle"):
            watch(verb, JOB)
    (line,) = logs
    assert line["event"] == "cold_start"
    assert {"weights_s", "wait_s", "job_s", "all_but_wait_s"} < line.keys()
    assert len(seen) == 6


def test_the_first_job_may_end_in_one_thread_while_another_claims() -> None:
    cold_start = ColdStart()
    watch = cold_start.watching(lambda *_: None)

    class Claim(str):
        """Between whose being looked at and its being noted the first job ends."""

        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            watch("settle", JOB)
            return str(self) == other

    with capture_logs() as logs:
        watch(Claim("claim"), JOB)
    assert [line["event"] for line in logs] == ["cold_start"]


def test_the_first_phase_begins_with_the_process() -> None:
    """A second spent before anything of Twofold was imported counts."""
    code = (
        "import time; time.sleep(1)\n"
        "from twofold_worker.cold_start import ColdStart\n"
        "cold = ColdStart(); cold.end('imports'); print(cold._phases['imports_s'])"
    )
    began = time.monotonic()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 <= float(told.stdout) <= time.monotonic() - began + 0.02
