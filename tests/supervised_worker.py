"""The real supervisor over worker processes with faults."""

import sys

from twofold_schema import log
from twofold_schema.settings import LogSettings, WorkerSettings
from twofold_worker.supervisor import Supervisor

if __name__ == "__main__":
    log.configure(LogSettings.load())
    command = [sys.executable, "-m", "tests.worker_process", *sys.argv[1:]]
    sys.exit(Supervisor(WorkerSettings.load(), command, first_pause=0.05).run())
