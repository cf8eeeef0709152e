"""Every benchmark runs at tiny size, and would see a wrong result. No times are judged."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import cold_start, engine, loads, mixed, plots
from benchmarks.clock import VirtualClock
from benchmarks.device_model import DeviceModel
from benchmarks.driving import Done, Room, drive_engine, drive_static
from benchmarks.end_to_end import check_picture
from benchmarks.subject import Subject
from benchmarks.timed import TimedUpscaler, expected
from rich.console import Console
from tests.factories import held_job

from twofold_schema.formats import ResultFormat
from twofold_schema.job import Output, Parameters
from twofold_worker.upscaler.port import BatchTooLarge, Request

FIGURES = {
    "timed": {
        "bare": {"images_per_second"},
        "mixed": {"ratio_continuous_to_static", "size_mix_ratio"},
        "end-to-end": {"fleet_efficiency"},
        "capped": {"jobs_failed_under_cap"},
        "dispatch": {"dispatch_median_ratio"},
    },
    "cpu": {
        "bare": {
            "images_per_second",
            "ratio_to_snippet_loaded",
            "ratio_to_snippet_per_task",
            "share_of_matmul_rate",
        },
        "mixed": {"ratio_continuous_to_static", "size_mix_ratio"},
        "memory": {"memory_prediction_error"},
    },
}


@pytest.fixture
def own_torch() -> Iterator[None]:
    """Whatever a benchmark sets in torch, for its whole process, is as it was afterwards."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("device", "name"), [(device, name) for device, names in FIGURES.items() for name in names]
)
def test_a_benchmark_runs_and_its_figures_are_numbers(
    device: str, name: str, tmp_path: Path, own_torch: None
) -> None:
    subject = Subject(device=device, size="tiny")

    engine.run(subject, tmp_path, [name], Console(quiet=True))

    written = json.loads((tmp_path / f"engine-{device}.json").read_text())
    assert written["figures"].keys() >= FIGURES[device][name]
    assert all(math.isfinite(figure) for figure in written["figures"].values())
    assert written["details"][name]["machine"]["device"] == device
    assert (tmp_path / f"engine-{device}-{name}.png").is_file() == (name in plots.PICTURES)


@pytest.mark.parametrize("kind", [ResultFormat.PNG, ResultFormat.WEBP])
def test_a_swapped_a_cut_and_an_unseeded_result_are_caught(kind: ResultFormat) -> None:
    own, other = loads.crop(1, 128, 128), loads.crop(2, 128, 128)
    job = held_job(parameters=Parameters(seed=3, steps=5), output=Output(format=kind))
    good = expected(Request(source=own, seed=3, steps=5)).pixels

    check_picture(good, own, job)
    wrong = [expected(Request(source=other, seed=3, steps=5)).pixels, good[:-1]]
    if kind is ResultFormat.PNG:
        wrong += [
            expected(Request(source=own, seed=4, steps=5)).pixels,
            expected(Request(source=own, seed=3, steps=6)).pixels,
            expected(Request(source=own, seed=3, steps=5, guidance_scale=1.0)).pixels,
        ]
    for pixels in wrong:
        with pytest.raises(RuntimeError, match=r"result|dB"):
            check_picture(pixels, own, job)


def test_the_timed_device_makes_what_it_is_calibrated_to() -> None:
    device = DeviceModel.calibrated(10, rung=8, side=512, steps=20)

    assert device.images_per_second(8, side=512, steps=20) == pytest.approx(10)
    assert device.images_per_second(1, side=512, steps=20) < 8
    assert device.step_seconds(1, 64 * 64) == device.least_seconds
    with pytest.raises(ValueError, match="launches"):
        DeviceModel.calibrated(1000)


@pytest.mark.parametrize("guidance", [0.0, 5.0])
def test_both_ways_to_drive_end_every_request_with_its_own_picture(guidance: float) -> None:
    requests = [
        replace(request, guidance_scale=guidance)
        for request in [*loads.mixed_sizes(9, steps=3, scale=0.25), *_latents()]
    ]
    arrivals = loads.poisson(requests, per_second=20)

    for done in (_engine(arrivals, most=4), _static(arrivals, most=4)):
        assert len(done) == len(requests)
        for one in done:
            wanted, made = expected(one.arrival.request), one.made
            assert made is not None
            assert np.array_equal(made.pixels, wanted.pixels)
            assert (made.latents is None) == (wanted.latents is None)
            assert one.at > one.arrival.at


def test_bare_time_is_known_exactly() -> None:
    device, clock = DeviceModel.calibrated(10, rung=4), VirtualClock()
    upscaler = TimedUpscaler(device, clock=clock, operations=0)
    requests = loads.uniform(8, side=512, steps=20)

    done = drive_engine(
        upscaler, loads.at_once(requests), most=4, capacity=Room(4, 4 * 512**2), clock=clock
    )

    assert done[-1].at == pytest.approx(0.8)
    assert upscaler.busy_seconds == pytest.approx(0.8)


def test_a_step_that_does_not_fit_is_split_and_a_picture_that_does_not_fit_fails_alone() -> None:
    small = DeviceModel.calibrated(10, memory_bytes=int(2.9 * 2**30))
    assert not small.fits(small.step_bytes(16, 512**2))
    requests = [*loads.uniform(16, side=512, steps=2), *loads.uniform(1, side=1024, steps=2)]

    done = _engine(loads.at_once(requests), most=16, device=small)

    failed = [one.arrival.request for one in done if one.made is None]
    assert len(done) == len(requests)
    assert failed == requests[-1:]


def test_samples_that_do_not_belong_together_are_refused() -> None:
    upscaler = TimedUpscaler(DeviceModel.calibrated(10, memory_bytes=2**30), operations=1)
    small, large = (
        upscaler.begin(Request(source=loads.crop(0, side, side), seed=0, steps=1))
        for side in (64, 128)
    )

    with pytest.raises(ValueError, match="one size"):
        upscaler.step([small, large], rung=2)
    with pytest.raises(ValueError, match="fit a rung"):
        upscaler.step([small, small], rung=1)
    with pytest.raises(ValueError, match="done"):
        upscaler.finish(small)
    with pytest.raises(BatchTooLarge):
        upscaler.step([small], rung=1)


def test_who_came_first_goes_first_and_mates_come_with_it() -> None:
    small, large = (loads.uniform(3, side=side, steps=2) for side in (64, 128))
    asked = [small[0], large[0], small[1], large[1], small[2]]

    done = _engine(loads.at_once(asked), most=2)

    assert [one.arrival.request for one in done] == [
        small[0],
        small[1],
        large[0],
        large[1],
        small[2],
    ]


def test_the_engines_schedule_gains_what_is_promised() -> None:
    """In virtual time, so that nothing but the schedule counts."""
    figures = mixed.measure(Subject(device="timed", size="small")).figures

    assert figures["ratio_continuous_to_static"] >= 1.25
    assert figures["ratio_continuous_to_static_of_equal_steps"] >= 1
    assert figures["size_mix_ratio"] >= 0.8


def test_room_is_a_rung_of_slots_and_pixels_and_never_none() -> None:
    room = Room(32, 8 * 512**2)

    sides = (64, 256, 512, 768, 1024, 2048)
    assert [room.slots(side, side) for side in sides] == [32, 32, 8, 3, 2, 1]


def test_the_phases_of_a_start_are_the_logs() -> None:
    lines = [
        "no JSON",
        '{"event": "ready", "weights_s": 9.0}',
        '{"event": "cold_start", "imports_s": 1.5, "job_s": 2.0, "all_but_wait_s": 3.5}',
    ]

    assert cold_start.phases(lines) == {"imports": 1.5, "first job": 2.0}
    with pytest.raises(RuntimeError, match="nothing"):
        cold_start.phases(lines[:2])


def _latents() -> list[Request]:
    values = np.random.default_rng(0).standard_normal((4, 8, 8)).astype(np.float32)
    return [
        Request(source=values, seed=1, steps=2),
        Request(source=values, seed=2, steps=2, wants_latents=True),
        Request(source=loads.crop(3, 64, 64), seed=2, steps=2, wants_latents=True),
    ]


def _engine(
    arrivals: list[loads.Arrival], *, most: int, device: DeviceModel | None = None
) -> list[Done]:
    clock = VirtualClock()
    upscaler = TimedUpscaler(device or DeviceModel.calibrated(), clock=clock, operations=0)
    return drive_engine(upscaler, arrivals, most=most, capacity=Room(most, 1 << 40), clock=clock)


def _static(arrivals: list[loads.Arrival], **options: Any) -> list[Done]:
    clock = VirtualClock()
    upscaler = TimedUpscaler(DeviceModel.calibrated(), clock=clock, operations=0)
    return drive_static(upscaler, arrivals, clock=clock, **options)
