"""Where a process's claims go on, so that they do not pass over what is claimed already.

Where somebody holds a snapshot open, an index keeps the entries of all the rows that left the queue
since, and every claim that begins at a tenant's oldest job would pass over all of them.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from uuid import UUID

#: How long jobs may stay unseen that come in below the mark: by a transaction that was open for
#: long, a clock that is behind, a release, a rescue, a retry.
RESCAN_SECONDS: Final = 5.0

#: Claims carry the marks with them: of these many ranges, those that were claimed from last.
_RANGES: Final = 256


class Range(NamedTuple):
    """A part of an index over queued jobs, which lists them by id.

    Attributes:
        lane: Of the index by lane, where '' is that of jobs of unknown size; None for the other.
        job_class: The class's rank.
        tenant: Whose jobs they are.
    """

    lane: str | None
    job_class: int
    tenant: str


@dataclass(slots=True)
class LowWater:
    """Ids below which this process found nothing to claim, of each range. An optimisation only.

    One thread claims with it; any thread may call `forget`.

    Attributes:
        rescan_seconds: After so long everything is looked at again.
        clock: In seconds, which never goes back.
    """

    rescan_seconds: float = RESCAN_SECONDS
    clock: Callable[[], float] = time.monotonic
    _marks: OrderedDict[Range, UUID] = field(default_factory=OrderedDict)
    _since: float = -math.inf

    def marks(self) -> Mapping[Range, UUID]:
        """Where to begin, of each range that is not looked at from its start."""
        if self.clock() - self._since >= self.rescan_seconds:
            # In this order: what another thread makes us forget from here on is forgotten next.
            self._since = self.clock()
            self._marks.clear()
        return self._marks

    def forget(self) -> None:
        """Begin everywhere at the start the next time."""
        self._since = -math.inf

    def raise_to(self, part: Range, job_id: UUID) -> None:
        """Note that nothing before this job is left to claim of a range."""
        self._marks[part] = job_id
        self._marks.move_to_end(part)
        if len(self._marks) > _RANGES:
            self._marks.popitem(last=False)
