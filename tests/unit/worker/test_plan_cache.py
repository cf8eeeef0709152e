"""A kept plan is used while it holds; whatever else lies there is measured anew, never fatal."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from tests.simulated_device import Growth, SimulatedDevice

from twofold_worker.calibration import measure, measure_modes
from twofold_worker.upscaler.plan_cache import Key, key_of, planned, read, write
from twofold_worker.vram import PLAIN, Mode, Plan

GIB = 2**30
SLICED = Mode(sliced_attention=True)

KEY = Key(
    device="NVIDIA H100 MIG 1g.10gb",
    total_bytes=80 * GIB,
    driver="580.1",
    torch="2.13",
    diffusers="0.42.1",
    model_revision="abc",
    dtype="bfloat16",
    compiled=False,
    budget=None,
    max_pixels=2048**2,
)


def device(*, quadratic: float = 0.0, total: int = 80 * GIB) -> SimulatedDevice:
    return SimulatedDevice(
        total_bytes=total,
        encode_growth=Growth(linear=1270),
        unet_growth=Growth(linear=672),
        decode_growth=Growth(linear=6144, quadratic=quadratic),
    )


def start(folder: Path | None, machine: SimulatedDevice, key: Key = KEY) -> tuple[Plan, int]:
    """The plan of a worker that starts, and how many runs it took."""
    before = len(machine.runs)

    def measured() -> Plan:
        return measure_modes(
            lambda mode: measure(machine, machine, mode=mode, clock=machine.clock),
            machine.enter,
            wanted_pixels=key.max_pixels,
        )

    machine.mode = PLAIN
    plan = planned(folder, key, machine, machine, measured=measured, enter=machine.enter)
    return plan, len(machine.runs) - before


def kept(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_a_second_start_needs_one_look_at_the_device(tmp_path: Path) -> None:
    first, _ = start(tmp_path / "a" / "b", device())
    second, runs = start(tmp_path / "a" / "b", device())
    assert second == first
    assert runs == 2  # the first of them loads kernels


@given(scale=st.floats(0.1, 10), quadratic=st.floats(0, 1e-2), total=st.integers(GIB, 80 * GIB))
def test_what_is_kept_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, scale: float, quadratic: float, total: int
) -> None:
    folder = tmp_path_factory.mktemp("plans")
    machine = device(quadratic=quadratic, total=total)
    machine.unet_growth = Growth(linear=672 * scale)
    plan = measure(machine, machine, clock=machine.clock, mode=SLICED)
    write(folder, KEY, plan)
    assert read(folder, KEY) == plan


@pytest.mark.parametrize(
    "change",
    [
        {"device": "NVIDIA H200"},
        {"total_bytes": 1},
        {"driver": "581"},
        {"torch": "2.14"},
        {"diffusers": "0.43"},
        {"model_revision": "abd"},
        {"dtype": "float16"},
        {"compiled": True},
        {"budget": 0.5},
        {"max_pixels": 1024**2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_device_or_version_has_another_plan(tmp_path: Path, change: dict[str, Any]) -> None:
    start(tmp_path, device())
    other = dataclasses.replace(KEY, **change)
    assert read(tmp_path, KEY) is not None
    assert read(tmp_path, other) is None
    start(tmp_path, device(), other)
    assert read(tmp_path, other) is not None
    assert read(tmp_path, KEY) is not None


def test_a_plan_under_anothers_name_is_not_believed(tmp_path: Path) -> None:
    start(tmp_path, device())
    path = kept(tmp_path)
    entry = json.loads(path.read_text())
    entry["key"]["dtype"] = "float16"
    path.write_text(json.dumps(entry))
    assert read(tmp_path, KEY) is None


def _cut(text: str) -> str:
    return text[: len(text) // 2]


def _negative(text: str) -> str:
    entry = json.loads(text)
    entry["plan"]["decode"]["per_pixel"] = -1.0
    return json.dumps(entry)


def _later_format(text: str) -> str:
    return json.dumps({**json.loads(text), "format": 2})


@pytest.mark.parametrize(
    "spoil",
    [
        _cut,
        _negative,
        _later_format,
        lambda _: "",
        lambda _: "[1]",
        lambda _: "\x00",
        lambda _: "7",
    ],
)
def test_a_damaged_or_foreign_file_is_measured_anew_and_replaced(
    tmp_path: Path, spoil: Callable[[str], str]
) -> None:
    first, _ = start(tmp_path, device())
    path = kept(tmp_path)
    path.write_text(spoil(path.read_text()))
    with structlog.testing.capture_logs() as logs:
        second, runs = start(tmp_path, device())
    assert [line["event"] for line in logs] == ["plan_unreadable"]
    assert second == first
    assert runs > 2
    assert read(tmp_path, KEY) == first


@given(content=st.binary(max_size=200))
def test_no_content_is_fatal(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("plans")
    start(folder, device())
    kept(folder).write_bytes(content)
    assert read(folder, KEY) is None


@pytest.mark.parametrize(("factor", "holds"), [(1.08, True), (1.2, False), (0.8, False)])
def test_a_plan_that_no_longer_holds_is_measured_anew(
    tmp_path: Path, factor: float, *, holds: bool
) -> None:
    first, _ = start(tmp_path, device())
    changed = device()
    changed.decode_growth = Growth(linear=6144 * factor)
    second, runs = start(tmp_path, changed)
    assert (runs == 2) is holds
    assert (second == first) is holds
    if not holds:
        assert read(tmp_path, KEY) == second


def test_a_device_that_is_full_at_the_second_start_is_no_crash(tmp_path: Path) -> None:
    start(tmp_path, device())
    full = device()
    full.taken_by_neighbour = full.total_bytes
    assert start(tmp_path, full)[0].largest_pixels == 0


def test_what_is_free_is_todays(tmp_path: Path) -> None:
    start(tmp_path, device())
    busy = device()
    busy.taken_by_neighbour = 20 * GIB
    plan, runs = start(tmp_path, busy)
    assert runs == 2
    assert plan.budget.allowed_bytes <= 60 * GIB


def test_a_kept_mode_is_entered_before_the_plan_is_compared(tmp_path: Path) -> None:
    quadratic = GIB / 2 / 512**4
    first, _ = start(tmp_path, device(quadratic=quadratic))
    machine = device(quadratic=quadratic)
    second, runs = start(tmp_path, machine)
    assert second == first
    assert (second.mode, machine.mode, runs) == (SLICED, SLICED, 2)


def test_a_kept_mode_is_reconsidered_when_there_is_more_memory(tmp_path: Path) -> None:
    hungry = device(quadratic=GIB / 20 / 512**4)
    hungry.taken_by_neighbour = 45 * GIB
    assert start(tmp_path, hungry)[0].mode == SLICED
    alone = device(quadratic=GIB / 20 / 512**4)
    plan, _ = start(tmp_path, alone)
    assert (plan.mode, alone.mode) == (PLAIN, PLAIN)


def test_a_folder_that_cannot_be_written_costs_only_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with structlog.testing.capture_logs() as logs:
        plan, _ = start(tmp_path / "file" / "plans", device())
    assert plan.largest_pixels >= 2048**2
    assert [line["event"] for line in logs][-1] == "plan_not_kept"


def test_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    start(tmp_path, device())
    assert kept(tmp_path).suffix == ".json"


def test_without_a_folder_every_start_measures() -> None:
    assert start(None, device())[1] > 2


def test_the_key_of_this_machine_names_it() -> None:
    key = key_of(
        torch.device("cpu"),
        total_bytes=1,
        model_revision="abc",
        dtype="float32",
        compiled=False,
        budget=None,
        max_pixels=64,
    )
    assert key.device.startswith("cpu")
    assert key.torch == torch.__version__
    assert TypeAdapter(Key).validate_json(TypeAdapter(Key).dump_json(key)) == key


def test_a_plan_whose_smallest_size_runs_no_more_is_measured_anew(tmp_path: Path) -> None:
    first, _ = start(tmp_path, device())
    assert first.smallest is not None
    machine = device()
    machine.failing = {first.smallest.side**2: RuntimeError("no kernel for that")}
    second, _ = start(tmp_path, machine)
    assert second.largest_pixels == 0
