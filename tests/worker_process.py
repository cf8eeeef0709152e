"""A worker process with faults: dies or breaks after a verb, hangs once, takes its time."""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from uuid import UUID

from tests.upscalers import Hanging, NearestUpscaler

from twofold_worker import app
from twofold_worker.upscaler.port import Upscaler


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--die-after", help="kill -9 after this verb of the first job")
    parser.add_argument("--die-on", help="kill -9 when a job with this id is started")
    parser.add_argument("--break-after", help="fail as nothing may after this verb of a job")
    parser.add_argument("--hang", choices=["sleep", "gil"])
    parser.add_argument("--marker", type=Path, help="hang only while this file is missing")
    parser.add_argument("--pause-at", help="stand still at this verb while --marker exists")
    parser.add_argument("--pause-in", type=Path, help="stand still at verbs that are files here")
    parser.add_argument("--model", action="store_true", help="the configured model")
    parser.add_argument("--lost", help="the configured model, on this GPU that is not there")
    parser.add_argument("--liveness", type=int)
    options = parser.parse_args()

    def watch(verb: str, job_id: UUID) -> None:
        if verb == options.die_after or (verb == "start" and str(job_id) == options.die_on):
            os.kill(os.getpid(), signal.SIGKILL)
        while verb == options.pause_at and options.marker.exists():
            threading.Event().wait(0.02)
        while options.pause_in and (options.pause_in / verb).exists():
            threading.Event().wait(0.02)
        if verb == options.break_after:
            raise RuntimeError("broken by the test")

    upscaler: Upscaler | None = NearestUpscaler()
    if options.hang:
        upscaler = Hanging(options.marker, holding_gil=options.hang == "gil")
    if options.model or options.lost == os.environ.get("CUDA_VISIBLE_DEVICES", ""):
        upscaler = None
    liveness = [] if options.liveness is None else [f"--liveness={options.liveness}"]
    return app.main(liveness, watch=watch, upscaler=upscaler)


if __name__ == "__main__":
    sys.exit(main())
