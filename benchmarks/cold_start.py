"""From the start of a worker process to its first picture, phase by phase.

The job waits already, and the worker's log says what each phase took.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

_EVENT: Final = "cold_start"
#: As the worker's log calls them, in order, and as a reader does.
PHASES: Final = {
    "imports_s": "imports",
    "weights_s": "weights on the device",
    "warm_up_s": "warm-up",
    "plan_s": "memory plan",
    "compile_s": "compiling",
    "ready_s": "registration",
    "wait_s": "claim",
    "job_s": "first job",
}


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
        worker = house.process(
            ["-m", "twofold_worker.app"],
            model=model,
            env="dev",
            device=subject.torch_device.type,
            cache_dir=cache,
            log_format="json",
        )
        (done,) = ended(house, [job.job_id])
        worker.stop()
        if done.state is not JobState.SUCCEEDED:
            raise RuntimeError(f"the job ended {done.state}: {done.error}\n{house.logs()}")
        return phases(house.logs().splitlines())


def phases(lines: Sequence[str]) -> dict[str, float]:
    """What a worker's log says of its phases, in seconds.

    Raises:
        RuntimeError: It says nothing.
    """
    for line in lines:
        if line.startswith("{") and (record := json.loads(line)).get("event") == _EVENT:
            return {name: record[key] for key, name in PHASES.items() if record.get(key)}
    raise RuntimeError("the worker's log says nothing of its start")


@contextmanager
def _model(subject: Subject) -> Iterator[str]:
    """What the worker loads: the demo model, or random weights in full size."""
    if subject.size != "full":
        yield DEMO_MODEL
        return
    with TemporaryDirectory() as name:
        subject.pipeline().save_pretrained(Path(name), safe_serialization=True)
        yield name
