"""One run in a test's own process: the real pipeline and stages over a real ledger and storage."""

import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias
from uuid import UUID

import numpy as np
import sqlalchemy
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import text
from tests.factories import begun, job_of, new_job
from tests.house import eventually
from tests.upscalers import NearestUpscaler

from twofold_schema import lanes
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.ids import new_id
from twofold_schema.job import Job, Parameters
from twofold_schema.ledger import requests, runs, submit, sweeps
from twofold_schema.settings import LimitSettings, StorageSettings, WorkerSettings
from twofold_schema.storage.places import OpenPlaces
from twofold_worker.capacity import Capacity
from twofold_worker.engine import Engine
from twofold_worker.holdings import Holdings
from twofold_worker.pipeline import Pipeline
from twofold_worker.progress import Progress
from twofold_worker.stages import Stages
from twofold_worker.work import Watch, unwatched

AMPLE = 20.0


class Gate:
    """A watch that holds one job at one verb until it is opened, and remembers what went by."""

    def __init__(self, verb: str) -> None:
        self.seen: list[tuple[str, UUID]] = []
        self.job_id: UUID | None = None
        self._verb = verb
        self._reached = threading.Event()
        self._open = threading.Event()

    def __call__(self, verb: str, job_id: UUID) -> None:
        self.seen.append((verb, job_id))
        if (verb, job_id) == (self._verb, self.job_id):
            self._reached.set()
            self._open.wait(AMPLE)

    def wait_reached(self) -> None:
        assert self._reached.wait(AMPLE), self.seen

    def open(self) -> None:
        self._open.set()


@dataclass
class Workshop:
    """One run in this process: the real pipeline and stages over a folder or S3."""

    engine: sqlalchemy.Engine
    folder: Path
    upscaler: NearestUpscaler = field(default_factory=NearestUpscaler)
    watch: Watch = unwatched
    max_batch: int = 4
    pinned_rung: int = 4
    preview_side: int = 256
    limits: LimitSettings = field(default_factory=LimitSettings)
    storage_settings: StorageSettings | None = None
    clock: Callable[[], float] = time.monotonic
    broken: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        results = f"file://{self.folder}/results"
        settings = self.storage_settings or StorageSettings(
            results=results, uploads=f"file://{self.folder}/uploads", file_root=self.folder
        )
        self.results = settings.results
        self.uploads = settings.uploads_uri
        self.storage = OpenPlaces(settings)
        self.capacity = Capacity(max_batch=self.max_batch)
        self.run_id = begun(self.engine, model_revision=self.upscaler.revision)
        self.holdings = Holdings()
        self.pipeline = Pipeline(
            run_id=self.run_id,
            engine=self.engine,
            for_claims=self.engine,
            storage=self.storage,
            own=settings.own,
            upscaler=self.upscaler,
            capacity=self.capacity,
            worker=WorkerSettings(
                max_batch=self.max_batch,
                pinned_rung=self.pinned_rung,
                preview_side=self.preview_side,
                poll_seconds=0.02,
            ),
            limits=self.limits,
            progress=Progress(AMPLE, self.clock),
            holdings=self.holdings,
            watch=self.watch,
        )
        engine = Engine(
            self.upscaler,
            self.capacity,
            pinned_rung=self.pinned_rung,
            holdings=self.holdings,
            progress=self.pipeline.progress,
            watch=self.watch,
        )
        self.stages = Stages(self.pipeline, engine, self.broken.append)

    def submit(
        self,
        *sources: bytes | None,
        size: tuple[int, int] | None = None,
        suffix: str = "",
        isolation: UUID | None = None,
        **changes: Any,
    ) -> list[UUID]:
        """Queue jobs over these files, or over a missing one, in one transaction."""
        parameters = changes.setdefault("parameters", Parameters(seed=7, steps=2))
        new_jobs = [
            new_job(
                source=str(self.stored(source, suffix)),
                output_prefix=self.results,
                measure=size and lanes.measure(parameters, *size),
                **changes,
            )
            for source in sources
        ]
        with self.engine.begin() as connection:
            answers = submit.insert_jobs(connection, new_jobs)
            job_ids = [answer.job_id for answer in answers]
            connection.execute(
                text("UPDATE jobs SET isolation = :mark WHERE id = ANY(:ids)"),
                {"mark": isolation, "ids": job_ids},
            )
        return job_ids

    def stored(self, source: bytes | None, suffix: str = "") -> ArtifactUri:
        place = self.uploads.child(f"{new_id()}{suffix}")
        if source is not None:
            sha256 = hashlib.sha256(source).hexdigest()
            self.storage.write_once(
                place, source, content_type="image/png", sha256=sha256, metadata={}
            )
        return place

    def jobs(self, job_ids: Iterable[UUID]) -> list[Job]:
        return [job_of(self.engine, job_id) for job_id in job_ids]

    def wait_settled(self, job_ids: Sequence[UUID]) -> list[Job]:
        """The jobs once each has ended or waits for another attempt."""

        def settled() -> list[Job]:
            jobs = self.jobs(job_ids)
            return jobs if all(job.state.is_final or job.retrying for job in jobs) else []

        return eventually(settled, within=AMPLE, why=lambda: repr(self.broken))

    def wait_final(self, job_ids: Sequence[UUID]) -> list[Job]:
        """The jobs once each has ended."""

        def final() -> list[Job]:
            jobs = self.jobs(job_ids)
            return jobs if all(job.state.is_final for job in jobs) else []

        return eventually(final, within=AMPLE, why=lambda: repr(self.broken))

    def file(self, job: Job) -> bytes:
        """The bytes of the job's result."""
        assert job.result is not None, job.error
        data = self.storage.read(ArtifactUri.parse(job.result.uri), max_bytes=10**7).data
        assert hashlib.sha256(data).hexdigest() == job.result.sha256
        assert len(data) == job.result.size_bytes
        return data

    def result(self, job: Job) -> NDArray[np.uint8]:
        """The pixels of the job's result."""
        data = self.file(job)
        assert job.result is not None
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (job.result.width, job.result.height)
            assert not image.getexif()
            return np.asarray(image)

    def beat(self) -> None:
        """What a heartbeat does for the holdings."""
        with self.engine.begin() as connection:
            renewal = runs.renew(connection, self.run_id, holding=len(self.holdings))
        self.holdings.reconcile(renewal.held)

    def cancel(self, job_id: UUID) -> None:
        """Call a job off and let the run hear of it."""
        with self.engine.begin() as connection:
            requests.cancel(connection, [job_id])
        self.beat()

    def __enter__(self) -> Self:
        self.stages.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stages.stop()
        self.stages.join()
        assert error or not self.broken, self.broken


Make: TypeAlias = Callable[..., Workshop]


def promote_now(engine: sqlalchemy.Engine) -> None:
    """Let every backoff be over."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET scheduled_at = now() WHERE state = 'scheduled'"))
        sweeps.promote(connection)


def twice(image: Image.Image) -> NDArray[np.uint8]:
    """What `NearestUpscaler` makes of a picture."""
    return np.asarray(image).repeat(2, axis=0).repeat(2, axis=1)
