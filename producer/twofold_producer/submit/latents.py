"""Latents in memory: what `StableDiffusionPipeline(..., output_type="latent")` returns, to a file.

Neither torch nor NumPy is needed to import this; whoever has such an array has its library.
"""

import io
from typing import Any, Protocol, runtime_checkable

from twofold_schema.errors import InvalidLatents
from twofold_schema.lanes import LEAST_LATENTS, PIXELS_PER_LATENT


@runtime_checkable
class Tensor(Protocol):
    """A torch tensor on any device, or an array that NumPy can read.

    Attributes:
        shape: [4, h, w] or [1, 4, h, w].
        dtype: A float of 16, 32 or 64 bits.
    """

    @property
    def shape(self) -> Any:  # noqa: ANN401 - each library has its own
        """The sides."""

    @property
    def dtype(self) -> Any:  # noqa: ANN401 - as above
        """The kind of number."""


def size_of(latents: Tensor) -> tuple[int, int]:
    """Width and height of the picture that latents stand for, in pixels.

    Raises:
        InvalidLatents: They are not one picture's latents.
    """
    shape = tuple(int(side) for side in latents.shape)
    sides = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
    if len(sides) != 3 or sides[0] != 4 or min(sides[1:]) < LEAST_LATENTS:
        several = len(shape) == 4 and shape[1] == 4
        raise InvalidLatents(
            f"These are {list(shape)}; one picture's latents are [4, h, w] or [1, 4, h, w], "
            f"{LEAST_LATENTS} by {LEAST_LATENTS} or more. "
            + (
                "Give them to submit_many, which takes them one by one."
                if several
                else "A picture is given as a PIL image."
            )
        )
    return sides[2] * PIXELS_PER_LATENT, sides[1] * PIXELS_PER_LATENT


def encode(latents: Tensor) -> bytes:
    """Latents as a file: safetensors from torch, .npy from everything else.

    Raises:
        InvalidLatents: They are no floats.
    """
    is_float = getattr(latents.dtype, "is_floating_point", None)  # torch's
    if is_float is None:
        is_float = getattr(latents.dtype, "kind", "") == "f"  # NumPy's
    if not is_float:
        raise InvalidLatents(f"These are {latents.dtype}; latents are floats.")
    if hasattr(latents, "detach"):
        return _encode_torch(latents)
    import numpy as np

    file = io.BytesIO()
    np.save(file, np.asarray(latents), allow_pickle=False)
    return file.getvalue()


def _encode_torch(latents: Any) -> bytes:  # noqa: ANN401 - a torch tensor, whose library is absent
    from safetensors.torch import save

    return save({"latents": latents.detach().cpu().contiguous()})
