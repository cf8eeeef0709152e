"""What the Python door takes and refuses, and what it writes down of it."""

import io
import os
import struct
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.house import House
from tests.inputs.files import bfloat16, chunk, latents, npy, safetensors, saved, scene
from tests.pictures import encoded, picture

from twofold_producer.producer import Producer
from twofold_producer.submit import names
from twofold_producer.submit.request import JobRequest
from twofold_schema import lanes
from twofold_schema.artifacts import ArtifactUri, publish_place, result_place
from twofold_schema.errors import (
    InvalidLatents,
    InvalidParameter,
    InvalidUri,
    PlaceNotAllowed,
    SourceUnreadable,
    TooLarge,
    TwofoldError,
)
from twofold_schema.ids import new_id
from twofold_schema.job import Claim, Job
from twofold_schema.states import JobState

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SOURCE = "s3://twofold/cat.png"


def count_jobs(house: House) -> int:
    """How many jobs are committed."""
    return int(house.rows("SELECT count(*) AS n FROM jobs")[0]["n"])


def framed(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG file that says it is so large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


class TestSources:
    """What a picture may be given as."""

    def test_a_uri_is_written_down_as_it_is(self, producer: Producer, bucket: str) -> None:
        uri = f"s3://{bucket}/ü [1] %20?.png"

        accepted = producer.submit(uri)

        job = producer.get(accepted.job_id)
        assert (accepted.created, job.source, job.state) == (True, uri, JobState.QUEUED)
        assert job.parameters.seed is not None
        assert job.lane is None

    def test_a_file_and_its_bytes_are_one_upload(self, producer: Producer, tmp_path: Path) -> None:
        data = encoded(form="JPEG")
        path = tmp_path / "cat.jpg"
        path.write_bytes(data)

        sources = {
            producer.get(producer.submit(given).job_id).source for given in (path, str(path), data)
        }

        (uri,) = sources
        assert producer.storage.read(ArtifactUri.parse(uri), max_bytes=10**6).data == data

    def test_an_upload_says_what_it_is(
        self, producer: Producer, s3: "S3Client", bucket: str
    ) -> None:
        uri = ArtifactUri.parse(producer.get(producer.submit(encoded(form="JPEG")).job_id).source)

        assert s3.head_object(Bucket=bucket, Key=uri.key)["ContentType"] == "image/jpeg"

    def test_a_pil_image_keeps_its_pixels_and_states_its_size(self, producer: Producer) -> None:
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            image = Image.new(mode, (30, 20))
            image.putpixel((3, 2), (1,) * len(mode) if mode in {"LA", "RGB", "RGBA"} else 1)

            job = producer.get(producer.submit(image).job_id)

            stored = producer.storage.read(ArtifactUri.parse(job.source), max_bytes=10**6).data
            with Image.open(io.BytesIO(stored)) as again:
                assert (again.format, again.mode, again.size) == ("PNG", mode, image.size)
                assert again.tobytes() == image.tobytes()
            assert (job.width, job.height, job.pixels) == (30, 20, 600)

    def test_a_pil_image_is_what_its_owner_sees(self, producer: Producer) -> None:
        """Its pixels are taken as they are: an orientation kept beside them must not turn them."""
        exif = Image.Exif()
        exif[0x0112] = 6
        buffer = io.BytesIO()
        picture(30, 20).save(buffer, "JPEG", exif=exif)
        with Image.open(buffer) as image:
            job = producer.get(producer.submit(image).job_id)

        stored = producer.storage.read(ArtifactUri.parse(job.source), max_bytes=10**6).data
        with Image.open(io.BytesIO(stored)) as again:
            assert not again.getexif()
            assert again.size == (30, 20)

    def test_a_file_cut_anywhere_is_taken_or_unreadable(self, producer: Producer) -> None:
        """What is wrong behind the header is the worker's to find."""
        for form in ("PNG", "JPEG"):
            data = encoded(8, 8, form=form)
            for length in range(0, len(data), 7):
                with suppress(SourceUnreadable):
                    producer.submit(data[:length])

    def test_a_refused_job_leaves_no_row(self, house: House, producer: Producer) -> None:
        for bad in ("s3://closed/x", b"", "/nowhere"):
            with pytest.raises(TwofoldError):
                producer.submit(bad, key="key")

        assert count_jobs(house) == 0
        assert house.rows("SELECT * FROM job_keys") == []


class TestOddSources:
    """What is no source is named; what is one by another name is taken."""

    @pytest.mark.parametrize("source", [None, 3, [b"x"], {"a": 1}, io.BytesIO(b"x")])
    def test_what_is_no_source_is_said_in_one_sentence(
        self, guard: Producer, source: object
    ) -> None:
        with pytest.raises(InvalidParameter) as refused:
            guard.submit(source)  # type: ignore[arg-type]

        assert refused.value.message == (
            f"The job was not accepted: source: a {type(source).__name__} is no source; give a "
            "URI, a path, a file's bytes, a PIL image, or latents as a tensor or array."
        )

    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    def test_bytes_of_any_kind_are_bytes(self, kind: type[Any]) -> None:
        """Text among them is not taken for a path."""
        assert JobRequest.of(kind(b"cat.png")).source == b"cat.png"

    def test_whatever_stands_for_a_path_is_one(self, tmp_path: Path) -> None:
        with os.scandir(tmp_path.parent) as entries:
            entry = next(entries)

        assert JobRequest.of(entry).source == Path(entry)  # type: ignore[arg-type]


class TestRefusals:
    """What is refused at the door, before any server is asked."""

    @pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "F", "I", "PA", "RGBa"])
    def test_a_mode_that_png_lacks_is_refused_with_advice(self, guard: Producer, mode: str) -> None:
        with pytest.raises(SourceUnreadable, match=f"mode {mode} .* convert it to RGB"):
            guard.submit(Image.new(mode, (30, 20)))

    @pytest.mark.parametrize(
        "bad",
        [
            b"",
            b"no picture",
            b"GIF89a" + b"\x00" * 100,
            encoded()[:25],
            framed(10, 10, chunk(b"zTXt", b"a\x00\x00" + zlib.compress(b"a" * 10**8))),
            "/nowhere/cat.png",
            "a\x00b",
            "/",
            "",
            Image.new("RGB", (0, 0)),
        ],
        ids=[
            "nothing",
            "text",
            "gif",
            "cut-short",
            "text-bomb",
            "no-file",
            "nul-in-path",
            "folder",
            "no-path",
            "no-pixels",
        ],
    )
    def test_what_is_no_picture_is_unreadable(self, guard: Producer, bad: Any) -> None:
        with pytest.raises(SourceUnreadable):
            guard.submit(bad)

    @pytest.mark.parametrize(
        "bad",
        [
            framed(4097, 1),
            framed(4096, 4096),
            framed(10_000, 10_000),  # Pillow warns
            framed(30_000, 30_000),  # Pillow refuses
            Image.new("1", (5000, 1)),
            b"\x00" * (64 * 2**20 + 1),
        ],
        ids=["side", "pixels", "bomb-warning", "bomb", "image", "bytes"],
    )
    def test_what_is_over_a_limit_is_too_large(self, guard: Producer, bad: Any) -> None:
        with pytest.raises(TooLarge, match=r"at most|too large"):
            guard.submit(bad)

    def test_more_steps_than_are_allowed_are_refused(self, strict_guard: Producer) -> None:
        with pytest.raises(InvalidParameter, match=r"at most 30 .*TWOFOLD_MAX_STEPS"):
            strict_guard.submit(SOURCE, steps=31)

    @pytest.mark.parametrize(
        ("source", "size"),
        [
            (SOURCE, {"width": 513, "height": 512}),
            (Image.new("RGB", (513, 512)), {}),
            (encoded(513, 512), {}),
        ],
        ids=["stated", "image", "bytes"],
    )
    def test_what_fits_no_pool_is_too_large(
        self, strict_guard: Producer, source: Any, size: dict[str, Any]
    ) -> None:
        with pytest.raises(TooLarge, match=r"takes 262144 \(TWOFOLD_POOLS"):
            strict_guard.submit(source, **size)

    def test_a_stated_size_over_the_limit_is_too_large(self, guard: Producer) -> None:
        with pytest.raises(TooLarge):
            guard.submit(SOURCE, width=4097, height=1)

    @pytest.mark.parametrize("text", ["s3://bucket", "http://host/x.png", "s3://b/../x"])
    def test_a_bad_uri_is_refused(self, guard: Producer, text: str) -> None:
        with pytest.raises(InvalidUri):
            guard.submit(text)

    def test_closed_places_are_refused_for_source_and_result(self, guard: Producer) -> None:
        with pytest.raises(PlaceNotAllowed):
            guard.submit("s3://someone-else/cat.png")
        with pytest.raises(PlaceNotAllowed):
            guard.submit("file:///etc/passwd")
        with pytest.raises(PlaceNotAllowed):
            guard.submit(SOURCE, output_prefix="s3://someone-else/results")

    @pytest.mark.parametrize(
        "options",
        [
            {"colour": "red"},
            {"steps": 0},
            {"width": 10},
            {"key": ""},
            {"key": "\x00"},
            {"metadata": {"name": "\x00"}},
            {"metadata": {str(number): "" for number in range(17)}},
            {"model_revision": "\x00"},
            {"finish_by": datetime(2030, 1, 1)},  # noqa: DTZ001 - that is what is wrong
            {
                "start_at": datetime(2030, 1, 2, tzinfo=UTC),
                "finish_by": datetime(2030, 1, 1, tzinfo=UTC),
            },
        ],
        ids=str,
    )
    def test_a_bad_option_is_named(self, guard: Producer, options: dict[str, Any]) -> None:
        with pytest.raises(InvalidParameter, match=f"{next(iter(options))}|request"):
            guard.submit(SOURCE, **options)

    def test_options_beside_a_whole_request_are_not_swallowed(self, guard: Producer) -> None:
        with pytest.raises(InvalidParameter, match="key"):
            guard.submit(JobRequest(source=SOURCE), key="lost")


class TestLatents:
    """What a text-to-picture pipeline returns goes in as it is."""

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("batch", [False, True])
    def test_a_torch_tensor_is_stored_as_safetensors_with_its_size(
        self, producer: Producer, dtype: torch.dtype, *, batch: bool
    ) -> None:
        tensor = torch.from_numpy(latents(12, 9)).to(dtype).requires_grad_()
        given = tensor[None] if batch else tensor

        job = producer.get(producer.submit(given).job_id)

        stored = producer.storage.read(ArtifactUri.parse(job.source), max_bytes=10**6).data
        assert decoded_latents(stored).tolist() == tensor.detach().float().tolist()
        assert (job.width, job.height) == (72, 96)
        assert job.lane == lanes.measure(job.parameters, 72, 96, from_latents=True).lane

    def test_a_tensor_that_is_a_view_of_another_is_stored_as_it_is_seen(
        self, producer: Producer
    ) -> None:
        tensor = torch.from_numpy(latents(16, 16))[:, ::2, ::2]

        job = producer.get(producer.submit(tensor).job_id)

        stored = producer.storage.read(ArtifactUri.parse(job.source), max_bytes=10**6).data
        assert decoded_latents(stored).tolist() == tensor.tolist()

    @pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
    def test_a_numpy_array_is_taken_too(self, producer: Producer, dtype: str) -> None:
        array = latents(8, 9).astype(dtype)

        job = producer.get(producer.submit(array).job_id)

        stored = producer.storage.read(ArtifactUri.parse(job.source), max_bytes=10**6).data
        assert decoded_latents(stored).tolist() == array.astype(np.float32).tolist()
        assert (job.width, job.height) == (72, 64)

    def test_a_batch_of_them_is_taken_one_by_one(self, producer: Producer) -> None:
        batch = torch.from_numpy(np.stack([latents(seed=1), latents(seed=2)]))

        jobs = [producer.get(job_id) for job_id in producer.submit_many(batch).job_ids]

        assert len({job.source for job in jobs}) == 2
        with pytest.raises(InvalidLatents, match="submit_many"):
            producer.submit(batch)

    @pytest.mark.parametrize(
        "data",
        [
            npy(latents()),
            safetensors(latents(), "F32", (1, 4, 8, 8)),
            safetensors(bfloat16(latents()), "BF16", (4, 8, 8)),
            saved(scene(40, 30), "WEBP"),
        ],
        ids=["npy", "safetensors", "bfloat16", "webp"],
    )
    def test_files_of_every_kind_are_uploaded_as_they_are(
        self, producer: Producer, tmp_path: Path, data: bytes
    ) -> None:
        path = tmp_path / "no-suffix"
        path.write_bytes(data)

        (uri,) = {producer.get(producer.submit(given).job_id).source for given in (path, data)}

        assert producer.storage.read(ArtifactUri.parse(uri), max_bytes=10**6).data == data

    @pytest.mark.parametrize(
        "bad",
        [
            np.zeros((64, 64, 3), np.uint8),
            np.zeros((3, 8, 8), np.float32),
            np.zeros((4, 8), np.float32),
            np.zeros((16, 8, 8), np.float32),
            np.zeros((4, 8, 8), np.int64),
            torch.zeros(4, 8, 8, dtype=torch.int32),
            torch.zeros(1, 4, 8, 0),
        ],
        ids=["pixels", "rgb", "flat", "sd3", "int64", "int32", "empty"],
    )
    def test_an_array_that_is_not_one_latent_picture_is_refused(
        self, guard: Producer, bad: Any
    ) -> None:
        with pytest.raises(InvalidLatents):
            guard.submit(bad)

    def test_latents_over_a_limit_are_too_large(self, guard: Producer) -> None:
        with pytest.raises(TooLarge):
            guard.submit(torch.zeros(4, 8, 520))

    def test_a_stated_size_of_latents_gives_them_their_lane(
        self, producer: Producer, bucket: str
    ) -> None:
        uri = f"s3://{bucket}/latents.safetensors"

        job = producer.get(producer.submit(uri, latents=True, width=512, height=256).job_id)

        assert job.lane == lanes.measure(job.parameters, 512, 256, from_latents=True).lane
        with pytest.raises(InvalidParameter, match="eight times"):
            producer.submit(uri, latents=True, width=500, height=256)


def decoded_latents(data: bytes) -> Any:
    """What a worker makes of a stored file of latents."""
    from twofold_worker.codec.source import Latents, decode

    decoded = decode(data, lanes.SizeLimits(max_pixels=10**6, max_side=2000))
    assert isinstance(decoded, Latents)
    return decoded.values


class TestNames:
    """Where results go, by templates."""

    @staticmethod
    def place(job: Job) -> str:
        """Where a first claim would store the result, below the prefix."""
        run_id = new_id()
        uri = str(result_place(job, Claim(job_id=job.id, fence=1, run_id=run_id)))
        return uri.removeprefix(job.output_prefix).replace(str(run_id), "RUN")

    def test_placeholders_are_filled_from_the_job(self, producer: Producer, bucket: str) -> None:
        accepted = producer.submit(
            f"s3://{bucket}/in/a cat.v2.png",
            key="order-7",
            output_prefix=f"s3://{bucket}/out",
            output_name="{key}/{stem}/{job}",
            publish_as="big/{stem}-{key}",
            output_format="webp",
        )

        job = producer.get(accepted.job_id)

        assert self.place(job) == f"/order-7/a cat.v2/{job.id}/1-RUN.webp"
        assert str(publish_place(job)) == f"s3://{bucket}/out/big/a cat.v2-order-7.webp"

    def test_a_local_file_keeps_its_name(self, producer: Producer, tmp_path: Path) -> None:
        """Though it is uploaded under the name of its content."""
        path = tmp_path / "cat.png"
        path.write_bytes(encoded())

        for given in (path, str(path)):
            job = producer.get(producer.submit(given, publish_as="{stem}.png").job_id)
            assert str(publish_place(job)) == f"{job.output_prefix}/cat.png"

    def test_the_job_may_be_in_the_fixed_name(self, producer: Producer) -> None:
        job = producer.get(producer.submit(encoded(), publish_as="{job}").job_id)

        assert str(publish_place(job)) == f"{job.output_prefix}/{job.id}.png"

    def test_nothing_is_published_unless_it_is_asked_for(self, producer: Producer) -> None:
        assert publish_place(producer.get(producer.submit(encoded()).job_id)) is None

    @pytest.mark.parametrize(
        "options",
        [
            {"output_name": "results"},
            {"output_name": "{key}/{job}"},
            {"output_name": "{date}/{job}"},
            {"publish_as": "{stem}"},
            {"publish_as": "{key}"},
            {"publish_as": "{nothing}"},
            {"publish_as": "{ job }"},
            {"publish_as": "{job:>40}"},
            {"publish_as": ""},
            {"output_format": "tiff"},
            {"output_quality": 0},
            {"output_quality": 101},
        ],
    )
    def test_a_template_that_cannot_be_filled_is_named(
        self, guard: Producer, options: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidParameter, match=next(iter(options))):
            guard.submit(encoded(), **options)

    @pytest.mark.parametrize("parameter", ["output_name", "publish_as"])
    @pytest.mark.parametrize(
        "name", ["../{job}", "a/../../{job}", "{job}/\x01", "{job}" * 40, "x" * 500 + "{job}"]
    )
    def test_a_name_that_is_no_good_place_is_refused(
        self, guard: Producer, parameter: str, name: str
    ) -> None:
        options: dict[str, Any] = {parameter: name}
        with pytest.raises((InvalidUri, InvalidParameter)):
            guard.submit(encoded(), **options)

    @pytest.mark.parametrize(
        "name",
        [f"{new_id()}/1-{new_id()}", "{job}/1-{job}", f"x/{new_id()}/1-{new_id()}.preview"],
        ids=["result", "template", "preview"],  # processes of tests compare what they found
    )
    def test_a_name_that_a_claim_may_have_is_refused(self, guard: Producer, name: str) -> None:
        """It would lie over another job's result, and be collected as a dead claim's."""
        with pytest.raises(InvalidParameter, match="publish_as"):
            guard.submit("s3://twofold/cat.webp", publish_as=name, output_format="webp")

    @pytest.mark.parametrize("source", ["in/cat.png", "in//cat.png", "./in/./cat.png"])
    def test_a_file_is_never_overwritten_however_it_is_written(
        self, tmp_path: Path, source: str
    ) -> None:
        folder = ArtifactUri.of_file(tmp_path)
        request = JobRequest.of(f"{folder}/{source}", {"publish_as": "{stem}"})
        with pytest.raises(InvalidParameter, match="overwrite"):
            names.published(request, folder.child("in"))

    def test_a_source_is_never_overwritten(self, producer: Producer, bucket: str) -> None:
        with pytest.raises(InvalidParameter, match="overwrite"):
            producer.submit(
                f"s3://{bucket}/in/cat.png", output_prefix=f"s3://{bucket}/in", publish_as="{stem}"
            )

    def test_a_format_that_cannot_hold_the_result_is_refused_at_once(
        self, house: House, bucket: str
    ) -> None:
        house.environment["TWOFOLD_MAX_SIDE"] = "16384"
        producer = house.producer()
        with pytest.raises(TooLarge, match="16383"):
            producer.submit(f"s3://{bucket}/x", width=8192, height=9, output_format="webp")
        producer.submit(f"s3://{bucket}/x", width=8192, height=9, output_format="png")

    def test_what_the_result_shall_be_is_part_of_what_a_key_stands_for(
        self, producer: Producer
    ) -> None:
        asked: dict[str, Any] = {"key": "k", "output_format": "webp", "publish_as": "x"}
        first = producer.submit(encoded(), **asked)
        again = producer.submit(encoded(), **asked, output_quality=90)

        assert (again.job_id, again.created) == (first.job_id, False)
        for other in ({"output_format": "png"}, {"publish_as": "y"}, {"output_quality": 80}):
            with pytest.raises(TwofoldError) as refused:
                producer.submit(encoded(), **(asked | other))
            assert refused.value.code == "key_reused"


class TestSubmitMany:
    """What is one source is not several."""

    @pytest.mark.parametrize("one", ["cat.png", b"\x89PNG", Path("cat.png")])
    def test_one_source_in_the_place_of_several_is_refused(self, guard: Producer, one: Any) -> None:
        """A text would be taken letter by letter."""
        with pytest.raises(InvalidParameter, match="one to submit"):
            guard.submit_many(one)
