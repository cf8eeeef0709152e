"""From what a caller asks for to a job that may be written, or the reason why not."""

import secrets

from twofold_producer.submit import names
from twofold_producer.submit.request import JobRequest, is_uri
from twofold_producer.submit.uploads import upload
from twofold_schema import lanes
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import InvalidParameter
from twofold_schema.job import Output
from twofold_schema.ledger.submit import NewJob
from twofold_schema.settings import LimitSettings, StorageSettings
from twofold_schema.storage.port import Storage


def accept(
    request: JobRequest, storage: Storage, places: StorageSettings, limits: LimitSettings
) -> NewJob:
    """Check a request, store what it hands over, draw what it leaves open.

    Raises:
        SubmitError: Something about it cannot be.
        JobError: What it hands over could not be stored.
    """
    if request.steps > limits.max_steps:
        raise InvalidParameter(
            f"steps: at most {limits.max_steps} are allowed, not {request.steps} "
            "(TWOFOLD_MAX_STEPS)."
        )
    prefix = ArtifactUri.parse(request.output_prefix or places.results)
    places.places.check(prefix)
    output = Output(
        format=request.output_format,
        quality=request.output_quality,
        name=names.folder_of(request, prefix),
    )
    publish_to = names.published(request, prefix)
    source, measure = _source(request, output, storage, places, limits)
    parameters = request.parameters
    drawn = parameters.seed is None
    if drawn:
        parameters = parameters.model_copy(update={"seed": secrets.randbits(63)})
    return NewJob(
        source=str(source),
        output_prefix=str(prefix),
        output=output,
        publish_to=str(publish_to) if publish_to else None,
        parameters=parameters,
        seed_drawn=drawn,
        max_attempts=request.max_attempts or limits.max_attempts,
        job_class=request.job_class,
        measure=measure,
        key=request.key,
        metadata=dict(request.metadata),
        start_at=request.start_at,
        start_by=request.start_by,
        finish_by=request.finish_by,
    )


def _source(
    request: JobRequest,
    output: Output,
    storage: Storage,
    places: StorageSettings,
    limits: LimitSettings,
) -> tuple[ArtifactUri, lanes.Measure | None]:
    size = None if request.width is None else (request.width, request.height or 0)
    if size:
        # Before anything is uploaded.
        limits.check_size(*size)
        output.check(*size)
    if is_uri(request.source):
        uri = ArtifactUri.parse(str(request.source))
        places.places.check(uri)
        from_latents = request.latents
    else:
        uploaded = upload(request.source, storage, places, limits)
        uri, from_latents = uploaded.uri, uploaded.is_latents
        size = size or uploaded.size
    measure = size and lanes.measure_job(
        request.parameters, output, *size, from_latents=from_latents
    )
    return uri, measure
