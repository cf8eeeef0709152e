"""A device with little memory, where there is none: the CPU's torch runs out of it, too."""

# torch's dispatch modes have no types.
# mypy: disable-error-code="no-untyped-call"

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from twofold_worker.upscaler.live_bytes import LiveBytes


class LimitedMemory(LiveBytes):
    """While it is entered, an operator that makes too much raises torch's out-of-memory error.

    Attributes:
        limit_bytes: How much may live at once.
        most_allocations: How many operators may make something before one fails.
        allocations: How many did.
    """

    def __init__(
        self, limit_bytes: float = math.inf, *, most_allocations: float = math.inf
    ) -> None:
        super().__init__()
        self.limit_bytes = limit_bytes
        self.most_allocations = most_allocations
        self.allocations = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        before, counted = set(self._sizes), self.allocations
        made = super().__torch_dispatch__(func, types, args, kwargs)
        # An operator that is made of others: each of those was counted.
        if self._sizes.keys() <= before or self.allocations > counted:
            return made
        self.allocations += 1
        if self.live > self.limit_bytes or self.allocations > self.most_allocations:
            raise torch.OutOfMemoryError(
                f"{self.live} bytes of {self.limit_bytes}, allocation {self.allocations}"
            )
        return made
