"""The stages of a loaded model, by its port alone, and what a plan foretells of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.upscalers import NearestUpscaler

from twofold_schema.errors import ModelOutputInvalid
from twofold_worker import calibration
from twofold_worker.calibration import CPU_SIDES
from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.live_bytes import LiveBytes
from twofold_worker.upscaler.meter import HostMeter
from twofold_worker.upscaler.port import DeviceLost, Made, Request, Sample
from twofold_worker.upscaler.probes import PortProbes
from twofold_worker.vram import Plan, Stage

pytestmark = pytest.mark.usefixtures("one_thread")

#: Sizes and rungs of which calibration measures none.
GRID = [
    (64, 128, 6),
    (64, 320, 3),
    (128, 192, 12),
    (192, 64, 24),
    (256, 256, 2),
    (320, 256, 4),
]


@pytest.fixture(scope="module")
def upscaler(stand_in_model: Path) -> DiffusionUpscaler:
    loaded = DiffusionUpscaler.load(
        str(stand_in_model), revision=None, device="cpu", dtype="float32"
    )
    loaded.warm_up()
    return loaded


@pytest.fixture(scope="module")
def plan(upscaler: DiffusionUpscaler) -> Plan:
    return calibration.measure(PortProbes(upscaler), HostMeter())


def request(height: int, width: int, *, guidance_scale: float = 0.0) -> Request:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    return Request(source=pixels, seed=1, steps=1, guidance_scale=guidance_scale, prompt="cats")


class TestAgainstJobs:
    """A job's own calls, not the probes', measured apart from what planned."""

    def test_none_of_these_sizes_was_measured(self) -> None:
        assert not {(height, width) for height, width, _ in GRID} & {(s, s) for s in CPU_SIDES}

    @pytest.mark.parametrize(("height", "width", "rung"), GRID)
    def test_each_stage_takes_what_is_foretold(
        self, upscaler: DiffusionUpscaler, plan: Plan, height: int, width: int, rung: int
    ) -> None:
        job = request(height, width)
        with LiveBytes() as encoding:
            sample = upscaler.begin(job)
        others = [upscaler.begin(job) for _ in range(rung - 1)]
        with LiveBytes() as stepping:
            upscaler.step([sample, *others], rung=rung)
        with LiveBytes() as decoding:
            upscaler.finish(sample)

        for stage, counted in (
            (Stage.ENCODE, encoding),
            (Stage.UNET, stepping),
            (Stage.DECODE, decoding),
        ):
            foretold = plan.predicted_bytes(stage, rung, height, width)
            assert foretold == pytest.approx(counted.peak, rel=0.1), stage

    @pytest.mark.parametrize(("jobs", "rung"), [(1, 2), (1, 4), (3, 8)])
    def test_jobs_with_guidance_and_empty_slots_take_what_their_rung_does(
        self, upscaler: DiffusionUpscaler, plan: Plan, jobs: int, rung: int
    ) -> None:
        job = request(128, 256, guidance_scale=3.0)
        samples = [upscaler.begin(job) for _ in range(jobs)]
        with LiveBytes() as counted:
            upscaler.step(samples, rung=rung)

        foretold = plan.predicted_bytes(Stage.UNET, rung, 128, 256)
        assert foretold == pytest.approx(counted.peak, rel=0.1)


class Noting(NearestUpscaler):
    """Notes the calls, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int, tuple[int, int]]] = []
        self.texts: list[str] = []
        self.valid = True

    def begin(self, request: Request, *, careful: bool = False) -> Sample:
        kind = "picture" if request.source.dtype == np.uint8 else "latents"
        self.calls.append((kind, 1, request.size))
        self.texts.append(request.prompt)
        return super().begin(request, careful=careful)

    def step(self, samples: Sequence[Sample], *, rung: int) -> None:
        assert len(samples) == rung
        self.calls.append(("step", rung, samples[0].request.size))
        super().step(samples, rung=rung)

    def finish(self, sample: Sample) -> Made:
        self.calls.append(("finish", 1, sample.request.size))
        if not self.valid:
            raise ModelOutputInvalid
        return super().finish(sample)


class TestCalls:
    @pytest.fixture
    def upscaler(self) -> Noting:
        return Noting()

    @pytest.fixture
    def waits(self) -> list[int]:
        return []

    @pytest.fixture
    def probes(self, upscaler: Noting, waits: list[int]) -> PortProbes:
        return PortProbes(upscaler, wait=lambda: waits.append(len(upscaler.calls)))

    def test_encoding_begins_a_picture_with_a_text_that_was_never_read(
        self, upscaler: Noting, probes: PortProbes
    ) -> None:
        probes.encode(64, 128)
        probes.encode(64, 128)
        assert upscaler.calls == [("picture", 1, (64, 128))] * 2
        assert len(set(upscaler.texts)) == 2

    def test_samples_step_again_and_again_and_are_begun_once_a_size(
        self, upscaler: Noting, probes: PortProbes
    ) -> None:
        for _ in range(3):
            probes.unet(2, 64, 128)
        probes.unet(2, 128, 64)
        assert upscaler.calls == [
            *[("latents", 1, (64, 128))] * 2,
            *[("step", 2, (64, 128))] * 3,
            *[("latents", 1, (128, 64))] * 2,
            ("step", 2, (128, 64)),
        ]

    def test_samples_that_are_done_are_begun_anew(
        self, upscaler: Noting, probes: PortProbes
    ) -> None:
        for _ in range(120):
            probes.unet(1, 64, 64)
        assert [name for name, _, _ in upscaler.calls].count("step") == 120

    def test_decoding_takes_no_step(self, upscaler: Noting, probes: PortProbes) -> None:
        probes.decode(64, 128)
        assert upscaler.calls == [("latents", 1, (64, 128)), ("finish", 1, (64, 128))]

    def test_noise_that_is_no_picture_is_as_good(
        self, upscaler: Noting, probes: PortProbes
    ) -> None:
        upscaler.valid = False
        probes.decode(64, 128)
        assert upscaler.calls[-1] == ("finish", 1, (64, 128))

    def test_each_waits_until_the_device_is_done(
        self, upscaler: Noting, probes: PortProbes, waits: list[int]
    ) -> None:
        probes.encode(64, 64)
        probes.unet(1, 64, 64)
        probes.decode(64, 64)
        assert waits == [1, 3, 5]

    def test_no_samples_stay_for_another_stage(self, upscaler: Noting, probes: PortProbes) -> None:
        probes.unet(4, 64, 64)
        probes.decode(64, 64)
        probes.unet(4, 64, 64)
        begun = [name for name, _, _ in upscaler.calls].count("latents")
        assert begun == 4 + 1 + 4


def test_what_stays_of_a_batch_is_little_of_what_it_takes(
    upscaler: DiffusionUpscaler, plan: Plan
) -> None:
    probes = PortProbes(upscaler)
    with LiveBytes() as counted:
        probes.unet(4, 192, 192)
        stays = counted.live
    assert 0 < stays < plan.predicted_bytes(Stage.UNET, 4, 192, 192) / 20


def test_what_the_device_says_late_is_of_the_device() -> None:
    def wait() -> None:
        raise torch.AcceleratorError("unspecified launch failure")

    with pytest.raises(DeviceLost, match="launch failure"):
        PortProbes(NearestUpscaler(), wait).encode(64, 64)
