"""Pictures and latents on the lattice."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from twofold_schema.lanes import LATTICE
from twofold_worker.codec.source import Latents, Picture, _padded

pictures = arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


@given(pixels=pictures, more_rows=st.integers(0, 70), more_columns=st.integers(0, 70))
def test_padding_reflects_to_and_fro_from_any_size(
    pixels: NDArray[np.uint8], more_rows: int, more_columns: int
) -> None:
    def source(position: int, size: int) -> int:
        """Walk back and forth between the edges, standing on each once."""
        there_and_back: list[int] = [*range(size), *range(size - 2, 0, -1)]
        return there_and_back[position % len(there_and_back)]

    height, width = pixels.shape[0] + more_rows, pixels.shape[1] + more_columns
    rows = [source(row, pixels.shape[0]) for row in range(height)]
    columns = [source(column, pixels.shape[1]) for column in range(width)]
    padded = _padded(pixels, height, width, axis=0)
    assert np.array_equal(padded, pixels[np.ix_(rows, columns)])


@given(height=st.integers(1, 70), width=st.integers(1, 130))
def test_a_picture_is_padded_to_the_lattice_and_begins_as_it_was(height: int, width: int) -> None:
    pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    picture = Picture(pixels=pixels, alpha=None)
    padded = picture.on_the_lattice()
    assert picture.size == (width, height)
    assert not padded.shape[0] % LATTICE
    assert not padded.shape[1] % LATTICE
    assert np.array_equal(padded[:height, :width], pixels)


@given(height=st.integers(8, 20), width=st.integers(8, 20))
def test_latents_are_padded_like_the_picture_they_stand_for(height: int, width: int) -> None:
    values = np.arange(4 * height * width, dtype=np.float32).reshape(4, height, width)
    latents = Latents(values=values)
    stands_for = Picture(pixels=np.zeros((8 * height, 8 * width, 3), np.uint8), alpha=None)
    padded = latents.on_the_lattice()
    assert latents.size == stands_for.size
    assert padded.shape == (4, *(side // 8 for side in stands_for.on_the_lattice().shape[:2]))
    assert np.array_equal(padded[:, :height, :width], values)
    assert np.array_equal(padded[1], _padded(values[1], *padded.shape[1:], axis=0))
