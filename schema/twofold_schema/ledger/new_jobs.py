"""A job that may be written, and what came of writing it."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple
from uuid import UUID

from twofold_schema.errors import InvalidParameter, KeyReused
from twofold_schema.ids import PackedId
from twofold_schema.job import DEFAULT_TENANT, Output, Parameters
from twofold_schema.lanes import Measure
from twofold_schema.states import JobClass

_canonical = json.JSONEncoder(sort_keys=True, default=str).encode
#: What a payload has where the parts of one job belong: no text of a job holds a NUL.
_GAP = re.compile(r'"\\u0000"')


@dataclass(frozen=True, kw_only=True, eq=False)
class Terms:
    """What many jobs have in common. One object for all of them is what makes them cheap.

    Attributes:
        output_prefix: URI under which results are stored.
        parameters: As asked: without a seed where that is to be drawn.
        output: What the results' files shall be.
        start_at: Not before this time.
        start_by: Expire unless claimed by then.
        finish_by: Expire unless finished by then.
        webhook: The tenant's endpoint that is told of the end, whatever else is.
    """

    output_prefix: str
    parameters: Parameters
    max_attempts: int
    output: Output = field(default_factory=Output)
    job_class: JobClass = JobClass.STANDARD
    tenant: str = DEFAULT_TENANT
    start_at: datetime | None = None
    start_by: datetime | None = None
    finish_by: datetime | None = None
    webhook: UUID | None = None

    @cached_property
    def unpublished(self) -> list[str]:
        """The payload of a job that is not published, around its metadata, size and source."""
        return _GAP.split(_canonical(self._payload()))

    @cached_property
    def published(self) -> list[str]:
        """The same around metadata, `publish_to`, size and source."""
        return _GAP.split(_canonical(self._payload() | {"publish_to": "\0"}))

    def _payload(self) -> dict[str, Any]:
        # Without what has its default: a field that a later version adds must not make every
        # key that is remembered look reused.
        return {
            "source": "\0",
            "output_prefix": self.output_prefix,
            "parameters": self.parameters.model_dump(exclude_defaults=True),
            **self.output.model_dump(exclude_defaults=True),
            "size": "\0",
            "job_class": self.job_class,
            "metadata": "\0",
            "start_at": self.start_at,
            "start_by": self.start_by,
            "finish_by": self.finish_by,
            **({} if self.webhook is None else {"webhook": self.webhook}),
        }


class NewJob(NamedTuple):
    """A job that was checked and may be written.

    Attributes:
        source: URI of the picture or latents.
        terms: What else it asks for.
        seed: Of the noise, as asked or drawn.
        measure: The lane and cost, when the caller stated the size.
        key: The caller's own name for the job, unique per tenant while it is remembered.
        metadata: The caller's own pairs.
        publish_to: URI to which the result is copied after completion; `{job}` is the job's id.
    """

    source: str
    terms: Terms
    seed: int | None
    measure: Measure | None = None
    key: str | None = None
    metadata: dict[str, str] | None = None
    publish_to: str | None = None

    def fingerprint(self) -> bytes:
        """A digest of what the caller asked for: the same key must mean the same digest.

        A seed that was drawn is no part of it.
        """
        metadata = _canonical(self.metadata) if self.metadata else "{}"
        measure, source = self.measure, encode_basestring_ascii(self.source)
        size = f"[{measure.width}, {measure.height}]" if measure else "null"
        if self.publish_to:
            begin, named, sized, sourced, end = self.terms.published
            metadata = f"{metadata}{named}{encode_basestring_ascii(self.publish_to)}"
        else:
            begin, sized, sourced, end = self.terms.unpublished
        payload = f"{begin}{metadata}{sized}{size}{sourced}{source}{end}"
        return hashlib.sha256(payload.encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What came of writing several jobs, each at its place.

    In columns, because of a hundred thousand jobs every object that lives for a while is one more
    that Python looks through for garbage, again and again.

    Attributes:
        job_ids: The one that each was to have; of one whose key was known, its holder's.
        created: Whether each is new.
        faults: Why jobs were not written.
        limited: Whether one of their tenants may only have so many jobs waiting; None where that
            was not looked for.
    """

    job_ids: Sequence[PackedId]
    created: Sequence[int]
    faults: Mapping[int, KeyReused | InvalidParameter]
    limited: bool | None = None


class Accepted(NamedTuple):
    """A job that is in the ledger.

    Attributes:
        job_id: Of the job.
        created: False when its key was known with the same payload: nothing was written.
    """

    job_id: UUID
    created: bool
