"""From what a caller asks for to a job that may be written, or the reason why not."""

import secrets
from functools import lru_cache

from twofold_producer.submit import names
from twofold_producer.submit.request import JobRequest, is_uri
from twofold_producer.submit.uploads import upload
from twofold_schema import lanes
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import InvalidParameter
from twofold_schema.formats import ResultFormat
from twofold_schema.job import Output
from twofold_schema.ledger.new_jobs import NewJob
from twofold_schema.settings import LimitSettings, StorageSettings
from twofold_schema.storage.port import Storage

#: Of a hundred thousand requests most have these in common.
_REMEMBERED = 1024


class Acceptance:
    """Checks requests, stores what they hand over, draws what they leave open.

    Args:
        storage: Where sources that are handed over go.
        places: Which places are open.
        limits: What a job may be.
    """

    def __init__(self, storage: Storage, places: StorageSettings, limits: LimitSettings) -> None:
        self._storage = storage
        self._settings = places
        self._limits = limits
        self._open = places.places
        self._prefix = lru_cache(_REMEMBERED)(self._check_prefix)
        self._check_size = lru_cache(_REMEMBERED)(limits.check_size)

    def accept(self, request: JobRequest) -> NewJob:
        """A job that may be written.

        Raises:
            SubmitError: Something about it cannot be.
            JobError: What it hands over could not be stored.
        """
        if request.steps > self._limits.max_steps:
            raise InvalidParameter(
                f"steps: at most {self._limits.max_steps} are allowed, not {request.steps} "
                "(TWOFOLD_MAX_STEPS)."
            )
        prefix = self._prefix(request.output_prefix or self._settings.results)
        output = _output(
            request.output_format, request.output_quality, names.folder_of(request, prefix)
        )
        publish_to = names.published(request, prefix)
        source, measure = self._source(request, output)
        drawn = request.seed is None
        return NewJob(
            source=str(source),
            output_prefix=str(prefix),
            output=output,
            publish_to=str(publish_to) if publish_to else None,
            parameters=request.parameters_with(secrets.randbits(63) if drawn else request.seed),
            seed_drawn=drawn,
            max_attempts=request.max_attempts or self._limits.max_attempts,
            job_class=request.job_class,
            measure=measure,
            key=request.key,
            metadata=dict(request.metadata),
            start_at=request.start_at,
            start_by=request.start_by,
            finish_by=request.finish_by,
        )

    def _source(
        self, request: JobRequest, output: Output
    ) -> tuple[ArtifactUri, lanes.Measure | None]:
        size = None if request.width is None else (request.width, request.height or 0)
        if size:
            # Before anything is uploaded.
            self._check_size(*size)
            output.check(*size)
        if is_uri(request.source):
            uri = ArtifactUri.parse(str(request.source))
            self._open.check(uri)
            from_latents = request.latents
        else:
            uploaded = upload(request.source, self._storage, self._settings, self._limits)
            uri, from_latents = uploaded.uri, uploaded.is_latents
            size = size or uploaded.size
        measure = size and lanes.measure_job(request, output, *size, from_latents=from_latents)
        return uri, measure

    def _check_prefix(self, text: str) -> ArtifactUri:
        prefix = ArtifactUri.parse(text)
        self._open.check(prefix)
        return prefix


@lru_cache(_REMEMBERED)
def _output(form: ResultFormat, quality: int, name: str) -> Output:
    return Output(format=form, quality=quality, name=name)
