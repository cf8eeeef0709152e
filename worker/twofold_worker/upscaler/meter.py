"""What is free on a device, and what a run takes of it."""

from collections.abc import Callable

import torch

from twofold_worker.upscaler import host_memory
from twofold_worker.upscaler.live_bytes import LiveBytes


class CudaMeter:
    """The memory of a CUDA device, or of its MIG slice.

    Attributes:
        total_bytes: All that it has.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._most: int | None = None
        _, self.total_bytes = torch.cuda.mem_get_info(device)

    def set_fraction(self, budget: float) -> None:
        """Have torch itself refuse what is above an operator's budget.

        Args:
            budget: Up to 1 a share of the device, above 1 bytes.
        """
        share = min(1.0, budget if budget <= 1 else budget / self.total_bytes)
        torch.cuda.set_per_process_memory_fraction(share, self._device)
        self._most = int(share * self.total_bytes)

    def free_bytes(self) -> int:
        """What this process could get now: what the driver has, and what torch keeps unused."""
        free, _ = torch.cuda.mem_get_info(self._device)
        held = self.held_bytes()
        free += torch.cuda.memory_reserved(self._device) - held
        return free if self._most is None else max(0, min(free, self._most - held))

    def held_bytes(self) -> int:
        """What this process's tensors have."""
        return torch.cuda.memory_allocated(self._device)

    def peak_bytes(self, run: Callable[[], None]) -> int:
        """The most that a run takes: by torch's count or the driver's, whichever is more.

        Only the driver sees what libraries take past torch; it also sees other processes.
        """
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        held = self.held_bytes()
        free, _ = torch.cuda.mem_get_info(self._device)
        try:
            run()
            torch.cuda.synchronize(self._device)
            # Torch still keeps all that the run had.
            left, _ = torch.cuda.mem_get_info(self._device)
            return max(torch.cuda.max_memory_allocated(self._device) - held, free - left, 0)
        finally:
            torch.cuda.empty_cache()

    def watch(self) -> Callable[[], int | None]:
        """Watch what torch allocates, without waiting for the device.

        Returns:
            Gives the most bytes that were taken since, beside what was held then.
        """
        torch.cuda.reset_peak_memory_stats(self._device)
        held = self.held_bytes()
        return lambda: torch.cuda.max_memory_allocated(self._device) - held


class HostMeter:
    """The memory of this machine, for a model on the CPU.

    Attributes:
        total_bytes: All that the process could have.
    """

    def __init__(self) -> None:
        self.total_bytes = host_memory.total_bytes()

    def free_bytes(self) -> int:
        """What is free now; half of all where the system does not say."""
        free = host_memory.free_bytes()
        return self.total_bytes // 2 if free is None else free

    def held_bytes(self) -> int:
        """What this process has."""
        return host_memory.held_bytes()

    def peak_bytes(self, run: Callable[[], None]) -> int:
        """The most bytes of tensors that lived while it ran; a kernel's own scratch is not seen."""
        counted = LiveBytes()
        with counted:
            run()
        return counted.peak

    def watch(self) -> Callable[[], int | None]:
        """Gives None: nobody keeps count, and counting each run would slow it down."""
        return lambda: None
