"""A device and a model that only count bytes, for what must hold of any device."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from twofold_worker.upscaler.port import BatchTooLarge
from twofold_worker.vram import Mode


@dataclass(slots=True, kw_only=True)
class Growth:
    """What a stage takes: bytes = fixed + slots * (linear * pixels + quadratic * pixels ** 2)."""

    fixed: float = 0.0
    linear: float = 0.0
    quadratic: float = 0.0

    def at(self, slots: int, pixels: int) -> int:
        return round(self.fixed + slots * (self.linear * pixels + self.quadratic * pixels * pixels))


@dataclass(slots=True, kw_only=True)
class SimulatedDevice:
    """The probes, the meter and the clock of one device.

    Attributes:
        weights: Bytes that are loaded, without the text encoder's `text_weights`.
        neighbour_bytes: What another process takes more of it after every run.
        failing: What runs of so many pixels raise.
        runs: Stage, slots and pixels of each, and the bytes that it left free.
    """

    total_bytes: int
    encode_growth: Growth
    unet_growth: Growth
    decode_growth: Growth
    weights: int = 0
    text_weights: int = 0
    neighbour_bytes: int = 0
    start_seconds: float = 0.006
    pixel_seconds: float = 1e-7
    mode: Mode = dataclasses.field(default_factory=Mode)
    failing: dict[int, Exception] = dataclasses.field(default_factory=dict)
    entered: list[Mode] = dataclasses.field(default_factory=list)
    runs: list[tuple[str, int, int, int]] = dataclasses.field(default_factory=list)
    out_of_memory: int = 0
    taken_by_neighbour: int = 0
    seconds: float = 0.0
    _peak: int = 0

    def held_bytes(self) -> int:
        return self.weights + (0 if self.mode.text_encoder_off else self.text_weights)

    def free_bytes(self) -> int:
        return max(0, self.total_bytes - self.held_bytes() - self.taken_by_neighbour)

    def peak_bytes(self, run: Callable[[], None]) -> int:
        run()
        return self._peak

    def clock(self) -> float:
        return self.seconds

    def enter(self, mode: Mode) -> None:
        self.mode = mode
        self.entered.append(mode)

    def unet(self, slots: int, height: int, width: int) -> None:
        self._run("unet", self.unet_growth, slots, height * width)

    def encode(self, height: int, width: int) -> None:
        self._run("encode", self.encode_growth, 1, height * width)

    def decode(self, height: int, width: int) -> None:
        self._run("decode", self.decode_growth, 1, height * width)

    def _run(self, stage: str, growth: Growth, slots: int, pixels: int) -> None:
        if self.mode.sliced_attention:
            growth = dataclasses.replace(growth, quadratic=0.0)
        self._peak = growth.at(slots, pixels)
        if (failure := self.failing.get(pixels)) is not None:
            raise failure
        free = self.free_bytes()
        self.runs.append((stage, slots, pixels, free - self._peak))
        if self._peak > free:
            self.out_of_memory += 1
            raise BatchTooLarge
        self.seconds += self.start_seconds + self.pixel_seconds * slots * pixels
        self.taken_by_neighbour += self.neighbour_bytes
