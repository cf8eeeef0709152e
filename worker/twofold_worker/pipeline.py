"""The life of a job in a worker, top to bottom.

    claim ─▶ measure ─▶ fetch ─▶ start ─▶ decode ─▶ (engine) ─▶ encode ─▶ store ─▶ settle

Each verb is a method of `Pipeline`, in this order; what lies between is the `engine`'s. They hold
no threads and no queues: `stages` runs them, several jobs at once. What ends a claim is a value
(see `outcome`) that `settle` writes to the ledger.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from urllib.parse import quote
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from twofold_schema import lanes
from twofold_schema.artifacts import ArtifactUri, preview_place, result_place
from twofold_schema.database import Answer, committing_each, persevere
from twofold_schema.errors import (
    CorruptSource,
    Mismeasured,
    SizeMismatch,
    SourceChanged,
    SourceDenied,
    SourceNotFound,
    SourceTooLarge,
)
from twofold_schema.formats import ResultFormat
from twofold_schema.job import ClaimedJob, Result
from twofold_schema.ledger import claims, holds
from twofold_schema.ledger.low_water import LowWater
from twofold_schema.settings import LimitSettings, WorkerSettings
from twofold_schema.states import JobClass
from twofold_schema.storage.port import Content, Storage
from twofold_schema.tenant_places import OwnPlaces
from twofold_worker.capacity import Capacity
from twofold_worker.codec import latents, result, source
from twofold_worker.holdings import Holdings
from twofold_worker.outcome import Outcome, Released, records
from twofold_worker.progress import Progress
from twofold_worker.upscaler.port import Request, Upscaler
from twofold_worker.work import Encoded, Measured, Prepared, Upscaled, Watch, unwatched

log = structlog.get_logger(__name__)

#: The first read of a source's header, in bytes; four times as much until it suffices.
HEAD_BYTES = 64 * 1024
#: Below the place of results; whether it is there does not matter.
_ASKED_FOR = ".reach"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What a job needs on its way: the ledger, storage and a model.

    Attributes:
        for_claims: Of the same database as `engine`; `claims.claim` says what saves trips.
    """

    run_id: UUID
    engine: Engine
    for_claims: Engine
    storage: Storage
    own: OwnPlaces
    upscaler: Upscaler
    capacity: Capacity
    worker: WorkerSettings
    limits: LimitSettings
    progress: Progress
    holdings: Holdings
    watch: Watch = unwatched
    low_water: LowWater = field(default_factory=LowWater)

    def claim(self, *, above: JobClass | None = None) -> list[ClaimedJob]:
        """Take the next jobs of one lane; none when nothing waits.

        Args:
            above: Only jobs of a better class than this; None for all.

        Raises:
            DBAPIError: The database is away, and what it may have given is found by the heartbeat;
                or it answered with an error that waiting does not mend.
        """
        with self.progress.asking("claim"), self.for_claims.begin() as connection:
            jobs = claims.claim(
                connection,
                self.run_id,
                limit=self.worker.max_batch,
                pixels=self.capacity.batch_pixels,
                run_deadline=timedelta(seconds=self.worker.run_deadline_seconds),
                above=above,
                low_water=self.low_water,
            )
        self.holdings.take(job.claim for job in jobs)
        for job in jobs:
            self.watch("claim", job.id)
        return jobs

    def measure(self, job: ClaimedJob) -> Measured:
        """Read the header of an unmeasured job's source.

        Raises:
            JobError: The source is not there, neither a picture nor latents, or too large; or too
                long to look for its size beyond the first bytes; or its tenant may not name it.
        """
        place, length = self._allowed_source(job), HEAD_BYTES
        with self.progress.step("measure", silence=self._silence) as advance:
            while True:
                head = self.storage.read_head(place, length=length)
                advance()
                header = source.read_header(head.data, complete=head.complete)
                if header is not None:
                    break
                if head.complete:
                    raise CorruptSource
                if head.size > self.limits.max_source_bytes:
                    raise SourceTooLarge
                length *= 4
        self.limits.size.check(header.width, header.height)
        found = lanes.measure_job(
            job.parameters,
            job.output,
            header.width,
            header.height,
            from_latents=header.format.is_latents,
        )
        return Measured(found, head.version)

    def sort_out(
        self, jobs: Sequence[ClaimedJob], measured: Mapping[UUID, Measured]
    ) -> list[ClaimedJob]:
        """Write what was measured and keep the lane of the best job that this run has room for.

        Returns:
            The jobs of that lane; the others are the caller's to release.
        """
        if measured:
            new = {job.claim: measured[job.id] for job in jobs if job.id in measured}
            measures = {claim: found.measure for claim, found in new.items()}
            versions = {claim: found.version for claim, found in new.items()}
            self._write(
                lambda connection: holds.measure(connection, self.run_id, measures, versions)
            )
        laned = [
            replace(job, lane=measured[job.id].measure.lane) if job.id in measured else job
            for job in jobs
        ]
        for job in laned:
            self.watch("measure", job.id)
        fitting = [
            job
            for job in laned
            if job.id not in measured or self.capacity.holds(measured[job.id].measure)
        ]
        return [job for job in fitting if job.lane == fitting[0].lane]

    def fetch(self, job: ClaimedJob) -> Content:
        """Read the source.

        Raises:
            JobError: It is not there, may not be read, or is too long; or its tenant may not name
                it, or the place of its result, which is known before the device works for it.
        """
        place = self._allowed_source(job)
        self._check_result(job)
        with self.progress.step("fetch", silence=self._silence):
            content = self.storage.read(place, max_bytes=self.limits.max_source_bytes)
        self.watch("fetch", job.id)
        return content

    def start(self, jobs: Sequence[ClaimedJob], fetched: Mapping[UUID, Content]) -> dict[UUID, str]:
        """Note that the jobs' bytes touch this process now, and which content they are of.

        Returns:
            The ids to go on with, and which content each job is about since it was first read.
        """
        versions = {job.claim: fetched[job.id].version for job in jobs}
        going_on = self._write(lambda connection: holds.start(connection, self.run_id, versions))
        for job in jobs:
            self.watch("start", job.id)
        return going_on

    def decode(self, job: ClaimedJob, content: Content, *, first_version: str) -> Prepared:
        """Turn the source into pixels or latents on the lattice.

        Raises:
            JobError: It was overwritten since it was first read, is damaged, or is not of the size
                that its lane was chosen for.
        """
        if content.version != first_version:
            raise SourceChanged
        with self.progress.step("decode"):
            decoded = source.decode(content.data, self.limits.size)
            width, height = decoded.size
            if job.width is not None and (job.width, job.height) != (width, height):
                raise SizeMismatch(
                    f"The source is {width}x{height}, not {job.width}x{job.height} as stated; "
                    "submit it with its right size or with none."
                )
            padded = decoded.on_the_lattice()
        # Outside of the step: an outage of the database is no decoder that stands still.
        measure = lanes.measure_job(
            job.parameters,
            job.output,
            width,
            height,
            from_latents=isinstance(decoded, source.Latents),
        )
        if measure.lane != job.lane:
            self._write(
                lambda connection: holds.measure(connection, self.run_id, {job.claim: measure})
            )
            raise Mismeasured
        self.watch("decode", job.id)
        parameters = job.parameters
        request = Request(
            source=padded,
            wants_latents=job.output.format is ResultFormat.LATENTS,
            seed=parameters.seed or 0,
            steps=parameters.steps,
            guidance_scale=parameters.guidance_scale,
            prompt=parameters.prompt,
            negative_prompt=parameters.negative_prompt,
        )
        return Prepared(job, decoded, request)

    def encode(self, upscaled: Upscaled) -> Encoded:
        """Cut the padding off and make the files."""
        job, decoded, made = upscaled.prepared.job, upscaled.prepared.decoded, upscaled.made
        width, height = decoded.size
        with self.progress.step("encode"):
            if made.latents is not None:
                values = result.finish_latents(made.latents, width=width, height=height)
                data = latents.encode(values, width=2 * width, height=2 * height)
                seen = result.without_padding(made.pixels, width=width, height=height)
            else:
                seen = result.finish(made.pixels, decoded.alpha, width=width, height=height)
                data = result.encode(seen, job.output)
            side = self.worker.preview_side
            preview = side and result.preview(seen, width=2 * width, height=2 * height, side=side)
        self.watch("encode", job.id)
        return Encoded(upscaled, data, preview or None)

    def store(self, encoded: Encoded) -> Result:
        """Put the result, and before it the preview, where only this claim writes.

        Raises:
            JobError: They may not be written there, or not by its tenant, or storage is away.
        """
        prepared = encoded.upscaled.prepared
        job, (width, height) = prepared.job, prepared.decoded.size
        self._check_result(job)
        place, preview = result_place(job, job.claim), preview_place(job, job.claim)
        stored = Result(
            uri=str(place),
            sha256=hashlib.sha256(encoded.data).hexdigest(),
            size_bytes=len(encoded.data),
            width=2 * width,
            height=2 * height,
            format=job.output.format,
            content_type=job.output.format.media_type,
            preview=str(preview) if encoded.preview else None,
            model=self.upscaler.name,
            model_revision=self.upscaler.revision,
            seed=prepared.request.seed,
            steps=job.parameters.steps,
            rungs=encoded.upscaled.rungs,
            gpu_seconds=round(encoded.upscaled.gpu_seconds, 6),
        )
        metadata = {
            "job": str(job.id),
            "fence": str(job.fence),
            "format": stored.format,
            # A model may have the name of any folder; S3 takes ASCII only.
            "model": quote(stored.model),
            "model-revision": stored.model_revision,
            "seed": str(stored.seed),
            "steps": str(stored.steps),
        }
        with self.progress.step("store", silence=self._silence) as advance:
            if encoded.preview:
                self.storage.write_once(
                    preview,
                    encoded.preview,
                    content_type=ResultFormat.WEBP.media_type,
                    sha256=hashlib.sha256(encoded.preview).hexdigest(),
                    metadata=metadata,
                )
                advance()
            self.storage.write_once(
                place,
                encoded.data,
                content_type=stored.content_type,
                sha256=stored.sha256,
                metadata=metadata,
            )
        self.watch("store", job.id)
        return stored

    def settle(self, ended: Sequence[Outcome]) -> None:
        """Write how claims ended, each kind by one statement, and let go of them.

        Waits as long as the database is away. What was lost to another run is dropped: its row
        says what became of it.
        """
        for record in records(self.run_id, ended):
            for settlement in self._write(record):
                if not settlement.stands:
                    log.info("claim_lost", job_id=str(settlement.job_id), state=settlement.state)
        for outcome in ended:
            self.watch("settle", outcome.claim.job_id)
        if any(isinstance(outcome, Released) for outcome in ended):
            # They wait again, before jobs that came later.
            self.low_water.forget()
        self.holdings.drop(outcome.claim for outcome in ended)

    def ask_storage(self) -> None:
        """Ask for something that concerns no job; any answer will do, a refusal as well.

        Raises:
            StorageUnavailable: There is none, or none to this process's credentials.
        """
        place = self.own.results.child(_ASKED_FOR)
        with (
            self.progress.step("ask", silence=self._silence),
            suppress(SourceNotFound, SourceDenied),
        ):
            self.storage.read_head(place, length=1)

    def _allowed_source(self, job: ClaimedJob) -> ArtifactUri:
        place = ArtifactUri.parse(job.source)
        job.places.check_source(place, self.own)
        return place

    def _check_result(self, job: ClaimedJob) -> None:
        job.places.check_result(
            result_place(job, job.claim), prefix=ArtifactUri.parse(job.output_prefix), own=self.own
        )

    @property
    def _silence(self) -> float:
        return self.storage.capabilities.silence_seconds

    def _write(self, write: Callable[[Connection], Answer]) -> Answer:
        """Write what is one statement, and what it reads after."""
        with self.progress.asking("ledger") as advance:

            def waiting(error: DBAPIError) -> None:
                # An answer, though an error: the database is away, this process is not stuck.
                advance()
                log.warning("database_away", error=str(error.orig))

            return persevere(committing_each(self.engine), write, waiting=waiting)
