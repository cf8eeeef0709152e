"""Two ways to put requests on a device: batches that stay together, and slots that are refilled.

Both are one thread's loop over an `Upscaler`. `drive_continuous` stands for the engine until the
worker's own has this form, which is then driven in its place.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.clock import Clock
from benchmarks.loads import Arrival
from twofold_worker.batching import halves, rung_for
from twofold_worker.upscaler.port import BatchTooLarge, Made, Request, Sample, Upscaler

#: How far behind the oldest request one may be and still come first, because its size fits.
_HORIZON = 64


@dataclass(slots=True, kw_only=True)
class Done:
    """How a request ended.

    Attributes:
        arrival: What was asked, and when.
        at: When it ended, in seconds from the start.
        made: What became of it; None if it failed.
    """

    arrival: Arrival
    at: float
    made: Made | None


def drive_static(
    upscaler: Upscaler,
    arrivals: Sequence[Arrival],
    *,
    most: int,
    clock: Clock,
    equal_steps: bool = False,
) -> list[Done]:
    """Run batches that begin and end together, in order of arrival.

    Args:
        upscaler: On its device.
        arrivals: In order of time.
        most: Slots of a batch.
        clock: The upscaler's.
        equal_steps: Whether only requests of as many steps share a batch. If not, whoever is done
            keeps its slot until the batch's last one is.
    """
    start, coming, waiting = clock.now(), deque(arrivals), deque[Arrival]()
    done: list[Done] = []

    def alike(request: Request) -> object:
        return (request.size, request.steps) if equal_steps else request.size

    while coming or waiting:
        _let_in(coming, waiting, clock, start, idle=not waiting)
        batch: list[Arrival] = []
        for arrival in list(waiting):
            slots = sum(mate.request.slots for mate in batch) + arrival.request.slots
            if slots <= most and alike(arrival.request) == alike(waiting[0].request):
                batch.append(arrival)
        for arrival in batch:
            waiting.remove(arrival)
        samples = [upscaler.begin(arrival.request) for arrival in batch]
        rung = rung_for(sum(sample.request.slots for sample in samples), most=most)
        while left := [sample for sample in samples if not sample.is_done]:
            upscaler.step(left, rung=rung)
        pictures = [upscaler.finish(sample) for sample in samples]
        at = clock.now() - start
        done += [
            Done(arrival=arrival, at=at, made=made)
            for arrival, made in zip(batch, pictures, strict=True)
        ]
    return done


def drive_continuous(
    upscaler: Upscaler, arrivals: Sequence[Arrival], *, most: int, most_pixels: int, clock: Clock
) -> list[Done]:
    """Refill slots between steps.

    Args:
        upscaler: On its device.
        arrivals: In order of time.
        most: Slots of a step.
        most_pixels: Of the sources of all samples on the device, a slot each.
        clock: The upscaler's.
    """
    return _Loop(upscaler, arrivals, most, most_pixels, clock).run()


@dataclass(slots=True)
class _Loop:
    upscaler: Upscaler
    arrivals: Sequence[Arrival]
    most: int
    most_pixels: int
    clock: Clock
    waiting: deque[Arrival] = field(default_factory=deque)
    lanes: dict[tuple[int, int], list[tuple[Sample, Arrival]]] = field(default_factory=dict)
    done: list[Done] = field(default_factory=list)
    passed_over: int = 0
    start: float = 0.0

    def run(self) -> list[Done]:
        self.start, coming = self.clock.now(), deque(self.arrivals)
        while coming or self.waiting or self.lanes:
            idle = not (self.waiting or self.lanes)
            _let_in(coming, self.waiting, self.clock, self.start, idle=idle)
            while (arrival := self._next()) is not None:
                self._begin(arrival)
            for size in list(self.lanes):
                self._step(self.lanes[size])
                self._finish(size)
        return self.done

    def _next(self) -> Arrival | None:
        """Who comes on the device now: first who shares a size, but the oldest not for ever."""
        fitting = [a for a in list(self.waiting)[:_HORIZON] if self._fits(a.request)]
        if self.waiting and self.passed_over > _HORIZON:
            fitting = [a for a in fitting if a is self.waiting[0]]
        mates = [a for a in fitting if a.request.size in self.lanes]
        for arrival in (mates or fitting)[:1]:
            self.passed_over = 0 if arrival is self.waiting[0] else self.passed_over + 1
            self.waiting.remove(arrival)
            return arrival
        return None

    def _fits(self, request: Request) -> bool:
        lane = self.lanes.get(request.size, [])
        in_lane = sum(sample.request.slots for sample, _ in lane)
        held = sum(_weight(sample.request) for lane in self.lanes.values() for sample, _ in lane)
        alone = not self.lanes
        return alone or (
            in_lane + request.slots <= self.most and held + _weight(request) <= self.most_pixels
        )

    def _begin(self, arrival: Arrival) -> None:
        try:
            sample = self.upscaler.begin(arrival.request)
        except BatchTooLarge:
            self._end(arrival, None)
            return
        self.lanes.setdefault(arrival.request.size, []).append((sample, arrival))

    def _step(self, lane: list[tuple[Sample, Arrival]]) -> None:
        slots = sum(sample.request.slots for sample, _ in lane)
        try:
            self.upscaler.step(
                [sample for sample, _ in lane], rung=rung_for(slots, most=max(self.most, slots))
            )
        except BatchTooLarge:
            alone = len(lane) == 1
        else:
            return
        if alone:
            self._end(lane.pop()[1], None)
            return
        for half in halves(list(lane)):
            part = list(half)
            self._step(part)
            for lost in [pair for pair in half if pair not in part]:
                lane.remove(lost)

    def _finish(self, size: tuple[int, int]) -> None:
        lane = self.lanes[size]
        for sample, arrival in [pair for pair in lane if pair[0].is_done]:
            try:
                made = self.upscaler.finish(sample)
            except BatchTooLarge:
                made = None
            lane.remove((sample, arrival))
            self._end(arrival, made)
        if not lane:
            del self.lanes[size]

    def _end(self, arrival: Arrival, made: Made | None) -> None:
        self.done.append(Done(arrival=arrival, at=self.clock.now() - self.start, made=made))


def _weight(request: Request) -> int:
    height, width = request.size
    return request.slots * height * width


def _let_in(
    coming: deque[Arrival], waiting: deque[Arrival], clock: Clock, start: float, *, idle: bool
) -> None:
    """Move what has come to what waits; when there is nothing else to do, until something comes."""
    if idle and coming:
        clock.sleep_until(start + coming[0].at)
    while coming and coming[0].at <= clock.now() - start + 1e-9:
        waiting.append(coming.popleft())
