"""Who is on the device and who waits; nothing here touches it.

Jobs wait in the order of their rank: class, then id. A lane that is open has seats, each for one
sample at its own step. It opens with all who fit, and is not refilled past a better-ranked job of
another lane: it drains, and ids grow, so that no lane starves another.
"""

from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from twofold_schema.job import Claim
from twofold_schema.states import JobClass
from twofold_worker.upscaler.port import Sample
from twofold_worker.work import Prepared

#: One drains while the next fills.
_OPEN_LANES: Final = 2


@dataclass(slots=True, eq=False)
class Waiting:
    """A job that has yet to begin.

    Attributes:
        prepared: The job.
        careful: Whether it is its second try, in single precision.
        rungs: Those that it has seen, each once.
        gpu_seconds: What it has had of the device's time so far.
    """

    prepared: Prepared
    careful: bool = False
    rungs: list[int] = field(default_factory=list)
    gpu_seconds: float = 0.0

    @property
    def claim(self) -> Claim:
        """On the job."""
        return self.prepared.job.claim

    @property
    def rank(self) -> tuple[int, UUID]:
        """Lower is better."""
        job = self.prepared.job
        return job.job_class.rank, job.id

    @property
    def lane(self) -> str:
        """Whom it may share a step with; a careful one with nobody."""
        job = self.prepared.job
        return f"{job.lane}/{job.id}" if self.careful else str(job.lane)

    @property
    def slots(self) -> int:
        """Of a step that it takes."""
        return self.prepared.request.slots

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the padded picture, in pixels."""
        return self.prepared.request.size

    @property
    def is_pinned(self) -> bool:
        """Whether only one rung will do."""
        return self.prepared.job.parameters.reproducible

    def __lt__(self, other: "Waiting") -> bool:
        """Whether it goes first."""
        return self.rank < other.rank

    def outranks(self, other: "Waiting") -> bool:
        """Whether it is of a better class."""
        return self.rank[0] < other.rank[0]


@dataclass(slots=True, eq=False, kw_only=True)
class Seat(Waiting):
    """A job on the device.

    Attributes:
        sample: Its state there.
    """

    sample: Sample


class Seating:
    """The waiting list and the open lanes.

    Args:
        pinned_rung: Slots of a step of reproducible jobs.
        room: Slots of a step that fit the device now, by height and width.
    """

    def __init__(self, pinned_rung: int, room: Callable[[tuple[int, int]], int]) -> None:
        self._pinned_rung = pinned_rung
        self._room = room
        self._waiting: list[Waiting] = []
        self._lanes: dict[str, list[Seat]] = {}

    def __iter__(self) -> Iterator[Waiting]:
        """All who are here."""
        yield from self._waiting
        for seats in self._lanes.values():
            yield from seats

    @property
    def is_empty(self) -> bool:
        """Whether nobody is here."""
        return not self._waiting and not self._lanes

    @property
    def backlog(self) -> float:
        """What waits, in steps' worth of slots: 1 fills a step."""
        return sum(one.slots / self._most(one) for one in self._waiting)

    @property
    def next_class(self) -> JobClass | None:
        """The class of the best-ranked who waits: only a better one would be called before it."""
        return self._waiting[0].prepared.job.job_class if self._waiting else None

    def wait(self, one: Waiting) -> None:
        """Let a job wait for its turn."""
        insort(self._waiting, one)

    def call(self) -> list[Waiting]:
        """Who begins next: the best-ranked, with the mates that fit if it opens a lane.

        Returns:
            None of them if nobody may begin. They wait no more.
        """
        if not self._waiting or not self._has_room(self._waiting[0]):
            return []
        called, opens = [self._waiting[0]], self._waiting[0].lane not in self._lanes
        most, slots = self._most(called[0]), called[0].slots
        for one in self._waiting[1:] if opens else []:
            if one.lane == called[0].lane and slots + one.slots <= most:
                called.append(one)
                slots += one.slots
        self._waiting = [one for one in self._waiting if one not in called]
        return called

    def seat(self, one: Waiting, sample: Sample) -> None:
        """Give a job that has begun a seat in its lane."""
        seat = Seat(one.prepared, one.careful, one.rungs, one.gpu_seconds, sample=sample)
        self._lanes.setdefault(one.lane, []).append(seat)

    def leave(self, one: Waiting) -> None:
        """Take a job out; a lane without any is closed."""
        if one in self._waiting:
            self._waiting.remove(one)
        elif one in self._lanes.get(one.lane, []):
            seats = [seat for seat in self._lanes.pop(one.lane) if seat is not one]
            if seats:
                self._lanes[one.lane] = seats

    def clear_waiting(self) -> list[Waiting]:
        """Take out all who have not begun."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def company(self) -> tuple[list[Seat], int]:
        """Who steps now: samples of the best-ranked one's lane, best first, as many as fit.

        Returns:
            None of them if no lane is open; and how many slots the step may have.
        """
        if not self._lanes:
            return [], 0
        seats = sorted(min(self._lanes.values(), key=min))
        most, company = self._most(seats[0]), list[Seat]()
        for seat in seats:
            if sum(mate.slots for mate in company) + seat.slots <= most:
                company.append(seat)
        return company, most

    def _has_room(self, one: Waiting) -> bool:
        """Whether a job may begin; for a better class worse ones are as if they were not there."""
        if (seats := self._lanes.get(one.lane)) is not None:
            taken = sum(seat.slots for seat in seats if not one.outranks(seat))
            return taken + one.slots <= self._most(one)
        seated = (seat for seats in self._lanes.values() for seat in seats)
        return len(self._lanes) < _OPEN_LANES or all(one.outranks(seat) for seat in seated)

    def _most(self, one: Waiting) -> int:
        """Slots of a step; at least those of one job, which is tried in any case."""
        return self._pinned_rung if one.is_pinned else max(self._room(one.size), one.slots)
