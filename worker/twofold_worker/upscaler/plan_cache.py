"""Keeps a device's plan from one start to the next, so that only the first one measures."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import diffusers
import structlog
import torch
from pydantic import TypeAdapter, ValidationError

from twofold_worker.calibration import Meter, Probes, budget_of, tried
from twofold_worker.upscaler import gauge
from twofold_worker.vram import PLAIN, Mode, Plan

#: Memory that differs by a larger share than this from what the kept plan says makes it void.
_TOLERANCE: Final = 0.10

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """All that a plan depends on; another value of any of it is another plan.

    Attributes:
        device: As its maker calls it; it names a MIG profile, too.
        total_bytes: Of the device.
        driver: Its version, or "".
        torch: Its version.
        diffusers: Its version.
        model_revision: What was loaded.
        dtype: In which it runs.
        compiled: Whether the UNet is compiled.
        budget: What the operator allows.
        max_pixels: The largest source that comes.
    """

    device: str
    total_bytes: int
    driver: str
    torch: str
    diffusers: str
    model_revision: str
    dtype: str
    compiled: bool
    budget: float | None
    max_pixels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    format: Literal[1]
    key: Key
    plan: Plan


_ENTRY: Final = TypeAdapter(_Entry)


def key_of(
    device: torch.device,
    *,
    total_bytes: int,
    model_revision: str,
    dtype: str,
    compiled: bool,
    budget: float | None,
    max_pixels: int,
) -> Key:
    """The key of a model on a device, with the versions that run here."""
    on_gpu = device.type == "cuda"
    return Key(
        device=torch.cuda.get_device_name(device) if on_gpu else f"cpu/{torch.get_num_threads()}",
        total_bytes=total_bytes,
        driver=gauge.driver_version() or "" if on_gpu else "",
        torch=gauge.torch_version(),
        diffusers=diffusers.__version__,
        model_revision=model_revision,
        dtype=dtype,
        compiled=compiled,
        budget=budget,
        max_pixels=max_pixels,
    )


def planned(
    folder: Path | None,
    key: Key,
    probes: Probes,
    meter: Meter,
    *,
    measured: Callable[[], Plan],
    enter: Callable[[Mode], None],
) -> Plan:
    """The kept plan if it still holds, else a new one, which is kept.

    Args:
        folder: Where plans are kept; None keeps none.
        key: What the plan depends on.
        probes: Runs the model.
        meter: Measures the device.
        measured: Measures anew, the model running plainly.
        enter: Has the model run in a mode from now on.

    Returns:
        The plan, in whose mode the model runs now.
    """
    kept = None if folder is None else read(folder, key)
    if kept is not None:
        enter(kept.mode)
        today = replace(kept, budget=budget_of(meter, key.budget))
        if _still_serves(kept, today, key) and holds(today, probes, meter):
            return today
        enter(PLAIN)
    plan = measured()
    if folder is not None and plan.smallest is not None:
        write(folder, key, plan)
    return plan


def holds(plan: Plan, probes: Probes, meter: Meter) -> bool:
    """Whether one run takes what the plan says it took."""
    if plan.smallest is None:
        return False
    side, expected = plan.smallest.side, plan.smallest.peak_bytes

    def run() -> None:
        probes.decode(side, side)

    def measured() -> int:
        run()  # As when it was measured: the first run loads kernels.
        return meter.peak_bytes(run)

    taken = tried(measured, slots=1, side=side)
    if taken is None:
        return False
    if abs(taken - expected) <= _TOLERANCE * expected:
        return True
    log.warning("plan_void", expected_bytes=expected, measured_bytes=taken)
    return False


def read(folder: Path, key: Key) -> Plan | None:
    """The plan that is kept for a key; None if there is none that can be read."""
    path = _path(folder, key)
    try:
        entry = _ENTRY.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        # A validation error quotes the file; its kind says enough.
        log.warning("plan_unreadable", path=str(path), error=type(error).__name__)
        return None
    return entry.plan if entry.key == key else None


def write(folder: Path, key: Key, plan: Plan) -> None:
    """Keep a plan, whole or not at all; where it cannot be kept the next start measures again."""
    path = _path(folder, key)
    # Of its own name: workers of several GPUs start together.
    half_done = path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        half_done.write_bytes(_ENTRY.dump_json(_Entry(format=1, key=key, plan=plan), indent=2))
        half_done.replace(path)
    except OSError as error:
        log.warning("plan_not_kept", path=str(path), error=str(error))
        with contextlib.suppress(OSError):
            half_done.unlink(missing_ok=True)


def _path(folder: Path, key: Key) -> Path:
    told = TypeAdapter(Key).dump_json(key)
    return folder / f"plan-{hashlib.sha256(told).hexdigest()[:16]}.json"


def _still_serves(kept: Plan, today: Plan, key: Key) -> bool:
    """Whether measuring anew could choose no better mode with today's memory."""
    if today.mode == PLAIN and today.largest_pixels >= key.max_pixels:
        return True
    before, now = kept.budget.allowed_bytes, today.budget.allowed_bytes
    return abs(now - before) <= _TOLERANCE * before
