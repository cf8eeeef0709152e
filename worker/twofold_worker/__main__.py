"""`python -m twofold_worker`, which is `twofold worker`: supervise the worker processes."""

import argparse
import os
import sys

from twofold_schema import log
from twofold_schema.errors import ConfigError
from twofold_schema.settings import (
    BrokerSettings,
    DatabaseSettings,
    LimitSettings,
    LogSettings,
    StorageSettings,
    WorkerSettings,
)
from twofold_worker.supervisor import Supervisor


def main() -> int:
    """Check the settings, then supervise; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="twofold worker", description="Keep GPU worker processes running until SIGTERM."
    )
    parser.add_argument("--model", help="a folder or hub id (TWOFOLD_MODEL)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (TWOFOLD_DEVICE)")
    parser.add_argument("--processes", help="how many; 0 is one per GPU (TWOFOLD_PROCESSES)")
    for name, text in vars(parser.parse_args()).items():
        if text is not None:
            os.environ[f"TWOFOLD_{name.upper()}"] = text
    try:
        log.configure(LogSettings.load())
        for part in (DatabaseSettings, BrokerSettings, StorageSettings, LimitSettings):
            part.load()
        return Supervisor(WorkerSettings.load()).run()
    except ConfigError as error:
        sys.stderr.write(f"twofold worker: {error.message}\n")
        return os.EX_CONFIG


if __name__ == "__main__":
    sys.exit(main())
