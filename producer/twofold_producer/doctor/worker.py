"""The worker's own checks, asked of the worker: only it may import torch."""

import importlib.util
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

from twofold_producer.doctor.configuration import needed
from twofold_schema import findings
from twofold_schema.effective import Effective
from twofold_schema.findings import Finding
from twofold_schema.settings import WorkerSettings

MODEL = "model"
DEVICE = "device"

#: Importing torch takes seconds, hashing a model from a cold disk a minute.
BOUND_SECONDS = 120.0


def check(settings: Effective, name: str) -> Iterator[Finding]:
    """What the worker's doctor finds, in a process of its own: a driver that hangs stops no other.

    Args:
        settings: Of this process; the worker's doctor reads them anew.
        name: `model` or `device`.
    """
    if importlib.util.find_spec("torch") is None:
        yield findings.skipped(
            name,
            "The worker is not installed here.",
            "If this host shall work: `pip install 'twofold[worker]'`.",
        )
        return
    needed(settings, WorkerSettings)
    command = [sys.executable, "-m", "twofold_worker.doctor", name]
    with (
        tempfile.TemporaryFile() as words,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words) as process,
    ):
        timer = threading.Timer(BOUND_SECONDS, process.kill)
        timer.daemon = True
        timer.start()
        for line in process.stdout or ():
            yield Finding.from_json(json.loads(line))
        status = process.wait()
        timer.cancel()
        words.seek(0)
        last = words.read().decode(errors="replace").strip().rpartition("\n")[2]
    if status:
        yield findings.failed(
            name,
            f"The worker's doctor ended with {status} before it was done. {last}".strip(),
            f"Run `python -m twofold_worker.doctor {name}` to see all that it says.",
        )
