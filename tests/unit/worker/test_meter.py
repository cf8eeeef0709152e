"""The CPU's meter counts tensors to the byte, and a plan foretells what real networks take."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from tests.limited_memory import LimitedMemory
from tests.tiny_model import TinyModel
from torch.nn.attention import SDPBackend, sdpa_kernel

from twofold_worker import calibration
from twofold_worker.fit import Line
from twofold_worker.upscaler import host_memory
from twofold_worker.upscaler.live_bytes import LiveBytes
from twofold_worker.upscaler.meter import HostMeter
from twofold_worker.upscaler.port import BatchTooLarge
from twofold_worker.vram import Plan, Stage

pytestmark = pytest.mark.usefixtures("one_thread")

KIB = 1024


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return TinyModel()


@pytest.fixture(scope="module")
def plan(model: TinyModel) -> Plan:
    return calibration.measure(model, HostMeter())


@pytest.mark.parametrize("grad_mode", [torch.no_grad, torch.inference_mode])
class TestBytes:
    @pytest.fixture(autouse=True)
    def _mode(self, grad_mode: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        with grad_mode():
            yield

    def test_the_peak_is_what_lived_at_once(self) -> None:
        def run() -> None:
            first = torch.zeros(KIB)  # 4 KiB
            second = first + 1  # 8 KiB
            del first  # 4 KiB
            third = second.double()  # 12 KiB
            del second, third
            torch.zeros(KIB)

        assert HostMeter().peak_bytes(run) == 12 * KIB

    def test_views_and_changes_in_place_are_nothing_new(self) -> None:
        def run() -> None:
            made = torch.zeros(4, KIB)
            made.view(2, -1).t()[1:].add_(1)
            made[0].copy_(made[1])

        assert HostMeter().peak_bytes(run) == 16 * KIB

    def test_what_was_there_before_is_not_counted(self) -> None:
        before = torch.zeros(KIB)

        def run() -> None:
            before.add_(1)
            before.view(2, -1).sum()

        assert HostMeter().peak_bytes(run) == 4

    def test_what_is_gone_is_gone_after_a_failure_too(self) -> None:
        def fail() -> None:
            kept = torch.zeros(KIB)
            raise ValueError(kept.shape)

        with LiveBytes() as counted:
            with pytest.raises(ValueError, match="1024"):
                fail()
            held = torch.zeros(1)
        assert (counted.live, counted.peak) == (held.nbytes, 4 * KIB)

    def test_what_an_operator_that_is_made_of_others_takes_is_seen(self) -> None:
        query = torch.zeros(1, 1, 256, 8)

        def run() -> None:
            torch.nn.functional.scaled_dot_product_attention(query, query, query)

        with sdpa_kernel(SDPBackend.MATH):
            assert HostMeter().peak_bytes(run) >= 256 * 256 * 4

    def test_a_run_that_makes_nothing_takes_nothing(self) -> None:
        assert HostMeter().peak_bytes(lambda: None) == 0


def test_memory_runs_out_at_the_operator_that_makes_too_much() -> None:
    with LimitedMemory(8 * KIB) as limited:
        fitting = torch.zeros(2, KIB)
        with pytest.raises(torch.OutOfMemoryError):
            fitting.add(1)
        assert limited.live == 8 * KIB
        del fitting
        torch.zeros(2, KIB)


def test_a_machine_has_no_more_free_than_it_has_in_all() -> None:
    meter = HostMeter()
    assert 0 < meter.free_bytes() < meter.total_bytes
    assert 0 < meter.held_bytes() < meter.total_bytes


class TestContainer:
    """A container's limits, as cgroup 2 shows them."""

    @pytest.fixture
    def cgroup(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "memory.current").write_text("1000000\n")
        monkeypatch.setattr(host_memory, "_CGROUP", tmp_path)
        return tmp_path

    def test_its_limit_is_all_that_its_process_has(self, cgroup: Path) -> None:
        (cgroup / "memory.max").write_text(f"{2**20}\n")
        assert host_memory.total_bytes() == 2**20
        assert host_memory.free_bytes() == 2**20 - 1_000_000

    def test_files_that_are_kept_but_not_read_are_free(self, cgroup: Path) -> None:
        (cgroup / "memory.max").write_text(f"{2**20}\n")
        (cgroup / "memory.stat").write_text("anon 5\ninactive_file 700000\nactive_file 9\n")
        assert host_memory.free_bytes() == 2**20 - 300_000

    def test_without_a_limit_the_machine_is_all(self, cgroup: Path) -> None:
        (cgroup / "memory.max").write_text("max\n")
        assert host_memory.total_bytes() > 2**20
        assert (host_memory.free_bytes() or 0) > 2**20


@pytest.mark.parametrize("stage", Stage)
def test_a_size_that_was_not_measured_takes_what_is_foretold(
    model: TinyModel, plan: Plan, stage: Stage
) -> None:
    height, width, slots = 320, 256, 3
    runs = {
        Stage.ENCODE: lambda: model.encode(height, width),
        Stage.UNET: lambda: model.unet(slots, height, width),
        Stage.DECODE: lambda: model.decode(height, width),
    }
    taken = HostMeter().peak_bytes(runs[stage])
    assert plan.predicted_bytes(stage, slots, height, width) == pytest.approx(taken, rel=0.1)


def test_the_tiny_model_grows_with_the_pixels_alone(plan: Plan) -> None:
    assert all(isinstance(fit, Line) for fit in (plan.encode, plan.unet, plan.decode))
    assert plan.step_seconds is not None


@pytest.mark.parametrize("stage", Stage)
def test_what_the_plan_says_fits_does_and_a_tenth_less_memory_is_too_little(
    model: TinyModel, plan: Plan, stage: Stage
) -> None:
    runs = {
        Stage.ENCODE: lambda: model.encode(192, 256),
        Stage.UNET: lambda: model.unet(2, 192, 256),
        Stage.DECODE: lambda: model.decode(192, 256),
    }
    predicted = plan.predicted_bytes(stage, 2, 192, 256)
    with LimitedMemory(int(predicted * 1.05)):
        runs[stage]()
    with LimitedMemory(int(predicted * 0.9)), pytest.raises(BatchTooLarge):
        runs[stage]()


def test_a_plan_is_made_without_running_out_of_little_memory(model: TinyModel) -> None:
    """The meter's device ends where the budget does, so that a run above it would raise."""
    limit = 8 * 2**20

    class Little(HostMeter):
        def held_bytes(self) -> int:
            return 0

        def peak_bytes(self, run: Callable[[], None]) -> int:
            limited = LimitedMemory(limit)
            with limited:
                run()
            return limited.peak

    plan = calibration.measure(model, Little(), budget=limit)
    assert plan.budget.allowed_bytes == limit
    assert 0 < plan.largest_pixels < 128**2
    assert plan.most(64, 64) >= 1
    assert plan.most(256, 256) == 0
