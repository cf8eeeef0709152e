"""The planner over the real networks, small: what it foretells is what is then taken."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import structlog
import torch

from twofold_schema.errors import ConfigError
from twofold_schema.settings import LimitSettings, WorkerSettings
from twofold_worker import calibration
from twofold_worker.capacity import Capacity
from twofold_worker.upscaler.compiler import check_compiler
from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.live_bytes import LiveBytes
from twofold_worker.upscaler.meter import HostMeter
from twofold_worker.upscaler.planning import capacity_of, compile_for
from twofold_worker.upscaler.port import BatchTooLarge, Latents, Request
from twofold_worker.upscaler.probes import PortProbes
from twofold_worker.vram import PLAIN, Mode, Plan, Stage

SLICED = Mode(sliced_attention=True)
TEXT_OFF = Mode(text_encoder_off=True)


@pytest.fixture(scope="module")
def loaded(stand_in_model: Path) -> DiffusionUpscaler:
    return DiffusionUpscaler.load(str(stand_in_model), revision=None, device="cpu", dtype="float32")


@pytest.fixture
def upscaler(loaded: DiffusionUpscaler) -> Iterator[DiffusionUpscaler]:
    yield loaded
    loaded.enter(PLAIN)


@pytest.fixture(scope="module")
def plan(loaded: DiffusionUpscaler) -> Plan:
    probes = PortProbes(loaded)
    return calibration.measure(probes, HostMeter(), allowance_s=60)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize(("height", "width"), [(64, 128), (256, 256), (192, 320), (512, 384)])
def test_memory_is_foretold_within_a_tenth_at_sizes_that_were_not_measured(
    loaded: DiffusionUpscaler, plan: Plan, stage: Stage, height: int, width: int
) -> None:
    probes = PortProbes(loaded)
    for slots in (1, 3, 6) if stage is Stage.UNET else (1,):
        with LiveBytes() as counted:
            match stage:
                case Stage.UNET:
                    probes.unet(slots, height, width)
                case Stage.ENCODE:
                    probes.encode(height, width)
                case Stage.DECODE:
                    probes.decode(height, width)
        predicted = plan.predicted_bytes(stage, slots, height, width)
        assert predicted == pytest.approx(counted.peak, rel=0.1)


def _latents(upscaler: DiffusionUpscaler, *, rung: int = 2) -> Latents:
    source = np.random.default_rng(1).integers(0, 256, (128, 64, 3), dtype=np.uint8)
    sample = upscaler.begin(
        Request(
            source=source, seed=1, steps=3, guidance_scale=3.0, prompt="a cat", wants_latents=True
        )
    )
    for _ in range(3):
        upscaler.step([sample], rung=rung)
    made = upscaler.finish(sample)
    assert made.latents is not None
    return made.latents


@pytest.mark.parametrize("mode", [SLICED, TEXT_OFF, SLICED | TEXT_OFF], ids=str)
def test_a_mode_leaves_the_picture_as_it_is_and_leaves_no_trace(
    upscaler: DiffusionUpscaler, mode: Mode
) -> None:
    """Attention in slices rounds otherwise: 45 dB are asked for, far more is there."""
    plain = _latents(upscaler)
    upscaler.enter(mode)
    upscaler.enter(mode)
    within = _latents(upscaler)
    error = np.square(within - plain).mean()
    assert 10 * np.log10(np.ptp(plain) ** 2 / max(error, 1e-20)) > 90
    upscaler.enter(PLAIN)
    np.testing.assert_array_equal(_latents(upscaler), plain)


def test_without_a_text_encoder_on_the_device_prompts_are_read_all_the_same(
    upscaler: DiffusionUpscaler,
) -> None:
    upscaler.enter(TEXT_OFF)
    sample = upscaler.begin(
        Request(
            source=np.zeros((4, 8, 8), np.float32),
            seed=1,
            steps=1,
            prompt="never seen",
            guidance_scale=1.0,
        )
    )
    assert sample.words.isfinite().all()


def settings(**changes: Any) -> WorkerSettings:
    return WorkerSettings(model="demo", env="dev", **changes)


def test_a_plan_is_kept_from_one_start_to_the_next(
    upscaler: DiffusionUpscaler, tmp_path: Path
) -> None:
    first = capacity_of(upscaler, settings(cache_dir=tmp_path), LimitSettings())
    (kept,) = tmp_path.iterdir()
    written = kept.stat().st_mtime_ns
    again = capacity_of(upscaler, settings(cache_dir=tmp_path), LimitSettings())
    assert kept.stat().st_mtime_ns == written
    assert again.slots(512, 512) == first.slots(512, 512)


def test_an_operators_budget_is_kept_to(upscaler: DiffusionUpscaler) -> None:
    """What the process has before any picture counts."""
    wide = capacity_of(upscaler, settings(), LimitSettings())
    held = HostMeter().held_bytes()
    narrow = capacity_of(upscaler, settings(memory_budget=float(held + 2**26)), LimitSettings())
    assert wide.largest_pixels is not None
    assert narrow.largest_pixels is not None
    assert 0 < narrow.largest_pixels < wide.largest_pixels
    nothing = capacity_of(upscaler, settings(memory_budget=float(held // 2)), LimitSettings())
    assert nothing.largest_pixels == 0


def test_a_budget_in_which_nothing_fits_is_said(upscaler: DiffusionUpscaler) -> None:
    with structlog.testing.capture_logs() as logs:
        capacity_of(upscaler, settings(memory_budget=2.0), LimitSettings())
    assert [line["event"] for line in logs] == ["planned", "nothing_fits"]
    assert "TWOFOLD_MEMORY_BUDGET" in logs[-1]["mend"]


def test_planning_leaves_the_model_as_it_was(upscaler: DiffusionUpscaler) -> None:
    threads, before = torch.get_num_threads(), _latents(upscaler)
    capacity_of(upscaler, settings(), LimitSettings())
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(_latents(upscaler), before)


@pytest.mark.parametrize("compiler", [None, "no-such-compiler"])
def test_without_a_compiler_none_is_begun(
    upscaler: DiffusionUpscaler,
    compiler: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    if compiler:
        monkeypatch.setenv("CXX", compiler)
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    worker = settings(compile_sizes="64x64")

    with pytest.raises(ConfigError, match=f"no {compiler or 'g..'} is found"):
        compile_for(upscaler, capacity_of(upscaler, worker, LimitSettings()), worker)


def test_nothing_is_compiled_to_where_nothing_may_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only root could make such a mount: the kernel's answer is changed instead."""
    flags = {tmp_path: os.ST_NOEXEC}
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=flags.get(path, 0)))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("CC", sys.executable)

    with pytest.raises(ConfigError, match="TWOFOLD_CACHE_DIR"):
        check_compiler("cuda")
    flags.clear()
    check_compiler("cuda")


def test_a_compiled_size_is_stepped_by_the_compiled_network_and_others_are_not(
    stand_in_model: Path,
) -> None:
    """By the compiler's front alone, which rounds as before: its back takes minutes here."""
    calls: list[None] = []

    def counting(graph: torch.fx.GraphModule, _inputs: object) -> Callable[..., Any]:
        def run(*inputs: Any) -> Any:
            calls.append(None)
            return graph.forward(*inputs)

        return run

    upscaler = DiffusionUpscaler.load(
        str(stand_in_model), revision=None, device="cpu", dtype="float32"
    )
    plain = _latents(upscaler)
    upscaler.compile((64, 64), [2], backend=counting)
    calls.clear()
    np.testing.assert_array_equal(_latents(upscaler), plain)
    assert not calls
    upscaler.compile((128, 64), [2], backend=counting)
    calls.clear()
    np.testing.assert_array_equal(_latents(upscaler), plain)
    assert calls
    calls.clear()
    _latents(upscaler, rung=3)
    assert not calls


def test_a_rung_that_does_not_fit_is_not_compiled_nor_any_above_it(
    loaded: DiffusionUpscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def little(_size: object, rungs: Sequence[int]) -> None:
        tried.extend(rungs)
        if rungs[0] > 2:
            raise BatchTooLarge("no memory left")

    monkeypatch.setattr(loaded, "compile", little)
    with structlog.testing.capture_logs() as logs:
        compile_for(loaded, Capacity(max_batch=8), settings(compile_sizes="64x64"))
    assert tried == [1, 2, 3]
    assert [(line["event"], line.get("rung")) for line in logs] == [
        ("not_compiled", 3),
        ("compiled", None),
    ]
    assert logs[-1]["rungs"] == [1, 2]
