"""The engine: steps samples of many jobs, as many at once as the device has room for.

A turn begins who may begin, brings one lane one step on and finishes who is done: who is done
leaves at once, who waits enters before the next step, and who is urgent waits for one step.

    add ─▶ waiting ─▶ begin ─▶ step … step ─▶ finish ─▶ what became of it
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, TypeAlias, TypeVar

import structlog

from twofold_schema.errors import JobError, ModelOutputInvalid, OutOfMemory, UpscaleFailed
from twofold_schema.states import JobClass
from twofold_worker import batching
from twofold_worker.capacity import Capacity
from twofold_worker.holdings import Holdings
from twofold_worker.outcome import Failed, Released
from twofold_worker.progress import Progress
from twofold_worker.seating import Seat, Seating, Waiting
from twofold_worker.upscaler.port import BatchTooLarge, DeviceLost, Upscaler
from twofold_worker.vram import Stage
from twofold_worker.work import Prepared, Upscaled, Watch, unwatched

log = structlog.get_logger(__name__)

Answer: TypeAlias = Upscaled | Failed | Released
T = TypeVar("T")

#: So often within so many seconds may memory lack for what it sufficed for before: then it leaks,
#: or is in pieces, and a new process has it whole.
_STRIKES: Final = 3
_STRIKE_SECONDS: Final = 600.0


class Engine:
    """What the device does next. Only one thread may use it, and no other the device.

    Args:
        upscaler: On its device.
        capacity: How many slots fit it.
        pinned_rung: For reproducible jobs.
        holdings: Whether a job is still wanted.
        progress: Told of each call of the device.
        watch: Told of each job that comes off it; for tests.
        clock: Monotonic seconds.

    Attributes:
        is_exhausted: Whether memory lacks again and again that was there before: end what has
            begun, and let a new process take over.
    """

    def __init__(
        self,
        upscaler: Upscaler,
        capacity: Capacity,
        *,
        pinned_rung: int,
        holdings: Holdings,
        progress: Progress,
        watch: Watch = unwatched,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_exhausted = False
        self._upscaler = upscaler
        self._capacity = capacity
        self._holdings = holdings
        self._progress = progress
        self._watch = watch
        self._clock = clock
        self._seating = Seating(pinned_rung, self._room)
        self._rooms: dict[tuple[int, int], int] = {}  # as of this turn
        self._ceilings: dict[tuple[int, int], batching.Ceiling] = {}
        self._sufficed: set[tuple[Stage, tuple[int, int], int]] = set()
        self._strikes: deque[float] = deque(maxlen=_STRIKES)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return self._seating.is_empty

    @property
    def backlog(self) -> float:
        """What waits, in steps' worth of slots: 1 fills a step."""
        return self._seating.backlog

    @property
    def next_class(self) -> JobClass | None:
        """The class of who waits for the next seat; None when nobody waits."""
        return self._seating.next_class

    def add(self, prepared: Prepared) -> None:
        """Let a job wait for its turn."""
        self._seating.wait(Waiting(prepared))

    def release_waiting(self) -> list[Released]:
        """Give back what has not begun."""
        return [Released(one.claim) for one in self._seating.clear_waiting()]

    def turn(self) -> Iterator[Answer]:
        """One step of one lane; says of each job that ended what became of it.

        Raises:
            DeviceLost: The process must be replaced.
        """
        self._rooms.clear()
        for one in list(self._seating):
            if not self._holdings.goes_on(one.claim):
                self._seating.leave(one)
                yield Released(one.claim)
        while called := self._seating.call():
            for one in called:
                yield from self._begin(one)
        company, most = self._seating.company()
        if company:
            yield from self._step(company, most)
        # A device that is behind catches up while the first of them is finished: all pay for it.
        payers = company
        for seat in company:
            if seat.sample.is_done:
                yield from self._finish(seat, payers)
                payers = []

    def _begin(self, one: Waiting) -> Iterator[Failed]:
        begun = self._tried(
            lambda: self._upscaler.begin(one.prepared.request, careful=one.careful),
            self._observing(one, Stage.ENCODE),
            [one],
        )
        if isinstance(begun, JobError):
            yield self._failed(one, begun, Stage.ENCODE)
        else:
            self._sufficed.add((Stage.ENCODE, one.size, 1))
            self._seating.seat(one, begun)

    def _step(self, seats: Sequence[Seat], most: int) -> Iterator[Failed]:
        pinned, size = seats[0].is_pinned, seats[0].size
        slots = sum(seat.slots for seat in seats)
        rung = most if pinned else batching.rung_for(slots, most=most)
        for seat in seats:
            if rung not in seat.rungs:
                seat.rungs.append(rung)
        ceiling = self._ceilings.setdefault(size, batching.Ceiling())
        error = self._tried(
            lambda: self._upscaler.step([s.sample for s in seats], rung=rung),
            self._capacity.observing(Stage.UNET, rung, *size),
            seats,
        )
        if error is None:
            self._sufficed.add((Stage.UNET, size, rung))
            ceiling.held(rung)
        elif isinstance(error, OutOfMemory):
            log.warning("batch_too_large", rung=rung, jobs=len(seats))
            ceiling.lower(rung)
            if len(seats) == 1 or pinned:
                for seat in seats:
                    yield self._failed(seat, error, Stage.UNET, rung)
            else:
                # They step again with the next turn, in smaller company.
                self._note(Stage.UNET, size, rung)
        elif len(seats) == 1:
            yield self._failed(seats[0], error, Stage.UNET, rung)
        else:
            for half in batching.halves(seats):
                yield from self._step(half, most)

    def _finish(self, seat: Seat, payers: Sequence[Seat]) -> Iterator[Upscaled | Failed]:
        made = self._tried(
            lambda: self._upscaler.finish(seat.sample),
            self._observing(seat, Stage.DECODE),
            payers or [seat],
        )
        if isinstance(made, ModelOutputInvalid) and not seat.careful:
            log.warning("tried_carefully", job_id=str(seat.prepared.job.id))
            self._seating.leave(seat)
            self._seating.wait(
                Waiting(seat.prepared, careful=True, rungs=seat.rungs, gpu_seconds=seat.gpu_seconds)
            )
        elif isinstance(made, JobError):
            yield self._failed(seat, made, Stage.DECODE)
        else:
            self._sufficed.add((Stage.DECODE, seat.size, 1))
            self._seating.leave(seat)
            self._watch("upscale", seat.prepared.job.id)
            yield Upscaled(seat.prepared, made, tuple(seat.rungs), seat.gpu_seconds)

    def _observing(self, one: Waiting, stage: Stage) -> AbstractContextManager[None]:
        # In single precision it takes twice what the plan knows of.
        return nullcontext() if one.careful else self._capacity.observing(stage, 1, *one.size)

    def _tried(
        self,
        call: Callable[[], T],
        observing: AbstractContextManager[None],
        payers: Sequence[Waiting],
    ) -> T | JobError:
        """Ask something of the device; what goes wrong is a value.

        A traceback would keep the device's memory in use. The time that it takes is the payers',
        by their slots.
        """
        begin, slots = self._clock(), sum(one.slots for one in payers)
        try:
            with self._progress.step("upscale"), observing:
                return call()
        except DeviceLost:
            raise
        except BatchTooLarge:
            return OutOfMemory()
        except ModelOutputInvalid:
            return ModelOutputInvalid()
        except Exception as error:
            log.exception("upscale_failed")
            return UpscaleFailed(f"The model failed: {error}")
        finally:
            took = self._clock() - begin
            for one in payers:
                one.gpu_seconds += took * one.slots / slots

    def _room(self, size: tuple[int, int]) -> int:
        if size not in self._rooms:
            self._rooms[size] = self._capacity.slots(*size)
        ceiling = self._ceilings.get(size)
        return min(self._rooms[size], ceiling.most) if ceiling else self._rooms[size]

    def _failed(self, one: Waiting, error: JobError, stage: Stage, rung: int = 1) -> Failed:
        if isinstance(error, OutOfMemory):
            self._note(stage, one.size, rung)
        self._seating.leave(one)
        return Failed(one.claim, error)

    def _note(self, stage: Stage, size: tuple[int, int], rung: int) -> None:
        """Memory lacked; whether that is new decides whether this process has lost some."""
        if (stage, size, rung) not in self._sufficed:
            return
        now = self._clock()
        self._strikes.append(now)
        if len(self._strikes) == _STRIKES and now - self._strikes[0] <= _STRIKE_SECONDS:
            log.error("memory_exhausted", strikes=_STRIKES, seconds=_STRIKE_SECONDS)
            self.is_exhausted = True
