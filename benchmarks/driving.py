"""Two ways to put requests on a device: the worker's engine, and batches that stay together."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
from tests.factories import claimed_job

from benchmarks.clock import Clock
from benchmarks.loads import Arrival
from twofold_schema import lanes
from twofold_schema.formats import ResultFormat
from twofold_schema.job import Output, Parameters
from twofold_worker.batching import rung_for
from twofold_worker.capacity import Capacity
from twofold_worker.codec.source import Picture
from twofold_worker.engine import Answer, Engine
from twofold_worker.holdings import Holdings
from twofold_worker.outcome import Released
from twofold_worker.progress import Progress
from twofold_worker.stages import AHEAD
from twofold_worker.upscaler.port import Made, Request, Upscaler
from twofold_worker.work import Prepared, Upscaled

#: Longer than anything here takes.
_NO_BOUND = 3600.0


_NOTHING = np.zeros((1, 1, 3), np.uint8)


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


class Room(Capacity):
    """A device that has room for so many slots, and pixels of sources, and wants no more.

    Args:
        most: Slots of a step.
        most_pixels: Of the sources of a step, a slot each.
    """

    def __init__(self, most: int, most_pixels: int) -> None:
        super().__init__(max_batch=most)
        self._most = most
        self._most_pixels = most_pixels

    @property
    def batch_pixels(self) -> int:
        """Pixels that fill a step."""
        return self._most_pixels

    def slots(self, height: int, width: int) -> int:
        """Slots of a step of this size, at least one."""
        most = max(1, min(self._most, self._most_pixels // (height * width)))
        return rung_for(most, most=most)


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


def drive_engine(
    upscaler: Upscaler, arrivals: Sequence[Arrival], *, most: int, capacity: Capacity, clock: Clock
) -> list[Done]:
    """Run the worker's engine, and claim for it as the worker's intake does.

    Args:
        upscaler: On its device.
        arrivals: In order of time.
        most: Jobs of a claim.
        capacity: What fits the device.
        clock: The upscaler's.
    """
    holdings = Holdings()
    engine = Engine(
        upscaler,
        capacity,
        pinned_rung=1,
        holdings=holdings,
        progress=Progress(_NO_BOUND),
        clock=clock.now,
    )
    drive = _Drive(engine, holdings, most, capacity.batch_pixels, clock, clock.now())
    return drive.run(arrivals)


@dataclass(slots=True)
class _Drive:
    engine: Engine
    holdings: Holdings
    most: int
    batch_pixels: int | None
    clock: Clock
    start: float
    queued: deque[Arrival] = field(default_factory=deque)
    jobs: dict[Arrival, Prepared] = field(default_factory=dict)
    arrivals: dict[UUID, Arrival] = field(default_factory=dict)
    done: list[Done] = field(default_factory=list)

    def run(self, arrivals: Sequence[Arrival]) -> list[Done]:
        # Their ids, and so their ranks, are in order of arrival, whoever is claimed first.
        self.jobs = {arrival: prepared(arrival.request) for arrival in arrivals}
        self.arrivals = {each.job.id: arrival for arrival, each in self.jobs.items()}
        coming, claimed = deque(arrivals), list[Prepared]()
        while len(self.done) < len(arrivals):
            idle = not (self.queued or claimed) and self.engine.is_idle
            _let_in(coming, self.queued, self.clock, self.start, idle=idle)
            for one in claimed or (self._claim() if self.engine.is_idle else []):
                self.engine.add(one)
            # What is claimed now is fetched during this turn, and is there for the next one.
            claimed = self._claim() if self.engine.backlog <= AHEAD else []
            for answer in self.engine.turn():
                self._end(answer)
        return self.done

    def _claim(self) -> list[Prepared]:
        """The best of those who wait, and mates of its lane, as the ledger's claim."""
        if not self.queued:
            return []
        lane, limit = self.queued[0].request.size, self.most
        if self.batch_pixels is not None:
            limit = max(1, min(limit, self.batch_pixels // (lane[0] * lane[1])))
        taken = [one for one in self.queued if one.request.size == lane][:limit]
        for one in taken:
            self.queued.remove(one)
        claimed = [self.jobs[one] for one in taken]
        self.holdings.take(one.job.claim for one in claimed)
        return claimed

    def _end(self, answer: Answer) -> None:
        if isinstance(answer, Released):
            raise TypeError("nobody called a job off")
        made = answer.made if isinstance(answer, Upscaled) else None
        claim = answer.prepared.job.claim if isinstance(answer, Upscaled) else answer.claim
        self.holdings.drop([claim])
        at = self.clock.now() - self.start
        self.done.append(Done(arrival=self.arrivals[claim.job_id], at=at, made=made))


def prepared(request: Request) -> Prepared:
    """A request as the intake hands it to the engine; later ones rank behind."""
    height, width = request.size
    parameters = Parameters(
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        seed=request.seed,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
    )
    output = Output(format=ResultFormat.LATENTS) if request.wants_latents else Output()
    job = claimed_job(
        parameters=parameters,
        output=output,
        lane=lanes.measure(parameters, width, height).lane,
    )
    # The engine asks the request only; what was decoded is the outlet's.
    return Prepared(job, Picture(pixels=_NOTHING, alpha=None), request)


def _let_in(
    coming: deque[Arrival], waiting: deque[Arrival], clock: Clock, start: float, *, idle: bool
) -> None:
    """Move what has come to what waits; when there is nothing else to do, until something comes."""
    if idle and coming:
        clock.sleep_until(start + coming[0].at)
    while coming and coming[0].at <= clock.now() - start + 1e-9:
        waiting.append(coming.popleft())
