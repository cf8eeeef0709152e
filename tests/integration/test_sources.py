"""What people send, on its way through the worker: each kind, and sources that change."""

from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import text
from tests.factories import job_of
from tests.inputs import page
from tests.inputs.catalogue import CATALOGUE, Input
from tests.inputs.files import latents, npy, saved
from tests.pictures import encoded, picture
from tests.upscalers import NearestUpscaler
from tests.workshop import Make, Workshop, promote_now, twice

from twofold_schema import lanes
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.job import Parameters
from twofold_schema.ledger import requests
from twofold_schema.settings import LimitSettings
from twofold_schema.states import JobState
from twofold_schema.storage.port import Content
from twofold_worker.upscaler.port import Request, Sample

AGAIN = "write it anew: python -m tests.inputs.page"


class Counting(NearestUpscaler):
    """Counts what reaches the device."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def begin(self, request: Request, *, careful: bool = False) -> Sample:
        self.requests.append(request)
        return super().begin(request, careful=careful)


@pytest.mark.parametrize("one", CATALOGUE, ids=[one.name for one in CATALOGUE])
def test_every_kind_of_input_ends_as_the_catalogue_says(workshop: Make, one: Input) -> None:
    """What is bad never reaches the device and is not tried again."""
    device = Counting()
    with workshop(upscaler=device) as shop:
        (job,) = shop.wait_settled(shop.submit(one.make(), suffix=one.suffix))

    if one.comes_to == "succeeded":
        assert job.state is JobState.SUCCEEDED, job.errors
        assert one.size is not None
        assert job.result is not None
        assert (job.result.width, job.result.height) == tuple(2 * side for side in one.size)
        assert shop.result(job).shape[:2] == (job.result.height, job.result.width)
    else:
        assert (job.state, [error.code for error in job.errors]) == (
            JobState.FAILED,
            [one.comes_to],
        )
        assert device.requests == []
    assert page.row(one, job) in page.block(page.PAGE.read_text(encoding="utf-8")), AGAIN


def test_the_page_has_a_row_for_every_input_and_no_more() -> None:
    rows = page.block(page.PAGE.read_text(encoding="utf-8")).splitlines()
    assert [row.split(" | ")[0] for row in rows] == [f"| {one.what}" for one in CATALOGUE], AGAIN


def test_a_source_that_is_too_long_is_not_read_to_its_end_in_search_of_its_size(
    workshop: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have terabytes."""
    jpeg = encoded(40, 30, form="JPEG")
    notes = b"\xff\xef\xff\xff" + bytes(0xFFFF - 2)
    with workshop(limits=LimitSettings(max_source_bytes=200_000)) as shop:
        read: list[int] = []
        read_head = shop.storage.read_head

        def noted(uri: ArtifactUri, *, length: int) -> Content:
            content = read_head(uri, length=length)
            read.append(len(content.data))
            return content

        monkeypatch.setattr(shop.storage, "read_head", noted)
        (job,) = shop.wait_settled(shop.submit(jpeg[:2] + notes * 20 + jpeg[2:]))
    assert [error.code for error in job.errors] == ["source_too_large"]
    assert sum(read) <= 200_000


def test_a_picture_with_four_channels_is_never_taken_for_latents(workshop: Make) -> None:
    """The stock pipeline would make 1024 pixels of a side of 64."""
    device = Counting()
    rgba = picture(64, 64).convert("RGBA")
    with workshop(upscaler=device) as shop:
        (job,) = shop.wait_settled(shop.submit(saved(rgba, "PNG")))
    assert job.result is not None
    assert (job.result.width, job.result.height) == (128, 128)
    assert [request.source.shape for request in device.requests] == [(64, 64, 3)]


def test_latents_and_pictures_of_one_size_share_a_batch(workshop: Make) -> None:
    shop = workshop()
    job_ids = shop.submit(encoded(64, 64), npy(latents()), encoded(64, 64), npy(latents(seed=2)))
    with shop:
        jobs = shop.wait_settled(job_ids)

    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 4, [job.error for job in jobs]
    assert [job.attempts for job in jobs] == [1] * 4
    assert {job.lane for job in jobs} == {jobs[0].lane}
    assert {job.result and job.result.rungs for job in jobs} == {(4,)}


@pytest.mark.parametrize("size", [None, (40, 30)], ids=["unmeasured", "stated"])
def test_the_content_that_a_job_is_about_is_noted_when_it_is_first_read(
    workshop: Make, size: tuple[int, int] | None
) -> None:
    with workshop() as shop:
        (job,) = shop.wait_settled(shop.submit(encoded(40, 30), size=size))

    content = shop.storage.read(ArtifactUri.parse(job.source), max_bytes=10**6)
    assert job.source_version == content.version


def test_a_source_that_is_overwritten_between_two_reads_of_one_claim_ends_the_job(
    workshop: Make,
) -> None:
    """Also when it is of the same size. A retry takes it as it is then."""
    shop: Workshop
    first, second = encoded(40, 30, seed=1), encoded(40, 30, seed=2)

    def overwrite(verb: str, job_id: UUID) -> None:
        if verb == "measure":
            path = ArtifactUri.parse(job_of(shop.engine, job_id).source).path
            if path.read_bytes() == first:
                path.write_bytes(second)

    shop = workshop(watch=overwrite)
    with shop:
        (job_id,) = shop.submit(first)
        (job,) = shop.wait_settled([job_id])
        assert (job.state, [error.code for error in job.errors]) == (
            JobState.FAILED,
            ["source_changed"],
        )
        with shop.engine.begin() as connection:
            requests.retry(connection, [job_id])
        (job,) = shop.wait_final([job_id])

    assert job.state is JobState.SUCCEEDED
    np.testing.assert_array_equal(shop.result(job), twice(picture(40, 30, seed=2)))


def test_a_source_that_is_overwritten_between_two_claims_ends_the_job(workshop: Make) -> None:
    shop = workshop()
    changed, same = shop.submit(encoded(40, 30), encoded(41, 30))
    with shop.engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET source_version = 'earlier' WHERE id = :id"), {"id": changed}
        )
    with shop:
        jobs = shop.wait_settled([changed, same])
    assert [job.state for job in jobs] == [JobState.FAILED, JobState.SUCCEEDED]
    assert [error.code for job in jobs for error in job.errors] == ["source_changed"]


def test_latents_whose_size_was_stated_as_a_pictures_cost_no_attempt(workshop: Make) -> None:
    with workshop() as shop:
        (job,) = shop.wait_settled(shop.submit(npy(latents(8, 8)), size=(64, 64)))

    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)
    assert shop.result(job).shape == (128, 128, 3)


@pytest.mark.parametrize("lane", ["1/any/64x64/steps2/guidance0/free", "2/any/128x64/free"])
def test_a_job_of_a_lane_that_is_not_its_own_is_measured_anew(workshop: Make, lane: str) -> None:
    """Its producer computes lanes in another way, or it wrote them before the last upgrade."""
    shop = workshop()
    (job_id,) = shop.submit(encoded(64, 64), size=(64, 64))
    with shop.engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET lane = :lane"), {"lane": lane})
    with shop:
        (job,) = shop.wait_settled([job_id])
        assert [error.code for error in job.errors] == ["mismeasured"]
        assert job.lane == "2/any/64x64/free"
        promote_now(shop.engine)
        (job,) = shop.wait_final([job_id])

    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 2)


def test_latents_of_stated_size_share_the_lane_of_measured_ones(workshop: Make) -> None:
    measure = lanes.measure(Parameters(seed=7, steps=2), 64, 64, from_latents=True)
    with workshop() as shop:
        (job,) = shop.wait_settled(shop.submit(npy(latents(8, 8))))
    assert job.lane == measure.lane
