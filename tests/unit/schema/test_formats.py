"""What a file is, its first bytes say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.inputs.catalogue import CATALOGUE, GOOD_LATENTS, GOOD_PICTURES, Input

from twofold_schema.formats import SNIFF_BYTES, ResultFormat, SourceFormat, sniff


@pytest.mark.parametrize("one", GOOD_PICTURES + GOOD_LATENTS, ids=lambda one: str(one.name))
def test_every_good_file_is_known_by_its_first_bytes_alone(one: Input) -> None:
    data = one.make()
    found = sniff(data[:SNIFF_BYTES])
    assert found is sniff(data)
    assert found is not None
    assert found.is_latents == (one in GOOD_LATENTS)


@pytest.mark.parametrize("name", ["text", "gif", "tiff", "svg", "npz", "pt", "pickle", "empty"])
def test_other_files_are_nothing(name: str) -> None:
    (one,) = (one for one in CATALOGUE if one.name == name)
    assert sniff(one.make()) is None


@given(st.text(st.characters(exclude_characters="\0"), min_size=SNIFF_BYTES))
def test_no_text_is_taken_for_latents_and_little_for_a_picture(text: str) -> None:
    found = sniff(text.encode("utf-8", "surrogatepass"))
    assert found is None or (found is SourceFormat.WEBP and text.startswith("RIFF"))


@pytest.mark.parametrize("form", ResultFormat)
def test_each_format_of_results_has_its_names(form: ResultFormat) -> None:
    assert form.suffix.startswith(".")
    assert "/" in form.media_type
    assert form.max_side > 16_000
    assert form.is_lossy == (form in {"webp", "jpeg"})
