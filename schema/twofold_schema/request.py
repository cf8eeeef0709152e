"""What a caller asks for of a job, but for its source: that depends on how it is asked."""

from collections.abc import Mapping
from typing import Annotated, Self, TypeAlias
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from twofold_schema.artifacts import JOB
from twofold_schema.formats import ResultFormat
from twofold_schema.job import AS_TEXT, Parameters, Time, encodable
from twofold_schema.states import JobClass

#: The caller's own name for something.
Key: TypeAlias = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(encodable)]

_MAX_PAIRS, _MAX_NAME, _MAX_VALUE = 16, 64, 512


def _limited(metadata: Mapping[str, str]) -> Mapping[str, str]:
    if len(metadata) > _MAX_PAIRS:
        raise ValueError(f"at most {_MAX_PAIRS} pairs")
    for name, value in metadata.items():
        if not 1 <= len(encodable(name)) <= _MAX_NAME or len(encodable(value)) > _MAX_VALUE:
            raise ValueError(f"names up to {_MAX_NAME} and values up to {_MAX_VALUE} characters")
    return metadata


class JobFields(Parameters):
    """How a picture is to be upscaled.

    Attributes:
        key: Your own name for the job, up to 200 characters. The same key with the same request
            is the same job, so that a half-finished script can be run again.
        width: The source's, in pixels, if you know it: it saves a read, and is checked later.
        height: As `width`.
        latents: Say so when you state the size of latents: eight times their own sides.
        output_prefix: The URI under which the result is stored; None for TWOFOLD_RESULTS.
        output_format: `png`, `webp-lossless`, `webp`, `jpeg`, or `latents`, which are not decoded.
        output_quality: 1 to 100, for `webp` and `jpeg`.
        output_name: The folder of the job's results below the prefix, with `{job}`, the job's id,
            and, if you like, `{key}` or `{stem}`, the source's own name without its suffix.
        publish_as: A fixed name below the prefix to which the result is copied once the job has
            succeeded, from the same placeholders; None for no copy. Of several jobs with one name
            the one submitted last has it in the end.
        job_class: `interactive`, `standard` or `bulk`: which is served first.
        metadata: Up to 16 pairs of strings of your own.
        start_at: Do not start before.
        start_by: Expire unless a worker took it by then.
        finish_by: Expire unless it is finished by then.
        max_attempts: 1 to 20; None for TWOFOLD_MAX_ATTEMPTS.
        webhook: The id of a webhook endpoint that is told of the job's end, besides those that
            are told of everything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    key: Key | None = None
    width: Annotated[int, Field(ge=1, le=2**20)] | None = None
    height: Annotated[int, Field(ge=1, le=2**20)] | None = None
    latents: bool = False
    output_prefix: str | None = None
    output_format: Annotated[ResultFormat, AS_TEXT] = ResultFormat.PNG
    output_quality: Annotated[int, Field(ge=1, le=100)] = 90
    output_name: Annotated[str, Field(max_length=500), AfterValidator(encodable)] = JOB
    publish_as: (
        Annotated[str, Field(min_length=1, max_length=500), AfterValidator(encodable)] | None
    ) = None
    job_class: Annotated[JobClass, AS_TEXT] = JobClass.STANDARD
    # A factory, because pydantic would look into a default for each request, to copy it.
    metadata: Annotated[Mapping[str, str], AfterValidator(_limited)] = Field(default_factory=dict)
    start_at: Time | None = None
    start_by: Time | None = None
    finish_by: Time | None = None
    max_attempts: Annotated[int, Field(ge=1, le=20)] | None = None
    webhook: Annotated[UUID, AS_TEXT] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.width is None) != (self.height is None):
            raise ValueError("state width and height, or neither")
        if self.latents and (self.width or 0) % 8 + (self.height or 0) % 8:
            raise ValueError("the size of latents is eight times their own sides")
        if self.start_at or self.start_by or self.finish_by:
            times = [time for time in (self.start_at, self.start_by, self.finish_by) if time]
            if times != sorted(times):
                raise ValueError("start_at, start_by and finish_by must follow each other")
        return self
