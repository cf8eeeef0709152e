"""The life of a job in a worker, top to bottom.

    claim ─▶ measure ─▶ fetch ─▶ start ─▶ decode ─▶ upscale ─▶ encode ─▶ store ─▶ settle

Each verb is a method of `Pipeline`, in this order. They hold no threads and no queues: `stages`
runs them, several jobs at once. What ends a claim is a value (see `outcome`) that `settle` writes
to the ledger; an error is one job's, never its batch's.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeAlias
from urllib.parse import quote
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from twofold_schema import lanes
from twofold_schema.artifacts import ArtifactUri, result_place
from twofold_schema.database import Answer, persevere
from twofold_schema.errors import (
    CorruptSource,
    JobError,
    Mismeasured,
    OutOfMemory,
    SizeMismatch,
    UpscaleFailed,
)
from twofold_schema.job import Job, Result
from twofold_schema.ledger import claims
from twofold_schema.settings import LimitSettings, WorkerSettings
from twofold_schema.storage.port import Storage
from twofold_worker import batching, codec
from twofold_worker.holdings import Holdings
from twofold_worker.outcome import Failed, Outcome, records
from twofold_worker.progress import Progress
from twofold_worker.upscaler.port import BatchTooLarge, DeviceLost, Pixels, Slot, Upscaler

log = structlog.get_logger(__name__)

#: The first read of a source's header, in bytes; four times as much until it suffices.
HEAD_BYTES = 64 * 1024

#: Told the name of each verb and the job, as it ends. For tests that pull the plug between two.
Watch: TypeAlias = Callable[[str, UUID], None]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A job that is ready for the device."""

    job: Job
    picture: codec.Picture
    slot: Slot


@dataclass(frozen=True, slots=True, eq=False)
class Upscaled:
    """A job that comes from the device, its padding not yet cut off."""

    prepared: Prepared
    pixels: Pixels
    rungs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What a job needs on its way: the ledger, storage and a model."""

    run_id: UUID
    engine: Engine
    storage: Storage
    upscaler: Upscaler
    worker: WorkerSettings
    limits: LimitSettings
    progress: Progress
    holdings: Holdings
    watch: Watch = lambda verb, job_id: None  # noqa: ARG005 - nobody watches

    def claim(self) -> list[Job]:
        """Take the next jobs of one lane; none when nothing waits.

        Raises:
            DBAPIError: The database is away; what it may have given is found by the heartbeat.
        """
        with self.progress.step("claim"), self.engine.begin() as connection:
            jobs = claims.claim(
                connection,
                self.run_id,
                limit=batching.rung_for(self.worker.max_batch, most=self.worker.max_batch),
                run_deadline=timedelta(seconds=self.worker.run_deadline_seconds),
            )
        self.holdings.take(job.claim for job in jobs)
        for job in jobs:
            self.watch("claim", job.id)
        return jobs

    def measure(self, job: Job) -> lanes.Measure:
        """Read the header of an unmeasured job's source.

        Raises:
            JobError: The source is not there, not a picture, or too large.
        """
        source, length = ArtifactUri.parse(job.source), HEAD_BYTES
        with self.progress.step("measure") as advance:
            while True:
                head = self.storage.read_head(source, length=length)
                advance()
                header = codec.read_header(head.data, complete=head.complete)
                if header is not None:
                    break
                if head.complete:
                    raise CorruptSource
                length *= 4
        self.limits.size.check(header.width, header.height)
        return lanes.measure(job.parameters, header.width, header.height)

    def sort_out(self, jobs: Sequence[Job], measures: Mapping[UUID, lanes.Measure]) -> list[Job]:
        """Write what was measured and keep the lane of the best job.

        Returns:
            The jobs of that lane; the others are the caller's to release.
        """
        if measures:
            new = {job.claim: measures[job.id] for job in jobs if job.id in measures}
            self._write(lambda connection: claims.measure(connection, self.run_id, new))
        laned = [
            replace(job, lane=measures[job.id].lane) if job.id in measures else job for job in jobs
        ]
        for job in laned:
            self.watch("measure", job.id)
        return [job for job in laned if job.lane == laned[0].lane]

    def fetch(self, job: Job) -> bytes:
        """Read the source.

        Raises:
            JobError: It is not there, may not be read, or is too long.
        """
        with self.progress.step("fetch"):
            content = self.storage.read(
                ArtifactUri.parse(job.source), max_bytes=self.limits.max_source_bytes
            )
        self.watch("fetch", job.id)
        return content.data

    def start(self, jobs: Sequence[Job]) -> set[UUID]:
        """Note that the jobs' bytes touch this process now; returns the ids to go on with."""
        held = [job.claim for job in jobs]
        going_on = self._write(lambda connection: claims.start(connection, self.run_id, held))
        for job in jobs:
            self.watch("start", job.id)
        return going_on

    def decode(self, job: Job, data: bytes) -> Prepared:
        """Turn the source into pixels on the lattice.

        Raises:
            JobError: It is damaged, or not of the size that its lane was chosen for.
        """
        with self.progress.step("decode"):
            picture = codec.decode(data, self.limits.size)
            height, width = picture.pixels.shape[:2]
            if job.width is not None and (job.width, job.height) != (width, height):
                raise SizeMismatch(
                    f"The source is {width}x{height}, not {job.width}x{job.height} as stated; "
                    "submit it with its right size or with none."
                )
            pixels = codec.pad(
                picture.pixels, height=lanes.padded(height), width=lanes.padded(width)
            )
        # Outside of the step: an outage of the database is no decoder that stands still.
        measure = lanes.measure(job.parameters, width, height)
        if measure.lane != job.lane:
            self._write(
                lambda connection: claims.measure(connection, self.run_id, {job.claim: measure})
            )
            raise Mismeasured
        self.watch("decode", job.id)
        parameters = job.parameters
        slot = Slot(
            pixels=pixels,
            seed=parameters.seed or 0,
            prompt=parameters.prompt,
            negative_prompt=parameters.negative_prompt,
        )
        return Prepared(job, picture, slot)

    def upscale(self, batch: Sequence[Prepared]) -> list[Upscaled | Failed]:
        """Run a batch of one lane on the device; the only verb that touches it.

        A batch that does not fit is split in place until it does; no attempt is used for that.

        Raises:
            DeviceLost: The device or the process must be restarted.
        """
        pinned = batch[0].job.parameters.reproducible
        most = self.worker.pinned_rung if pinned else self.worker.max_batch
        answers: list[Upscaled | Failed] = []
        for start in range(0, len(batch), most):
            answers += self._upscale(batch[start : start + most], most, rungs=())
        return answers

    def _upscale(
        self, batch: Sequence[Prepared], most: int, *, rungs: tuple[int, ...]
    ) -> list[Upscaled | Failed]:
        parameters = batch[0].job.parameters
        pinned = parameters.reproducible
        rung = most if pinned else batching.rung_for(len(batch), most=most)
        rungs = (*rungs, rung)
        failure: JobError
        try:
            with self.progress.step("upscale") as advance:
                answers = self.upscaler.upscale(
                    [prepared.slot for prepared in batch],
                    rung=rung,
                    steps=parameters.steps,
                    guidance_scale=parameters.guidance_scale,
                    on_step=advance,
                )
        except BatchTooLarge:
            too_large = True
        except DeviceLost:
            raise
        except Exception as error:
            log.exception("upscale_failed", jobs=[str(prepared.job.id) for prepared in batch])
            too_large, failure = False, UpscaleFailed(f"The model failed: {error}")
        else:
            for prepared in batch:
                self.watch("upscale", prepared.job.id)
            return [
                Failed(prepared.job.claim, answer)
                if isinstance(answer, JobError)
                else Upscaled(prepared, answer, rungs)
                for prepared, answer in zip(batch, answers, strict=True)
            ]
        # Split outside of `except`: a traceback would keep the batch's tensors alive.
        if too_large:
            log.warning("batch_split", rung=rung, jobs=len(batch))
            failure = OutOfMemory()
        if len(batch) == 1 or (too_large and pinned):
            return [Failed(prepared.job.claim, failure) for prepared in batch]
        first, second = batching.halves(batch)
        return [
            *self._upscale(first, most, rungs=rungs),
            *self._upscale(second, most, rungs=rungs),
        ]

    def encode(self, upscaled: Upscaled) -> tuple[bytes, int, int]:
        """Cut the padding off and encode: the PNG, its width and its height."""
        picture = upscaled.prepared.picture
        height, width = picture.pixels.shape[:2]
        with self.progress.step("encode"):
            pixels = codec.finish(upscaled.pixels, picture.alpha, width=width, height=height)
            data = codec.encode_png(pixels)
        self.watch("encode", upscaled.prepared.job.id)
        return data, pixels.shape[1], pixels.shape[0]

    def store(self, upscaled: Upscaled, data: bytes, width: int, height: int) -> Result:
        """Put the result where only this claim writes.

        Raises:
            JobError: It may not be written there, or storage is away.
        """
        job = upscaled.prepared.job
        place = result_place(ArtifactUri.parse(job.output_prefix), job.claim)
        result = Result(
            uri=str(place),
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            width=width,
            height=height,
            content_type="image/png",
            model=self.upscaler.name,
            model_revision=self.upscaler.revision,
            seed=upscaled.prepared.slot.seed,
            steps=job.parameters.steps,
            rungs=upscaled.rungs,
        )
        with self.progress.step("store"):
            self.storage.write_once(
                place,
                data,
                content_type=result.content_type,
                sha256=result.sha256,
                metadata={
                    "job": str(job.id),
                    "fence": str(job.fence),
                    # A model may have the name of any folder; S3 takes ASCII only.
                    "model": quote(result.model),
                    "model-revision": result.model_revision,
                    "seed": str(result.seed),
                    "steps": str(result.steps),
                },
            )
        self.watch("store", job.id)
        return result

    def settle(self, ended: Sequence[Outcome]) -> None:
        """Write how claims ended, each kind in one transaction, and let go of them.

        Waits as long as the database is away. What was lost to another run is dropped: its row
        says what became of it.
        """
        for record in records(self.run_id, ended):
            for settlement in self._write(record):
                if not settlement.stands:
                    log.info("claim_lost", job_id=str(settlement.job_id), state=settlement.state)
        for outcome in ended:
            self.watch("settle", outcome.claim.job_id)
        self.holdings.drop(outcome.claim for outcome in ended)

    def _write(self, write: Callable[[Connection], Answer]) -> Answer:
        with self.progress.step("ledger") as advance:

            def waiting(error: DBAPIError) -> None:
                # An answer, though an error: the database is away, this process is not stuck.
                advance()
                log.warning("database_away", error=str(error.orig))

            return persevere(self.engine, write, waiting=waiting)
