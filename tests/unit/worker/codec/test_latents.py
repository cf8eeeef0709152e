"""Latents in files: any honest way to store them is taken, everything else has a clear error."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.inputs.files import bfloat16, latents, npy, npy_header, safetensors

from twofold_schema.errors import CorruptSource, InvalidLatents, JobError, TooLarge
from twofold_schema.lanes import SizeLimits
from twofold_worker.codec.latents import MOST_VALUE
from twofold_worker.codec.source import Latents, decode, read_header

LIMITS = SizeLimits(max_pixels=1_000_000, max_side=4096)
VALUES = latents(9, 12)
SHAPE = (4, 9, 12)


def values_of(data: bytes) -> Any:
    """What a file of latents decodes to."""
    decoded = decode(data, LIMITS)
    assert isinstance(decoded, Latents)
    assert decoded.values.dtype == np.float32
    assert decoded.values.flags.c_contiguous
    assert decoded.values.dtype.isnative
    return decoded.values


@pytest.mark.parametrize("shape", [SHAPE, (1, *SHAPE)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
def test_npy_is_taken_in_every_float_byte_order_and_memory_order(
    dtype: str, order: Any, shape: tuple[int, ...]
) -> None:
    stored = np.asarray(VALUES.reshape(shape), dtype=dtype, order=order)
    expected = VALUES.astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(values_of(npy(stored)), expected)


@pytest.mark.parametrize("shape", [SHAPE, (1, *SHAPE)])
@pytest.mark.parametrize(("name", "dtype"), [("F16", "<f2"), ("F32", "<f4"), ("F64", "<f8")])
def test_safetensors_is_taken_in_every_float(name: str, dtype: str, shape: tuple[int, ...]) -> None:
    stored = VALUES.astype(dtype)
    expected = stored.astype(np.float32)
    np.testing.assert_array_equal(values_of(safetensors(stored, name, shape)), expected)


def test_bfloat16_is_widened_exactly() -> None:
    stored = bfloat16(VALUES)
    expected = (stored.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(values_of(safetensors(stored, "BF16", SHAPE)), expected)


def test_a_note_and_any_name_beside_the_tensor_are_no_matter() -> None:
    data = safetensors(VALUES, "F32", SHAPE, __metadata__={"format": "pt"})
    np.testing.assert_array_equal(values_of(data), VALUES)
    renamed = data.replace(b'"latents"', b'"sample!"')
    np.testing.assert_array_equal(values_of(renamed), VALUES)


@pytest.mark.parametrize("data", [npy(VALUES), safetensors(VALUES, "F32", SHAPE)])
def test_the_header_is_known_from_the_first_bytes_and_never_wrong(data: bytes) -> None:
    whole = read_header(data, complete=True)
    assert whole is not None
    assert (whole.width, whole.height) == (96, 72)
    answers = [read_header(data[:size], complete=False) for size in range(len(data) + 1)]
    known = next(size for size, answer in enumerate(answers) if answer is not None)
    assert known < 200
    assert answers == [None] * known + [whole] * (len(data) + 1 - known)


@pytest.mark.parametrize("data", [npy(VALUES), safetensors(VALUES, "F32", SHAPE)])
def test_a_file_of_another_length_than_its_header_promises_is_corrupt(data: bytes) -> None:
    for size in range(len(data)):
        with pytest.raises(CorruptSource):
            decode(data[:size], LIMITS)
    with pytest.raises(CorruptSource):
        decode(data + b"\0", LIMITS)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), 1e300, -1e300, MOST_VALUE * 1.01]
)
@pytest.mark.parametrize("dtype", ["<f8", ">f8"])
def test_one_number_that_is_no_latents_is_found(value: float, dtype: str) -> None:
    wide = VALUES.astype(dtype)
    wide[3, 8, 11] = value
    with pytest.raises(InvalidLatents, match="values"):
        decode(npy(wide), LIMITS)
    with pytest.raises(InvalidLatents, match="values"):
        decode(safetensors(wide.astype("<f8"), "F64", SHAPE), LIMITS)


@pytest.mark.parametrize("value", [0.0, MOST_VALUE, -MOST_VALUE])
def test_what_is_within_the_bound_is_taken(value: float) -> None:
    assert values_of(npy(np.full(SHAPE, value)))[0, 0, 0] == value


@pytest.mark.parametrize(
    "shape",
    [(), (4,), (9, 12), (3, 9, 12), (16, 9, 12), (9, 12, 4), (2, 4, 9, 12), (1, 1, 4, 9, 12),
     (4, 9, 0), (0,), (1, 3, 64, 64)],
)  # fmt: skip
def test_what_is_not_one_latent_picture_is_refused_in_either_form(shape: tuple[int, ...]) -> None:
    zeros = np.zeros(shape, np.float32)
    for data in (npy(zeros), safetensors(zeros, "F32", shape)):
        with pytest.raises(InvalidLatents):
            decode(data, LIMITS)
        with pytest.raises(InvalidLatents):
            read_header(data, complete=True)


@pytest.mark.parametrize("dtype", ["|u1", "<i8", "<u2", "|b1", "<c8", "<U4", "<M8[s]"])
def test_other_numbers_are_refused(dtype: str) -> None:
    with pytest.raises(InvalidLatents, match="float16"):
        decode(npy(np.zeros(SHAPE, dtype)), LIMITS)


@pytest.mark.parametrize("dtype", ["I64", "U8", "BOOL", "F8_E4M3", "no such"])
def test_other_dtypes_of_safetensors_are_refused(dtype: str) -> None:
    with pytest.raises(InvalidLatents, match="float16"):
        decode(safetensors(VALUES, dtype, SHAPE), LIMITS)


@pytest.mark.parametrize(
    "objects", [np.array([{"a": 1}], dtype=object), np.zeros(3, [("a", "O"), ("b", "f4")])]
)
def test_objects_are_never_unpickled(objects: Any) -> None:
    with pytest.raises(InvalidLatents, match="pickled"):
        decode(npy(objects, allow_pickle=True), LIMITS)


def test_a_structured_array_is_refused() -> None:
    with pytest.raises(InvalidLatents, match="float16"):
        decode(npy(np.zeros(3, [("a", "f4")])), LIMITS)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        "[]",
        "{}",
        "{'descr': '<f4'}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 7}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 9.0, 12)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, True, 12)}",
        "__import__('os').abort()",
        "(" * 3000,
        "-" * 3000 + "1",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 9, 12)} + 1",
    ],
)
def test_a_damaged_npy_header_is_corrupt_and_nothing_in_it_runs(header: str) -> None:
    with pytest.raises(CorruptSource):
        decode(npy_header(header, VALUES.tobytes()), LIMITS)


@pytest.mark.parametrize("side", [-1, 0, 2**31, 2**63, 10**40])
def test_a_side_beyond_all_reason_allocates_nothing(side: int) -> None:
    with pytest.raises((TooLarge, InvalidLatents)):
        decode(npy_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (4, 9, {side})}}"),
               LIMITS)  # fmt: skip
    with pytest.raises((TooLarge, InvalidLatents)):
        decode(safetensors(b"", "F32", (4, 9, side)), LIMITS)


@pytest.mark.parametrize("number", ["9" * 4300, "-" + "9" * 4300, "0x" + "f" * 9000])
@pytest.mark.parametrize("place", ["descr", "channels", "height", "width"])
def test_a_number_longer_than_python_writes_is_an_error_of_the_job(place: str, number: str) -> None:
    """Its digits fit a header, but neither `str` nor a message."""
    said = {"descr": "'<f4'", "channels": "4", "height": "9", "width": "12"} | {place: number}
    sides = f"{said['channels']}, {said['height']}, {said['width']}"
    text = f"{{'descr': {said['descr']}, 'fortran_order': False, 'shape': ({sides})}}"
    entry = f'{{"dtype": "F32", "shape": [{sides}], "data_offsets": [0, {number}]}}'
    header = f'{{"latents": {entry}}}'.encode()
    for data in (npy_header(text), struct.pack("<Q", len(header)) + header):
        with pytest.raises(JobError):
            decode(data, LIMITS)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"latents": 7}',
        b'{"latents": {"dtype": "F32", "shape": [4, 9, 12]}}',
        b'{"latents": {"dtype": "F32", "shape": "4", "data_offsets": [0, 1728]}}',
        b'{"latents": {"dtype": "F32", "shape": [4, 9, 12], "data_offsets": [0]}}',
        b'{"latents": {"dtype": "F32", "shape": [4, 9, 12], "data_offsets": [4, 1732]}}',
        b'{"latents": {"dtype": "F32", "shape": [4, 9, 12], "data_offsets": [0, 4]}}',
        b'{"latents": {"dtype": "F32", "shape": [4, 9, 12.0], "data_offsets": [0, 1728]}}',
        b'{"a":' * 3000,
        b"\xff\xfe\xfd",
    ],
)
def test_a_damaged_safetensors_header_is_corrupt(header: bytes) -> None:
    data = struct.pack("<Q", len(header)) + header.ljust(4) + VALUES.tobytes()
    with pytest.raises((CorruptSource, JobError)):
        decode(data, LIMITS)


def test_a_name_that_stands_twice_is_corrupt() -> None:
    """Two readers could take two different tensors out of one file."""
    entry = json.dumps({"dtype": "F32", "shape": SHAPE, "data_offsets": [0, VALUES.nbytes]})
    header = f'{{"latents": {entry}, "latents": {entry}}}'.encode()
    with pytest.raises(CorruptSource):
        decode(struct.pack("<Q", len(header)) + header + VALUES.tobytes(), LIMITS)


@pytest.mark.parametrize("length", [17 * 1024, 2**31, 2**39])
def test_a_header_that_claims_to_be_huge_is_refused_unread(length: int) -> None:
    with pytest.raises(InvalidLatents, match="header"):
        read_header(struct.pack("<Q", length) + b"{" + bytes(100), complete=False)
    version_2 = b"\x93NUMPY\x02\0" + struct.pack("<I", min(length, 2**32 - 1)) + bytes(100)
    with pytest.raises(InvalidLatents, match="header"):
        read_header(version_2, complete=False)


def test_version_2_of_npy_is_taken_and_version_3_never_needed() -> None:
    old = npy(VALUES)
    header = old[10:128]
    newer = b"\x93NUMPY\x02\0" + struct.pack("<I", len(header)) + header + old[128:]
    np.testing.assert_array_equal(values_of(newer), VALUES)
    with pytest.raises(InvalidLatents, match="version 3"):
        decode(b"\x93NUMPY\x03\0" + newer[8:], LIMITS)


def test_limits_hold_to_the_latent() -> None:
    limits = SizeLimits(max_pixels=96 * 72, max_side=96)
    decode(npy(VALUES), limits)
    for shape in ((4, 9, 13), (4, 10, 12)):
        with pytest.raises(TooLarge):
            decode(npy(np.zeros(shape, np.float32)), limits)


@given(
    data=st.sampled_from([npy(VALUES), safetensors(VALUES, "F32", SHAPE)]),
    place=st.integers(0, 160),
    byte=st.integers(0, 255),
)
def test_any_damage_to_a_header_ends_in_latents_or_an_error_of_the_job(
    data: bytes, place: int, byte: int
) -> None:
    damaged = bytearray(data)
    damaged[place] = byte
    try:
        decoded = decode(bytes(damaged), LIMITS)
    except JobError:
        return
    assert isinstance(decoded, Latents)
    assert np.isfinite(decoded.values).all()
