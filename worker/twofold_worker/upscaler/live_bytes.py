"""How many bytes of tensors live, counted operator by operator; a CPU's torch keeps no count."""

# torch's dispatch modes have no types.
# mypy: disable-error-code="no-untyped-call"

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """While it is entered, counts the storages that operators of this thread make.

    What an operator takes and gives back within itself is not seen.

    Attributes:
        live: Bytes of the storages that were made and are not yet gone.
        peak: The most that `live` has been.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}
        self._simple: set[Any] = set()  # operators that are made of no others

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 -- an operator, of a type that torch does not name
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 -- as the operator
        """Run the operator, and count what it made."""
        # In inference mode operators that are made of others come whole.
        if func not in self._simple:
            with self:
                made = func.decompose(*args, **(kwargs or {}))
            if made is not NotImplemented:
                return made
            self._simple.add(func)
        made = func(*args, **(kwargs or {}))
        given = {id(storage) for storage in _storages((args, kwargs))}
        for storage in _storages(made):
            # A view, or what was changed in place, is nothing new.
            if id(storage) not in given and id(storage) not in self._sizes:
                self._sizes[id(storage)] = storage.nbytes()
                self.live += storage.nbytes()
                weakref.finalize(storage, self._forget, id(storage)).atexit = False
        self.peak = max(self.peak, self.live)
        return made

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def _storages(values: object) -> list[torch.UntypedStorage]:
    return [
        value.untyped_storage() for value in tree_iter(values) if isinstance(value, torch.Tensor)
    ]
