"""What becomes of a job's picture on its way: the values that the verbs of `pipeline` hand on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from twofold_schema import lanes
from twofold_schema.job import ClaimedJob
from twofold_worker.codec import source
from twofold_worker.upscaler.port import Made, Request

#: Told the name of each verb and the job, as it ends. For tests that pull the plug between two.
Watch: TypeAlias = Callable[[str, UUID], None]


def unwatched(verb: str, job_id: UUID) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a source's header said, and which content of the source said so."""

    measure: lanes.Measure
    version: str


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A job that is ready for the device."""

    job: ClaimedJob
    decoded: source.Decoded
    request: Request


@dataclass(frozen=True, slots=True, eq=False)
class Upscaled:
    """A job that comes from the device, its padding not yet cut off, and what it took there."""

    prepared: Prepared
    made: Made
    rungs: tuple[int, ...]
    gpu_seconds: float

    @property
    def pixels(self) -> int:
        """Of its padded source."""
        height, width = self.prepared.request.size
        return height * width


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """The files of a result: its own, and its preview's unless previews are off."""

    upscaled: Upscaled
    data: bytes
    preview: bytes | None
