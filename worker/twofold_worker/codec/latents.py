"""Latents in files: safetensors and .npy, their headers checked before anything is allocated.

A latent picture of Stable Diffusion 1 and 2 is [4, h, w] floats, scaled by 0.18215 as the pipelines
do with `output_type="latent"`; h and w are an eighth of the picture's sides.
"""

import ast
import json
import re
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from twofold_schema.errors import CorruptSource, InvalidLatents
from twofold_schema.formats import SourceFormat
from twofold_schema.lanes import LEAST_LATENTS, PIXELS_PER_LATENT, SizeLimits

CHANNELS: Final = 4

#: No latent picture has values beyond this: those of photographs stay below 10, and even those
#: that somebody forgot to scale below 100.
MOST_VALUE: Final = 1000.0

#: A header says name, dtype, shape and place of one tensor, and perhaps a note. More is an attack.
_MAX_HEADER_BYTES: Final = 16 * 1024

# safetensors names its dtypes so; bfloat16, which numpy lacks, is the upper half of float32.
_DTYPES: Final = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}

# numpy.lib.format (NEP 1).
_NPY_KEYS: Final = ("descr", "shape", "fortran_order")
_NPY_FLOAT: Final = re.compile(r"[<>=]?f[248]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a header says.

    Attributes:
        height: In latents.
        width: Likewise.
        dtype: numpy's, with its byte order; "<u2" stands for bfloat16.
        column_major: Whether the first index runs fastest.
        start: Where the values begin in the file, in bytes.
    """

    height: int
    width: int
    dtype: np.dtype[Any]
    column_major: bool
    start: int


def read_shape(head: bytes, form: SourceFormat) -> Shape:
    """Read a header from the first bytes of a file.

    Raises:
        InvalidLatents: It holds something else than one tensor of latents.
        CorruptSource: It is damaged, or there are not enough bytes.
    """
    return _npy_shape(head) if form is SourceFormat.NPY else _safetensors_shape(head)


def decode(data: bytes, form: SourceFormat, limits: SizeLimits) -> NDArray[np.float32]:
    """The latents of a whole file, float32 [4, h, w], finite.

    Raises:
        InvalidLatents: It holds something else, or values that are no latent picture's.
        CorruptSource: It is damaged or cut short.
        TooLarge: It is over the limits; found before anything is decoded.
    """
    shape = read_shape(data, form)
    limits.check(shape.width * PIXELS_PER_LATENT, shape.height * PIXELS_PER_LATENT)
    expected = CHANNELS * shape.height * shape.width * shape.dtype.itemsize
    if len(data) - shape.start != expected:
        raise CorruptSource(
            f"The header promises {expected} bytes of values, but {len(data) - shape.start} follow."
        )
    if form is SourceFormat.SAFETENSORS:
        _verify(data)
    stored = np.frombuffer(data, shape.dtype, offset=shape.start).reshape(
        (CHANNELS, shape.height, shape.width), order="F" if shape.column_major else "C"
    )
    if shape.dtype == np.dtype("<u2"):
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    # Before the cast: a float64 may be too large for a float32.
    if not (np.abs(stored) <= MOST_VALUE).all():
        raise InvalidLatents(_explain_values(stored))
    return np.ascontiguousarray(stored, dtype=np.float32)


def encode(values: NDArray[np.float32], *, width: int, height: int) -> bytes:
    """Latents as safetensors: one tensor `latents`, float32 [4, h, w].

    Args:
        values: float32 [4, h, w].
        width: Of the picture that they stand for, in pixels; noted beside them, because they may
            reach up to seven pixels beyond it.
        height: As `width`.
    """
    note = {"width": str(width), "height": str(height)}
    return save({"latents": np.ascontiguousarray(values)}, metadata=note)


def _explain_values(stored: NDArray[Any]) -> str:
    broken = int(stored.size - np.isfinite(stored).sum())
    if broken:
        return (
            f"The latents have values that are NaN or infinite, {broken} of {stored.size}; make "
            "them anew."
        )
    return (
        f"The latents have values up to {float(np.abs(stored).max()):.3g}; those of Stable "
        "Diffusion 1 and 2 stay below 10. Submit what its pipeline returns, as it is."
    )


def _safetensors_shape(head: bytes) -> Shape:
    length = int.from_bytes(head[:8], "little")
    if length > _MAX_HEADER_BYTES:
        raise InvalidLatents(
            f"The safetensors header has {length} bytes, more than one tensor needs; store the "
            "latents alone."
        )
    if len(head) < 8 + length:
        raise CorruptSource
    try:
        header = json.loads(head[8 : 8 + length], object_pairs_hook=_each_once)
    except (ValueError, RecursionError):
        raise CorruptSource("The safetensors header is no JSON, or says a thing twice.") from None
    if not isinstance(header, dict):
        raise CorruptSource("The safetensors header names no tensors.")
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    if len(tensors) != 1:
        raise InvalidLatents(f"The file holds {len(tensors)} tensors; store one picture's latents.")
    (tensor,) = tensors.values()
    try:
        dtype, shape = str(tensor["dtype"]), tensor["shape"]
        begin, _ = tensor["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise CorruptSource("The safetensors header is damaged.") from None
    if begin != 0:
        raise CorruptSource("The safetensors header leaves a gap before the values.")
    if dtype not in _DTYPES:
        _refuse_dtype(dtype)
    height, width = _sides(shape)
    return Shape(
        height=height,
        width=width,
        dtype=np.dtype(_DTYPES[dtype]),
        column_major=False,
        start=8 + length,
    )


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # The library takes the last of two; another reader might take the first.
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError
    return entries


def _verify(data: bytes) -> None:
    # The library's own checks: of offsets that leave gaps or overflow, and more.
    try:
        deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise CorruptSource(f"The safetensors file is damaged ({error}).") from None


def _npy_shape(head: bytes) -> Shape:
    """Read the header of NumPy's format, versions 1 and 2 (NEP 1).

    By hand, because numpy.lib.format reads as many bytes as a header claims to have before it
    looks at the number, and warns of old files through global state.
    """
    version, width_of_length = head[6:8], {b"\x01\x00": 2, b"\x02\x00": 4}
    if len(version) == 2 and version not in width_of_length:
        raise InvalidLatents(
            f"The .npy file has version {version[0]}.{version[1]}, which plain floats never need; "
            "store them with numpy.save."
        )
    start = 8 + width_of_length.get(version, 4)
    length = int.from_bytes(head[8:start], "little")
    if len(head) < start:
        raise CorruptSource
    if length > _MAX_HEADER_BYTES:
        raise InvalidLatents(f"The .npy header has {length} bytes, more than any array needs.")
    if len(head) < start + length:
        raise CorruptSource
    try:
        header = ast.literal_eval(head[start : start + length].decode("latin-1").strip())
        dtype, shape, column_major = (header[name] for name in _NPY_KEYS)
        # In here, because Python writes no number of more than 4300 digits.
        holds_objects = "O" in str(dtype)
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        raise CorruptSource("The .npy header is damaged.") from None
    if holds_objects:
        raise InvalidLatents("The .npy file holds pickled objects, which are never loaded.")
    if not isinstance(dtype, str) or not _NPY_FLOAT.fullmatch(dtype):
        _refuse_dtype(dtype)
    height, width = _sides(list(shape) if isinstance(shape, tuple) else shape)
    return Shape(
        height=height,
        width=width,
        dtype=np.dtype(dtype),
        # The leading 1 of [1, 4, h, w] changes no order.
        column_major=bool(column_major),
        start=start + length,
    )


def _sides(shape: object) -> tuple[int, int]:
    """The last two of [4, h, w] or [1, 4, h, w]."""
    if not isinstance(shape, list) or not all(type(side) is int for side in shape):
        raise CorruptSource("The header's shape is no list of numbers.")
    if any(side.bit_length() > 63 for side in shape):
        # Not quoted: Python writes no number of more than 4300 digits.
        raise InvalidLatents("The header's shape has numbers that no file could fill.")
    sides = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
    if len(sides) != 3 or sides[0] != CHANNELS:
        raise InvalidLatents(
            f"The latents are {shape}; one picture's are [4, h, w] or [1, 4, h, w]."
        )
    _, height, width = sides
    if min(height, width) < LEAST_LATENTS:
        raise InvalidLatents(
            f"The latents are {width} by {height}; they need {LEAST_LATENTS} by {LEAST_LATENTS}, "
            f"a picture of {LEAST_LATENTS * PIXELS_PER_LATENT} pixels."
        )
    return height, width


def _refuse_dtype(dtype: object) -> NoReturn:
    # Without NumPy's signs of the byte order, one of which is the bar of tables.
    name = str(dtype).lstrip("<>=|")
    raise InvalidLatents(f"The latents are {name}; store float16, bfloat16, float32 or float64.")
