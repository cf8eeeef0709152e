"""What a job may be."""

import re
from typing import Annotated

from pydantic import Field

from twofold_schema.environment import Settings
from twofold_schema.errors import TooLarge
from twofold_schema.lanes import LATTICE, SizeLimits, lattice_pixels
from twofold_schema.settings.reading import readable

#: From here on Pillow has doubts of its own.
_PILLOW_MAX_PIXELS = 89_478_485

_POOL = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*=\s*([0-9]{1,19})")
#: The smallest padded source; a side in its place would fail every job.
_LEAST_POOL = LATTICE * LATTICE
_MOST_POOL = 2**63 - 1  # what the column holds


def _pools(text: str) -> dict[str, int]:
    """Pixels by the pools' names.

    Raises:
        ValueError: It is not `name=pixels,name=pixels`.
    """
    pools: dict[str, int] = {}
    for entry in filter(None, (entry.strip() for entry in text.split(","))):
        written = _POOL.fullmatch(entry)
        if written is None:
            raise ValueError(f"{entry!r} is no pool; write name=pixels,name=pixels")
        name, pixels = written[1], int(written[2])
        if name in pools:
            raise ValueError(f"the pool {name} stands there twice")
        if not _LEAST_POOL <= pixels <= _MOST_POOL:
            raise ValueError(
                f"the pool {name} takes {pixels} pixels; write the area of the largest padded "
                f"source, {_LEAST_POOL} or more"
            )
        pools[name] = pixels
    return pools


class LimitSettings(Settings):
    """What a job may be.

    Attributes:
        max_side: The longer side of a source, in pixels.
        max_pixels: Width times height of a source.
        max_source_bytes: The source object's length.
        max_steps: Sampling steps.
        pools: What each pool of workers can take, `name=pixels,name=pixels`: the area of the padded
            source, which the worker's log line `planned` calls `largest_pixels`. A pool that is
            scaled to zero counts. Jobs larger than all of them are failed; empty for none.
        max_attempts: Attempts per generation unless a job says otherwise.
        key_days: How long a job's key is remembered.
    """

    max_side: Annotated[int, Field(ge=1, le=16384)] = 4096
    max_pixels: Annotated[int, Field(ge=1, le=_PILLOW_MAX_PIXELS)] = 2048 * 2048
    max_source_bytes: Annotated[int, Field(ge=1, le=2**31)] = 64 * 2**20
    max_steps: Annotated[int, Field(ge=1, le=150)] = 150
    pools: Annotated[str, readable(_pools)] = ""
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    key_days: Annotated[float, Field(gt=0, le=3650)] = 30.0

    @property
    def size(self) -> SizeLimits:
        """The limits on width and height."""
        return SizeLimits(max_pixels=self.max_pixels, max_side=self.max_side)

    @property
    def largest_pool(self) -> int | None:
        """The largest padded source that a declared pool takes, in pixels; None without pools."""
        return max(_pools(self.pools).values(), default=None)

    def check_size(self, width: int, height: int) -> None:
        """Accept a size that is stated.

        Raises:
            TooLarge: It is over a limit, or no declared pool of workers can take it.
        """
        self.size.check(width, height)
        padded = lattice_pixels(width, height)
        if self.largest_pool is not None and padded > self.largest_pool:
            raise TooLarge(
                f"The picture is {width}x{height}, {padded} px in all once padded; the largest "
                f"pool of workers takes {self.largest_pool} (TWOFOLD_POOLS). Send a smaller one, "
                "or ask the operator to declare a larger pool."
            )
