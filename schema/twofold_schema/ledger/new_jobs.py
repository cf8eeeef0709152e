"""A job that may be written, and what came of writing it."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from twofold_schema.job import Output, Parameters
from twofold_schema.lanes import Measure
from twofold_schema.states import JobClass

_CANONICAL = json.JSONEncoder(sort_keys=True, default=str).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job that was checked and may be written.

    Attributes:
        source: URI of the picture or latents.
        output_prefix: URI under which the result is stored.
        output: What the result's file shall be.
        publish_to: URI to which the result is copied after completion; `{job}` is the job's id.
        parameters: With the seed drawn.
        seed_drawn: Whether the seed is ours: then it is no part of what the caller asked for.
        measure: The lane and cost, when the caller stated the size.
        key: The caller's own name for the job, unique per tenant while it is remembered.
        start_at: Not before this time.
        start_by: Expire unless claimed by then.
        finish_by: Expire unless finished by then.
    """

    source: str
    output_prefix: str
    parameters: Parameters
    seed_drawn: bool
    max_attempts: int
    output: Output = field(default_factory=Output)
    publish_to: str | None = None
    job_class: JobClass = JobClass.STANDARD
    tenant: str = "default"
    measure: Measure | None = None
    key: str | None = None
    metadata: dict[str, str] | None = None
    start_at: datetime | None = None
    start_by: datetime | None = None
    finish_by: datetime | None = None

    def fingerprint(self) -> bytes:
        """A digest of what the caller asked for: the same key must mean the same digest."""
        # Without what has its default: a field that a later version adds must not make every
        # key that is remembered look reused.
        drawn = {"seed"} if self.seed_drawn else None
        payload = {
            "source": self.source,
            "output_prefix": self.output_prefix,
            "parameters": self.parameters.model_dump(exclude=drawn, exclude_defaults=True),
            **self.output.model_dump(exclude_defaults=True),
            **({"publish_to": self.publish_to} if self.publish_to else {}),
            "size": (self.measure.width, self.measure.height) if self.measure else None,
            "job_class": self.job_class,
            "metadata": self.metadata or {},
            "start_at": self.start_at,
            "start_by": self.start_by,
            "finish_by": self.finish_by,
        }
        return hashlib.sha256(_CANONICAL(payload).encode()).digest()


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that is in the ledger.

    Attributes:
        job_id: Of the job.
        created: False when its key was known with the same payload: nothing was written.
    """

    job_id: UUID
    created: bool
