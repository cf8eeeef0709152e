"""From what a caller asks for to a job that may be written, or the reason why not."""

import os
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from typing import Any

from twofold_producer.submit import names
from twofold_producer.submit.request import JobRequest, is_uri
from twofold_producer.submit.uploads import upload
from twofold_schema import lanes
from twofold_schema.artifacts import JOB, ArtifactUri
from twofold_schema.errors import InvalidParameter
from twofold_schema.job import DEFAULT_TENANT, Output, Parameters
from twofold_schema.ledger.new_jobs import NewJob, Terms
from twofold_schema.settings import LimitSettings, StorageSettings
from twofold_schema.storage.port import Storage
from twofold_schema.tenant_places import PlacesOf

#: Of a hundred thousand requests most have their terms from few others, and their sizes.
_REMEMBERED = 4096
_SEEDS_AT_ONCE = 512

_PARAMETERS = tuple(Parameters.model_fields)
_OUTPUT = ("output_format", "output_quality", "output_name")
_TERMS = ("job_class", "start_at", "start_by", "finish_by", "webhook")
_others_share = attrgetter(*_PARAMETERS, *_OUTPUT, *_TERMS, "output_prefix", "max_attempts")


class Acceptance:
    """Checks requests, stores what they hand over, draws what they leave open.

    Args:
        storage: Where sources that are handed over go.
        places: Which places are open.
        limits: What a job may be.
        places_of: What a tenant's jobs may name. Asked only about jobs that name something, and
            after all else was found good.
    """

    def __init__(
        self,
        storage: Storage,
        places: StorageSettings,
        limits: LimitSettings,
        places_of: PlacesOf,
    ) -> None:
        self._storage = storage
        self._settings = places
        self._limits = limits
        self._open = places.places
        self._own = places.own
        self._places_of = places_of
        self._measure = lru_cache(_REMEMBERED)(self._check_size)
        self._terms = lru_cache(_REMEMBERED)(self._find_terms)
        self._seeds: list[int] = []

    def accept(self, request: JobRequest, *, tenant: str = DEFAULT_TENANT) -> NewJob:
        """A job that may be written.

        Args:
            request: What is asked for.
            tenant: Who asks.

        Raises:
            SubmitError: Something about it cannot be.
            JobError: What it hands over could not be stored.
            DBAPIError: The database does not say what the tenant may name.
        """
        terms, prefix = self._terms(tenant, *_others_share(request))
        publish_to = None
        if request.output_name != JOB:
            name = names.folder_of(request, prefix)
            if name != terms.output.name:
                terms = replace(terms, output=terms.output.model_copy(update={"name": name}))
        if request.publish_as is not None:
            publish_to = names.published(request, prefix)
        measure = self._measured(request, terms)
        uri = ArtifactUri.parse(request.source) if is_uri(request.source) else None
        if uri is not None:
            self._open.check(uri)
        if uri is not None or publish_to is not None or request.output_prefix is not None:
            self._check_places(terms, prefix, uri, publish_to)
        if uri is None:
            uri, measure = self._upload(request, terms, measure)
        return NewJob(
            source=str(uri),
            terms=terms,
            seed=self._seed() if request.seed is None else request.seed,
            measure=measure,
            key=request.key,
            metadata=dict(request.metadata) if request.metadata else None,
            publish_to=str(publish_to) if publish_to else None,
        )

    def _find_terms(
        self,
        tenant: str,
        *shared: Any,  # noqa: ANN401 - as listed
    ) -> tuple[Terms, ArtifactUri]:
        """What all requests have in common that agree in these fields."""
        count = len(_PARAMETERS)
        parameters = Parameters(**dict(zip(_PARAMETERS, shared, strict=False)))
        form, quality, name = shared[count : count + len(_OUTPUT)]
        *rest, output_prefix, max_attempts = shared[count + len(_OUTPUT) :]
        if parameters.steps > self._limits.max_steps:
            raise InvalidParameter(
                f"steps: at most {self._limits.max_steps} are allowed, not {parameters.steps} "
                "(TWOFOLD_MAX_STEPS)."
            )
        prefix = ArtifactUri.parse(output_prefix or self._settings.results)
        self._open.check(prefix)
        names.check_folder(prefix, JOB)
        terms = Terms(
            output_prefix=str(prefix),
            parameters=parameters,
            max_attempts=max_attempts or self._limits.max_attempts,
            output=Output(format=form, quality=quality, name=name),
            tenant=tenant,
            **dict(zip(_TERMS, rest, strict=True)),
        )
        return terms, prefix

    def _check_places(
        self,
        terms: Terms,
        prefix: ArtifactUri,
        source: ArtifactUri | None,
        publish_to: ArtifactUri | None,
    ) -> None:
        """Accept what the tenant's job names.

        Raises:
            PlaceNotAllowed: The tenant may not.
        """
        places = self._places_of(terms.tenant)
        if places.may_read is None and places.may_write is None:
            return
        if source is not None:
            places.check_source(source, self._own)
        places.check_result(prefix.child(terms.output.name), prefix=prefix, own=self._own)
        if publish_to is not None:
            places.check_name(publish_to)

    def _measured(self, request: JobRequest, terms: Terms) -> lanes.Measure | None:
        """The lane and cost of a source whose size is stated: before anything is uploaded."""
        width, height = request.width, request.height
        return self._measure(terms, width, height, request.latents) if width and height else None

    def _upload(
        self, request: JobRequest, terms: Terms, measure: lanes.Measure | None
    ) -> tuple[ArtifactUri, lanes.Measure | None]:
        uploaded = upload(request.source, self._storage, self._settings, self._limits)
        width, height = request.width, request.height
        width, height = (width, height) if width and height else uploaded.size or (None, None)
        if width and height:
            measure = self._measure(terms, width, height, uploaded.is_latents)
        return uploaded.uri, measure

    def _check_size(
        self,
        terms: Terms,
        width: int,
        height: int,
        from_latents: bool,  # noqa: FBT001 - by position, as a cache has it
    ) -> lanes.Measure:
        """The lane and cost of a source of this size.

        Raises:
            TooLarge: It is over a limit, or its result would be.
        """
        self._limits.check_size(width, height)
        return lanes.measure_job(
            terms.parameters, terms.output, width, height, from_latents=from_latents
        )

    def _seed(self) -> int:
        """A seed nobody asked for. Drawn many at once, because each time asks the system."""
        try:
            return self._seeds.pop()
        except IndexError:
            drawn = os.urandom(8 * _SEEDS_AT_ONCE)
            self._seeds += [seed >> 1 for seed in memoryview(drawn).cast("Q")]
            return self._seeds.pop()
