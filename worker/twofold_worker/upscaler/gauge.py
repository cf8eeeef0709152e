"""What a device is and has free, and what the model needs of it."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from twofold_worker.upscaler import host_memory, weights

#: Of the real model: its networks' numbers, counted.
_PARAMETERS: Final = 579_300_000
#: Decoding one picture of 512 pixels needs most, in half precision; and the allocator's slack.
_ONE_PICTURE_BYTES: Final = int(1536 * 2**20 * 1.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """A device as torch sees it.

    Attributes:
        name: As its maker calls it, and what it runs with.
        dtype: In which it would work, as torch calls it.
        native: Whether the device has that dtype, rather than emulating it.
        free_bytes: Memory that is free now; None where nobody says.
        total_bytes: All of its memory.
        needed_bytes: What the real model and one picture of 512 pixels need.
    """

    name: str
    dtype: str
    native: bool
    free_bytes: int | None
    total_bytes: int
    needed_bytes: int


def gauge(device_name: str, dtype_name: str) -> Iterator[Gauge]:
    """Look at each device that a setting names, and have it add one and one.

    Args:
        device_name: As TWOFOLD_DEVICE.
        dtype_name: As TWOFOLD_DTYPE.

    Raises:
        ConfigError: torch does not know or see such a device.
        RuntimeError: The device or its driver refuses; torch says why.
    """
    named = weights.device_named(device_name)
    for device in _each(named):
        dtype = weights.dtype_named(dtype_name, device)
        torch.ones(1, device=device, dtype=dtype).add(1).item()
        look = _cuda if device.type == "cuda" else _cpu
        yield look(device, dtype)


def sees_gpu() -> bool:
    """Whether torch has a GPU to work with."""
    return torch.cuda.is_available()


def torch_version() -> str:
    """The version of torch, with what it was built for."""
    return str(torch.__version__)


def _each(named: torch.device) -> list[torch.device]:
    if named.type != "cuda" or named.index is not None:
        return [named]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def _cuda(device: torch.device, dtype: torch.dtype) -> Gauge:
    free, total = torch.cuda.mem_get_info(device)
    major, minor = torch.cuda.get_device_capability(device)
    with torch.cuda.device(device):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    return Gauge(
        name=f"{device}: {torch.cuda.get_device_name(device)}, compute capability "
        f"{major}.{minor}, CUDA {torch.version.cuda}, driver {driver_version()}",
        dtype=str(dtype).removeprefix("torch."),
        native=native or dtype != torch.bfloat16,
        free_bytes=free,
        total_bytes=total,
        needed_bytes=_needed_bytes(dtype),
    )


def _cpu(_device: torch.device, dtype: torch.dtype) -> Gauge:
    threads = 1 << (torch.get_num_threads().bit_length() - 1)
    return Gauge(
        name=f"CPU, {threads} threads of {os.cpu_count()}",
        dtype=str(dtype).removeprefix("torch."),
        # Half precision on a CPU is computed in single precision, or slower.
        native=dtype == torch.float32,
        free_bytes=host_memory.free_bytes(),
        total_bytes=host_memory.total_bytes(),
        needed_bytes=_needed_bytes(dtype),
    )


def _needed_bytes(dtype: torch.dtype) -> int:
    return _PARAMETERS * dtype.itemsize + _ONE_PICTURE_BYTES * dtype.itemsize // 2


def driver_version() -> str | None:
    """The version of NVIDIA's driver; None where there is no GPU of theirs."""
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.partition("\n")[0].strip() or None
