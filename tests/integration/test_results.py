"""What people get: each format, its name, its preview, and what the object says of itself."""

import io

import numpy as np
import pytest
from PIL import Image
from tests.inputs.files import faded, latents, npy, saved, scene
from tests.workshop import Make, twice

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.formats import ResultFormat, SourceFormat
from twofold_schema.job import Job, Output
from twofold_schema.lanes import SizeLimits
from twofold_schema.settings import LimitSettings
from twofold_schema.states import JobState
from twofold_worker.codec import latents as latents_codec

LIMITS = SizeLimits(max_pixels=10**7, max_side=4096)
PICTURES = [form for form in ResultFormat if form is not ResultFormat.LATENTS]


def preview_of(shop_file: bytes) -> Image.Image:
    """A stored preview, loaded."""
    with Image.open(io.BytesIO(shop_file)) as image:
        image.load()
        assert image.format == "WEBP"
        return image


@pytest.mark.parametrize("form", PICTURES)
def test_a_picture_is_stored_in_the_format_that_was_asked_for(
    workshop: Make, form: ResultFormat
) -> None:
    source = scene(96, 64)
    with workshop() as shop:
        (job,) = shop.wait_settled(shop.submit(saved(source, "PNG"), output=Output(format=form)))

    assert job.result is not None, job.error
    assert job.result.uri.endswith(form.suffix)
    assert (job.result.format, job.result.content_type) == (form, form.media_type)
    difference = shop.result(job).astype(int) - twice(source)
    assert abs(difference).mean() <= (3 if form.is_lossy else 0)


@pytest.mark.parametrize("form", PICTURES)
def test_transparency_is_kept_where_the_format_can(workshop: Make, form: ResultFormat) -> None:
    with workshop() as shop:
        data = saved(faded(scene(96, 64)), "PNG")
        (job,) = shop.wait_settled(shop.submit(data, output=Output(format=form)))

    pixels = shop.result(job)
    assert pixels.shape == (128, 192, 3 if form is ResultFormat.JPEG else 4)
    if form is ResultFormat.JPEG:
        assert pixels[:, -2:].mean() > 250, "what is transparent is white"


@pytest.mark.parametrize("source", [saved(scene(65, 96), "PNG"), npy(latents(12, 9))])
def test_latents_stay_latents_and_may_be_a_source_again(workshop: Make, source: bytes) -> None:
    wanted = Output(format=ResultFormat.LATENTS)
    with workshop() as shop:
        (job,) = shop.wait_settled(shop.submit(source, output=wanted))
        assert job.result is not None, job.error
        data = shop.file(job)
        (again,) = shop.wait_settled(shop.submit(data))

    values = latents_codec.decode(data, SourceFormat.SAFETENSORS, LIMITS)
    width, height = job.result.width, job.result.height
    assert values.shape == (4, -(-height // 8), -(-width // 8))
    assert job.result.uri.endswith(".safetensors")
    assert again.result is not None, again.error
    assert (again.result.width, again.result.height) == (
        2 * 8 * values.shape[2],
        2 * 8 * values.shape[1],
    )


def test_latents_and_pictures_may_be_wanted_in_one_batch(workshop: Make) -> None:
    shop = workshop()
    data = saved(scene(64, 64), "PNG")
    (first,) = shop.submit(data)
    (second,) = shop.submit(data, output=Output(format=ResultFormat.LATENTS))
    with shop:
        jobs = shop.wait_settled([first, second])
    assert [job.result and job.result.rungs for job in jobs] == [(2,), (2,)]
    assert [job.result and job.result.format for job in jobs] == ["png", "latents"]


@pytest.mark.parametrize("form", ResultFormat)
@pytest.mark.parametrize("source", [saved(scene(300, 200), "PNG"), npy(latents(25, 38))])
def test_a_small_preview_lies_beside_every_result(
    workshop: Make, form: ResultFormat, source: bytes
) -> None:
    with workshop() as shop:
        (job,) = shop.wait_settled(shop.submit(source, output=Output(format=form)))

    assert job.result is not None, job.error
    assert job.result.preview is not None
    assert job.result.preview.removesuffix(".preview.webp") == job.result.uri.removesuffix(
        form.suffix
    )
    data = shop.storage.read(ArtifactUri.parse(job.result.preview), max_bytes=50_000).data
    preview = preview_of(data)
    ratio = job.result.width / job.result.height
    assert max(preview.size) == 256
    assert preview.width / preview.height == pytest.approx(ratio, rel=0.02)


def test_a_preview_shows_the_result(workshop: Make) -> None:
    source = scene(300, 200)
    with workshop() as shop:
        (job,) = shop.wait_settled(shop.submit(saved(source, "PNG")))
    assert job.result is not None
    assert job.result.preview is not None
    data = shop.storage.read(ArtifactUri.parse(job.result.preview), max_bytes=50_000).data
    preview = preview_of(data)
    expected = np.asarray(source.resize(preview.size, Image.Resampling.BOX), dtype=int)
    assert abs(np.asarray(preview.convert("RGB"), dtype=int) - expected).mean() < 4


def test_previews_can_be_switched_off(workshop: Make) -> None:
    with workshop(preview_side=0) as shop:
        (job,) = shop.wait_settled(shop.submit(saved(scene(96, 64), "PNG")))
    assert job.result is not None
    assert job.result.preview is None
    assert [entry.uri for entry in shop.storage.list(ArtifactUri.parse(shop.results))] == [
        ArtifactUri.parse(job.result.uri)
    ]


def _place(job: Job) -> str:
    assert job.result is not None, job.error
    return job.result.uri.removeprefix(job.output_prefix)


def test_a_result_lies_in_the_folder_that_was_asked_for(workshop: Make) -> None:
    with workshop() as shop:
        data = saved(scene(96, 64), "PNG")
        (plain,) = shop.wait_settled(shop.submit(data))
        (named,) = shop.wait_settled(shop.submit(data, output=Output(name="cats/{job} x2")))

    assert _place(plain) == f"/{plain.id}/1-{plain.run_id}.png"
    assert _place(named).replace("%20", " ") == f"/cats/{named.id} x2/1-{named.run_id}.png"


@pytest.mark.parametrize(
    ("form", "fits"),
    [(ResultFormat.WEBP, False), (ResultFormat.WEBP_LOSSLESS, False), (ResultFormat.PNG, True)],
)
@pytest.mark.parametrize("size", [None, (8192, 1)])
def test_a_picture_that_its_format_cannot_hold_never_reaches_the_device(
    workshop: Make, form: ResultFormat, size: tuple[int, int] | None, *, fits: bool
) -> None:
    with workshop(limits=LimitSettings(max_side=16384)) as shop:
        data = saved(Image.new("L", (8192, 1)), "PNG")
        (job,) = shop.wait_settled(shop.submit(data, size=size, output=Output(format=form)))
    assert (job.state is JobState.SUCCEEDED) == fits, job.errors
    assert [error.code for error in job.errors] == ([] if fits else ["too_large"])
