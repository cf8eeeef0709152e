"""From the queue through S3, codecs and the engine back to S3, against the bare engine.

A real worker process, with Postgres, Redis and S3 in processes of their own. All jobs of a format
are submitted at once; what is measured is the window in which the worker's stages are full.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from PIL import Image
from tests.house import House

from benchmarks import loads
from benchmarks.clock import WallClock
from benchmarks.dispatch import FORMATS
from benchmarks.driving import Room, drive_engine
from benchmarks.house import ended, open_house, stored
from benchmarks.report import Report
from benchmarks.subject import Subject
from benchmarks.timed import expected
from twofold_producer.producer import Producer
from twofold_producer.submit.request import JobRequest
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.formats import ResultFormat
from twofold_schema.job import Job
from twofold_schema.settings import LimitSettings
from twofold_schema.states import JobState
from twofold_worker.codec import source
from twofold_worker.upscaler.port import Latents, Pixels, Request

#: What promise 3 of the design asks for.
GOAL: Final = 0.97

#: What a run must reach in the window, in batches, before and behind it: every stage holds some.
_EDGE_BATCHES: Final = 4

#: A lossy picture is at least so near to what it was made of, in dB; another photograph is not.
_LEAST_PSNR: Final = 28.0

_SOURCES: Final = 16


def measure(subject: Subject, formats: Sequence[ResultFormat] = FORMATS, ahead: int = 0) -> Report:
    """Pictures a second of each format, and their share of the bare engine's.

    Raises:
        RuntimeError: A job failed or its result is not what was asked for.
    """
    bare = _bare(subject)
    found: dict[str, dict[str, Any]] = {}
    with open_house() as house:
        marks = house.marker("marks.json")
        worker = house.process(
            [
                *("-m", "benchmarks.worker", "--device", subject.device, "--size", subject.size),
                *("--ahead", str(ahead), "--marks", str(marks)),
            ],
            max_batch=subject.scale.most,
        )
        house.wait_ready()
        for kind in formats:
            found[kind.value] = _stream(subject, house, kind, bare)
        worker.stop()
        _account(found, json.loads(marks.read_text()))
    default = ResultFormat.PNG.value
    chosen = found[default] if default in found else next(iter(found.values()))
    figures = {"fleet_efficiency": chosen["efficiency"]}
    figures |= {
        f"fleet_efficiency_{kind.replace('-', '_')}": one["efficiency"]
        for kind, one in found.items()
    }
    rows = [
        {
            "format": kind,
            "images/s": one["images_per_second"],
            "of the bare engine": f"{one['efficiency']:.1%}",
            "device busy": f"{one['busy']:.1%}" if one["busy"] is not None else "-",
            "worker's cores": one["cores"] if one["cores"] is not None else "-",
            f"at least {GOAL:.0%}": "yes" if one["efficiency"] >= GOAL else "no",
        }
        for kind, one in found.items()
    ]
    details = {"bare_images_per_second": bare, "ahead": ahead, "formats": found}
    return Report(figures=figures, details=details, rows=rows)


def _bare(subject: Subject) -> float:
    scale = subject.scale
    if subject.is_timed:
        device = subject.device_model()
        return device.images_per_second(scale.most, side=scale.side, steps=scale.steps)
    requests = loads.uniform(4 * scale.most, side=scale.side, steps=scale.steps)
    done = drive_engine(
        subject.upscaler(),
        loads.at_once(requests),
        most=scale.most,
        capacity=Room(scale.most, scale.most * scale.side**2),
        clock=WallClock(),
    )
    return len(done) / done[-1].at


def _stream(subject: Subject, house: House, kind: ResultFormat, bare: float) -> dict[str, Any]:
    scale, producer = subject.scale, house.producer()
    files = list(
        loads.files(min(_SOURCES, scale.streamed), scale.side, kind.value.replace("-", "_"))
    )
    uris = [stored(house, producer, file) for file in files]
    submission = producer.submit_many(
        JobRequest(
            source=uris[number % len(uris)],
            key=f"{kind.value}-{number}",
            width=scale.side,
            height=scale.side,
            seed=number,
            steps=scale.steps,
            output_format=kind,
        )
        for number in range(scale.streamed)
    )
    jobs = ended(house, submission.job_ids)
    verify(producer, jobs, files, pixel_exact=subject.is_timed)
    ends = sorted(job.finished_at.timestamp() for job in jobs if job.finished_at)
    edge = min(_EDGE_BATCHES * scale.most, len(ends) // 3)
    window = ends[edge : len(ends) - edge]
    rate = slope(window)
    return {
        "images_per_second": rate,
        "efficiency": rate / bare,
        "began": ends[0],
        "ends": [end - ends[0] for end in ends],
        "window": [window[0] - ends[0], window[-1] - ends[0]],
    }


def _account(found: dict[str, dict[str, Any]], marks: Sequence[Sequence[float]]) -> None:
    """Add what the device and the worker's threads did in each window."""
    for one in found.values():
        first, last = (one["began"] + edge for edge in one["window"])
        inside = [mark for mark in marks if first <= mark[0] <= last]
        one |= {"busy": _share(inside, 1), "cores": _share(inside, 2)}


def slope(moments: Sequence[float]) -> float:
    """Ends a second: the straight line through all of them, for they come in groups."""
    return float(np.polyfit(moments, np.arange(len(moments)), 1)[0])


def _share(marks: Sequence[Sequence[float]], column: int) -> float | None:
    """What grew in a column, for each second between the first and the last mark."""
    if len(marks) < 2:
        return None
    return (marks[-1][column] - marks[0][column]) / (marks[-1][0] - marks[0][0])


def verify(
    producer: Producer, jobs: Sequence[Job], files: Sequence[bytes], *, pixel_exact: bool
) -> None:
    """See that every result is the one that was asked for.

    Args:
        producer: Whose storage holds the results.
        jobs: In the order in which they were submitted.
        files: Their sources; job n has file n modulo their number.
        pixel_exact: Whether the timed upscaler made them, so that every pixel is known.

    Raises:
        RuntimeError: One is not.
    """
    limits = LimitSettings().size
    sources = [source.decode(file, limits).on_the_lattice() for file in files]
    for number, job in enumerate(jobs):
        if job.state is not JobState.SUCCEEDED or job.result is None:
            raise RuntimeError(f"job {number} ended {job.state}: {job.error}")
        data = producer.storage.read(ArtifactUri.parse(job.result.uri), max_bytes=10**8).data
        if hashlib.sha256(data).hexdigest() != job.result.sha256:
            raise RuntimeError(f"job {number}: the object is not the one of its row")
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("RGB"))
        own = sources[number % len(sources)]
        if pixel_exact:
            check_picture(pixels, own, job)


def check_picture(pixels: Pixels, padded: Pixels | Latents, job: Job) -> None:
    """See that a picture is what the timed upscaler makes for a job.

    Raises:
        RuntimeError: It is another one, or not all of it.
    """
    parameters = job.parameters
    request = Request(
        source=padded,
        seed=parameters.seed or 0,
        steps=parameters.steps,
        guidance_scale=parameters.guidance_scale,
    )
    wanted = expected(request).pixels
    if pixels.shape != wanted.shape:
        raise RuntimeError(f"job {job.id}: the result is {pixels.shape}, not {wanted.shape}")
    if job.output.format in {ResultFormat.PNG, ResultFormat.WEBP_LOSSLESS}:
        if not np.array_equal(pixels, wanted):
            raise RuntimeError(f"job {job.id}: the result is another picture")
    elif _psnr(pixels, wanted) < _LEAST_PSNR:
        raise RuntimeError(f"job {job.id}: only {_psnr(pixels, wanted):.1f} dB from its picture")


def _psnr(one: Pixels, other: Pixels) -> float:
    difference = np.square(one.astype(np.float32) - other.astype(np.float32)).mean()
    return float(10 * np.log10(255**2 / max(difference, 1e-9)))
