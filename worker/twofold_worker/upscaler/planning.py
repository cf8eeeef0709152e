"""Learns what a loaded model has room for on its device, from a kept plan or by measuring."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import structlog
import torch

from twofold_schema.settings import LimitSettings, WorkerSettings
from twofold_worker import calibration
from twofold_worker.batching import LADDER
from twofold_worker.capacity import Capacity
from twofold_worker.upscaler import plan_cache
from twofold_worker.upscaler.compiler import check_compiler
from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.meter import CudaMeter, HostMeter
from twofold_worker.upscaler.port import BatchTooLarge
from twofold_worker.upscaler.probes import PortProbes
from twofold_worker.vram import PLAIN, Mode, Plan

log = structlog.get_logger(__name__)

#: What a CPU's start may spend, beside the least that is measured in any case.
_CPU_SECONDS = 1.0
_GPU_SECONDS = 20.0


def capacity_of(
    upscaler: DiffusionUpscaler, worker: WorkerSettings, limits: LimitSettings
) -> Capacity:
    """What the device has room for; the model may run in another mode afterwards.

    Args:
        upscaler: Loaded and warm.
        worker: Its budget, and where plans are kept.
        limits: The largest source that comes.
    """
    device, budget = upscaler.device, worker.memory_budget
    on_gpu = device.type == "cuda"
    meter: CudaMeter | HostMeter
    if on_gpu:
        meter, wait = CudaMeter(device), lambda: torch.cuda.synchronize(device)
        if budget is not None:
            meter.set_fraction(budget)
    else:
        meter, wait = HostMeter(), lambda: None
    probes, most = PortProbes(upscaler, wait=wait), limits.max_pixels
    key = plan_cache.key_of(
        device,
        total_bytes=meter.total_bytes,
        model_revision=upscaler.revision,
        dtype=str(upscaler.dtype),
        compiled=bool(worker.compile_sizes),
        budget=budget,
        max_pixels=most,
    )

    def measured(mode: Mode) -> Plan:
        return calibration.measure(
            probes,
            meter,
            budget=budget,
            sides=calibration.GPU_SIDES if on_gpu else calibration.CPU_SIDES,
            max_pixels=most,
            allowance_s=_GPU_SECONDS if on_gpu else _CPU_SECONDS,
            mode=mode,
        )

    def chosen() -> Plan:
        if not on_gpu:
            # Its attention is fused, and the text encoder would go nowhere: no mode saves anything.
            return measured(PLAIN)
        return calibration.measure_modes(measured, upscaler.enter, wanted_pixels=most)

    began = time.monotonic()
    with nullcontext() if on_gpu else _one_thread():
        plan = plan_cache.planned(
            worker.cache_dir, key, probes, meter, measured=chosen, enter=upscaler.enter
        )
    capacity = Capacity(
        max_batch=worker.max_batch,
        plan=plan,
        pinned_rung=worker.pinned_rung,
        free_bytes=meter.free_bytes,
        watch=meter.watch,
    )
    told = plan.describe() | {"largest_pixels": capacity.largest_pixels}
    log.info("planned", seconds=round(time.monotonic() - began, 1), **told)
    if capacity.largest_pixels == 0:
        log.error("nothing_fits", mend="Free the device's memory, or raise TWOFOLD_MEMORY_BUDGET.")
    return capacity


@contextmanager
def _one_thread() -> Iterator[None]:
    """Measure a CPU with one thread.

    The memory is the same; and on a busy machine small runs wait for each other's threads many
    times as long as they compute, so that the pace would be chance.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def compile_for(upscaler: DiffusionUpscaler, capacity: Capacity, worker: WorkerSettings) -> None:
    """Compile the UNet for the sizes that are asked for, at the rungs that fit them.

    Raises:
        ConfigError: Nothing can be compiled here.
    """
    if worker.cache_dir is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(worker.cache_dir / "compiled"))
    if worker.compiled_sizes:
        check_compiler(upscaler.device.type)
    for size in worker.compiled_sizes:
        most = max(worker.pinned_rung, capacity.slots(*size))
        rungs = [rung for rung in LADDER if rung <= most]
        began, done = time.monotonic(), list[int]()
        for rung in rungs:
            try:
                upscaler.compile(size, [rung])
            except BatchTooLarge as error:
                # A larger one takes more.
                log.warning("not_compiled", size=size, rung=rung, error=str(error))
                break
            done.append(rung)
        log.info("compiled", size=size, rungs=done, seconds=round(time.monotonic() - began, 1))
