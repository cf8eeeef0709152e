"""A device with little memory, where there is none: the CPU's torch runs out of it, too."""

# torch's dispatch modes have no types.
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from twofold_worker.upscaler.live_bytes import LiveBytes


class LimitedMemory(LiveBytes):
    """While it is entered, an operator that makes too much raises torch's out-of-memory error."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self.limit_bytes = limit_bytes

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = super().__torch_dispatch__(func, types, args, kwargs)
        if self.live > self.limit_bytes:
            raise torch.OutOfMemoryError(f"{self.live} bytes of {self.limit_bytes}")
        return made
