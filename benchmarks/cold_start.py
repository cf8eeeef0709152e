"""From the start of a worker process to its first picture, phase by phase.

Phases end with what the worker's log says. Those whose end it does not say are counted with the
next one whose end it says.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks import loads
from benchmarks.house import ended, open_house, stored
from benchmarks.report import Report
from benchmarks.subject import Subject
from twofold_producer.submit.request import JobRequest
from twofold_schema.settings import DEMO_MODEL
from twofold_schema.states import JobState

#: Phases, and the event with which each ends.
PHASES: Final = (
    ("imports", "imported"),
    ("weights on the device", "loaded"),
    ("warm-up", "warm"),
    ("memory plan", "planned"),
    ("registration", "ready"),
)
_FIRST_JOB: Final = "first job"


def measure(subject: Subject) -> Report:
    """Seconds by phase, of a start without a kept plan and of the next one, which has it.

    Raises:
        RuntimeError: A job failed.
    """
    with TemporaryDirectory() as cache:
        starts = {name: _start(subject, cache) for name in ("no plan kept", "plan kept")}
    first, second = (sum(phases.values()) for phases in starts.values())
    figures = {"cold_start_seconds": first, "cold_start_seconds_plan_kept": second}
    rows: list[dict[str, object]] = [
        {"start": name, "phase": phase, "seconds": seconds}
        for name, phases in starts.items()
        for phase, seconds in phases.items()
    ]
    rows += [{"start": n, "phase": "all", "seconds": sum(p.values())} for n, p in starts.items()]
    details = {"model": _name(subject), "phases": starts}
    return Report(figures=figures, details=details, rows=rows)


def _name(subject: Subject) -> str:
    return "random weights, full size" if subject.size == "full" else f"{DEMO_MODEL} model"


def _start(subject: Subject, cache: str) -> dict[str, float]:
    scale = subject.scale
    with _model(subject) as model, open_house() as house:
        producer = house.producer()
        (file,) = loads.files(1, scale.side, "png")
        job = producer.submit(
            JobRequest(
                source=stored(house, producer, file),
                key="first",
                width=scale.side,
                height=scale.side,
                steps=scale.steps,
                seed=1,
            )
        )
        began = time.time()
        worker = house.process(
            ["-m", "twofold_worker.app"],
            model=model,
            env="dev",
            device=subject.torch_device.type,
            cache_dir=cache,
            log_format="json",
        )
        (done,) = ended(house, [job.job_id])
        moments = said(house.logs().splitlines(), [event for _, event in PHASES])
        worker.stop()
        if done.state is not JobState.SUCCEEDED or done.finished_at is None:
            raise RuntimeError(f"the job ended {done.state}: {done.error}\n{house.logs()}")
    return phases_of(began, moments, done.finished_at.timestamp())


def said(lines: Sequence[str], events: Sequence[str]) -> dict[str, float]:
    """When a worker's log says each event for the first time, in seconds since the epoch."""
    moments: dict[str, float] = {}
    for line in lines:
        if not line.startswith("{"):
            continue
        record = json.loads(line)
        if (event := record.get("event")) in events and event not in moments:
            moments[event] = datetime.fromisoformat(record["timestamp"]).timestamp()
    return moments


def phases_of(began: float, moments: dict[str, float], finished: float) -> dict[str, float]:
    """Seconds of each phase; of several in one where the log does not tell them apart."""
    found: dict[str, float] = {}
    names: list[str] = []
    last = began
    for name, event in PHASES:
        names.append(name)
        if event in moments:
            found[", ".join(names)] = moments[event] - last
            last, names = moments[event], []
    found[", ".join([*names, _FIRST_JOB])] = finished - last
    return found


@contextmanager
def _model(subject: Subject) -> Iterator[str]:
    """What the worker loads: the demo model, or random weights in full size."""
    if subject.size != "full":
        yield DEMO_MODEL
        return
    with TemporaryDirectory() as name:
        subject.pipeline().save_pretrained(Path(name), safe_serialization=True)
        yield name
