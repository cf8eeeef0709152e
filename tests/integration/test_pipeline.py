"""Jobs on their way through a run's stages, with a real ledger and storage and a cheap model."""

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pytest
from PIL import Image, ImageOps
from sqlalchemy import Engine, text
from tests.factories import begun
from tests.house import eventually
from tests.inputs.files import saved, turned
from tests.pictures import encoded, picture
from tests.rivals import locked_out
from tests.servers.scripted import Asked, Reply, error, scripted
from tests.upscalers import NearestUpscaler, Noting, Small
from tests.workshop import AMPLE, Gate, Make, Workshop, twice

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import JobError, Mismeasured, StorageUnavailable
from twofold_schema.ids import new_id
from twofold_schema.job import ClaimedJob, Parameters
from twofold_schema.settings import LimitSettings, StorageSettings
from twofold_schema.states import JobClass, JobState
from twofold_worker.outcome import Failed, Outcome, Released, attempt
from twofold_worker.pipeline import Pipeline
from twofold_worker.upscaler.port import DeviceLost, Sample
from twofold_worker.work import Measured

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.mark.parametrize("size", [None, (40, 30)], ids=["unmeasured", "stated"])
def test_a_good_job_ends_with_a_picture_of_twice_the_size(
    workshop: Make, size: tuple[int, int] | None
) -> None:
    with workshop() as shop:
        (job_id,) = shop.submit(encoded(40, 30), size=size)
        (job,) = shop.wait_settled([job_id])

    assert (job.state, job.attempts, job.fence, job.errors) == (JobState.SUCCEEDED, 1, 1, ())
    assert job.result is not None
    assert (job.pixels, job.result.rungs) == (1200, (1,))
    assert job.result.gpu_seconds is not None
    assert 0 < job.result.gpu_seconds < 60
    np.testing.assert_array_equal(shop.result(job), twice(picture(40, 30)))


BAD = {
    "missing": (None, "source_not_found"),
    "empty": (b"", "corrupt_source"),
    "no picture": (b"Dear Sir or Madam,", "unsupported_format"),
    "truncated": (encoded(40, 30)[:-200], "corrupt_source"),
    "header only": (encoded(40, 30)[:20], "corrupt_source"),
    "too many bytes": (encoded(40, 30) + b"\0" * 20_000, "source_too_large"),
    "too many pixels": (saved(Image.new("L", (400, 300))), "too_large"),
}


@pytest.mark.parametrize(("source", "code"), BAD.values(), ids=BAD)
def test_bad_input_gets_its_code_at_once_and_its_company_succeeds(
    workshop: Make, source: bytes | None, code: str
) -> None:
    shop = workshop(limits=LimitSettings(max_source_bytes=20_000, max_pixels=10_000))
    before, bad, after = shop.submit(encoded(seed=1), source, encoded(seed=2))
    with shop:
        jobs = shop.wait_settled([before, bad, after])

    assert [job.state for job in jobs] == [JobState.SUCCEEDED, JobState.FAILED, JobState.SUCCEEDED]
    assert [job.attempts for job in jobs] == [1, 1, 1]
    assert [error.code for job in jobs for error in job.errors] == [code]


def test_a_size_stated_wrong_is_found_out_and_the_company_in_its_lane_succeeds(
    workshop: Make,
) -> None:
    shop = workshop()
    good, bad = encoded(40, 30), encoded(41, 30)
    job_ids = shop.submit(good, bad, good, size=(40, 30))
    with shop:
        jobs = shop.wait_settled(job_ids)

    assert [job.state for job in jobs] == [JobState.SUCCEEDED, JobState.FAILED, JobState.SUCCEEDED]
    assert [error.code for job in jobs for error in job.errors] == ["size_mismatch"]


def test_transparency_is_kept(workshop: Make) -> None:
    rgba = picture(40, 30).convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize((40, 30)))
    with workshop() as shop:
        (job,) = shop.wait_settled(shop.submit(saved(rgba)))

    result = shop.result(job)
    assert result.shape == (60, 80, 4)
    np.testing.assert_array_equal(result[..., :3], twice(picture(40, 30)))
    alpha = np.asarray(rgba.getchannel("A").resize((80, 60), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(result[..., 3], alpha)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_turned_picture_comes_out_upright_at_exactly_twice_its_size(
    workshop: Make, kind: str
) -> None:
    """At 100x30 the upright picture has another lane than the stored one."""
    source = saved(picture(100, 30), kind, exif=turned(6))
    with workshop() as shop:
        (job,) = shop.wait_settled(shop.submit(source))

    with Image.open(io.BytesIO(source)) as image:
        upright = ImageOps.exif_transpose(image)
    assert (job.attempts, upright.size) == (1, (30, 100))
    np.testing.assert_array_equal(shop.result(job), twice(upright))


def test_unmeasured_jobs_of_several_lanes_never_share_a_batch_and_cost_no_attempt(
    workshop: Make,
) -> None:
    upscaler = Noting()
    shop = workshop(upscaler=upscaler, max_batch=6)
    sizes = [(40, 30), (100, 30), (64, 64), (40, 130), (100, 60), (1, 1)]
    job_ids = shop.submit(*(encoded(*size) for size in sizes))
    with shop:
        jobs = shop.wait_settled(job_ids)

    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    assert {job.attempts for job in jobs} == {1}
    assert [shop.result(job).shape[:2] for job in jobs] == [(2 * h, 2 * w) for w, h in sizes]
    assert {tuple(shapes) for shapes in upscaler.shapes} == {
        ((64, 64, 3),),
        ((64, 128, 3),),
        ((192, 64, 3),),
    }


def test_a_batch_that_does_not_fit_is_split_in_place(workshop: Make) -> None:
    """No attempt is used, and each job's result names the rungs that it saw."""
    upscaler = Small(1)
    shop = workshop(upscaler=upscaler)
    job_ids = shop.submit(*(encoded(seed=seed) for seed in range(3)), size=(40, 30))
    with shop:
        jobs = shop.wait_settled(job_ids)

    assert [(job.state, job.attempts, job.fence) for job in jobs] == [
        (JobState.SUCCEEDED, 1, 1)
    ] * 3
    assert upscaler.rungs == [3] + 3 * [1, 1]
    assert [job.result and job.result.rungs for job in jobs] == [(3, 1)] * 3


@pytest.mark.parametrize(("attempts", "state"), [(1, JobState.FAILED), (2, JobState.SCHEDULED)])
def test_a_picture_that_does_not_fit_even_alone_is_tried_again_later(
    workshop: Make, attempts: int, state: JobState
) -> None:
    with workshop(upscaler=Small(0)) as shop:
        job_ids = shop.submit(encoded(), encoded(), size=(40, 30), max_attempts=attempts)
        jobs = shop.wait_settled(job_ids)

    assert [(job.state, job.error and job.error.code) for job in jobs] == [
        (state, "out_of_memory")
    ] * 2


def test_codecs_work_in_threads_that_let_the_engine_pass(workshop: Make) -> None:
    niceness: dict[str, int] = {}

    def watch(verb: str, _job_id: UUID) -> None:
        niceness[verb] = os.getpriority(os.PRIO_PROCESS, 0)  # of this thread, on Linux

    with workshop(watch=watch) as shop:
        shop.wait_final(shop.submit(encoded(8, 8)))
    slower = {verb for verb, own in niceness.items() if own > niceness["upscale"]}
    assert slower == ({"fetch", "decode", "encode", "store"} if sys.platform == "linux" else set())


def test_reproducible_jobs_see_the_pinned_rung_only(workshop: Make) -> None:
    """Also where more of them wait than it holds."""
    upscaler = Small(99)
    shop = workshop(upscaler=upscaler, max_batch=6, pinned_rung=2)
    pinned = Parameters(seed=7, steps=1, reproducible=True)
    job_ids = shop.submit(*[encoded()] * 5, size=(40, 30), parameters=pinned)
    with shop:
        jobs = shop.wait_settled(job_ids)

    assert [job.result and job.result.rungs for job in jobs] == [(2,)] * 5
    assert upscaler.rungs == [2, 2, 2]


class Allergic(NearestUpscaler):
    """Fails in a way that nobody foresaw whenever one seed is in the batch."""

    def __init__(self, seed: int, complaint: str) -> None:
        self._seed = seed
        self._complaint = complaint

    def step(self, samples: Sequence[Sample], *, rung: int) -> None:
        if any(sample.request.seed == self._seed for sample in samples):
            raise RuntimeError(self._complaint)
        super().step(samples, rung=rung)


@pytest.mark.parametrize("complaint", ["no", "NUL \x00, lone surrogate \ud800, ✓", "long" * 1000])
def test_a_surprise_fails_the_job_that_caused_it_alone(workshop: Make, complaint: str) -> None:
    """Whatever the error's message holds, the ledger can keep it."""
    shop = workshop(upscaler=Allergic(13, complaint))
    job_ids = [
        job_id
        for seed in (1, 13, 2)
        for job_id in shop.submit(
            encoded(), size=(40, 30), max_attempts=1, parameters=Parameters(seed=seed, steps=1)
        )
    ]
    with shop:
        jobs = shop.wait_settled(job_ids)

    assert [job.state for job in jobs] == [JobState.SUCCEEDED, JobState.FAILED, JobState.SUCCEEDED]
    (error,) = [error for job in jobs for error in job.errors]
    assert error.code == "upscale_failed"
    assert complaint[:3] in error.message


class Foreign(NearestUpscaler):
    """Is named as people name folders."""

    name = "modèle façon 模型"


def test_a_result_on_s3_says_what_it_is_and_how_it_was_made(
    workshop: Make, s3: "S3Client", s3_endpoint: str, bucket: str
) -> None:
    settings = StorageSettings(
        results=f"s3://{bucket}/results",
        uploads=f"s3://{bucket}/uploads",
        s3_endpoint_url=s3_endpoint,
    )
    with workshop(storage_settings=settings, upscaler=Foreign()) as shop:
        (job,) = shop.wait_settled(shop.submit(encoded(40, 30)))

    assert job.result is not None, job.error
    assert job.result.model == Foreign.name
    place = ArtifactUri.parse(job.result.uri)
    assert place.key == f"results/{job.id}/{job.fence}-{shop.run_id}.png"
    head = s3.head_object(Bucket=place.bucket, Key=place.key)
    assert (head["ContentType"], head["ContentLength"]) == ("image/png", job.result.size_bytes)
    assert head["Metadata"] == {
        "job": str(job.id),
        "fence": "1",
        "format": "png",
        "model": "mod%C3%A8le%20fa%C3%A7on%20%E6%A8%A1%E5%9E%8B",
        "model-revision": "1",
        "seed": "7",
        "steps": "2",
        "sha256": job.result.sha256,
    }


def results_in(shop: Workshop, job_id: UUID) -> list[Path]:
    return list(shop.folder.glob(f"results/{job_id}/*.png"))


def test_a_source_that_is_late_keeps_nobody_waiting(workshop: Make) -> None:
    """Neither those that were claimed with it, nor those that come after."""
    gate = Gate("fetch")
    shop = workshop(watch=gate)
    gate.job_id, *others = shop.submit(*[encoded()] * 4, size=(40, 30))
    with shop:
        gate.wait_reached()
        jobs = shop.wait_settled(others)
        jobs += shop.wait_settled(shop.submit(*[encoded()] * 6, size=(40, 30)))
        (late,) = shop.jobs([gate.job_id])
        assert (late.state, late.started_at) == (JobState.RUNNING, None)
        gate.open()
        jobs += shop.wait_settled([gate.job_id])

    assert {(job.state, job.attempts, job.fence) for job in jobs} == {(JobState.SUCCEEDED, 1, 1)}


def test_a_source_that_is_late_keeps_nobody_waiting_while_it_is_alone(workshop: Make) -> None:
    gate = Gate("fetch")
    shop = workshop(watch=gate)
    (gate.job_id,) = shop.submit(encoded(), size=(40, 30))
    with shop:
        gate.wait_reached()
        shop.wait_settled(shop.submit(*[encoded()] * 6, size=(40, 30)))
        gate.open()
        (job,) = shop.wait_settled([gate.job_id])
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)


def test_a_source_whose_size_comes_late_keeps_nobody_waiting(
    workshop: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, measure = Gate("head"), Pipeline.measure

    def late(pipeline: Pipeline, job: ClaimedJob) -> Measured:
        gate("head", job.id)
        return measure(pipeline, job)

    monkeypatch.setattr(Pipeline, "measure", late)
    shop = workshop()
    gate.job_id, *others = shop.submit(*[encoded()] * 4)
    with shop:
        gate.wait_reached()
        jobs = shop.wait_settled(others)
        jobs += shop.wait_settled(shop.submit(*[encoded()] * 6))
        gate.open()
        jobs += shop.wait_settled([gate.job_id])
    assert {(job.state, job.attempts, job.fence) for job in jobs} == {(JobState.SUCCEEDED, 1, 1)}


def test_a_source_that_is_late_is_given_back_at_the_stop(workshop: Make) -> None:
    gate = Gate("fetch")
    shop = workshop(watch=gate)
    gate.job_id, *others = shop.submit(*[encoded()] * 4, size=(40, 30))
    with shop:
        gate.wait_reached()
        shop.wait_settled(others)
        shop.stages.stop()
        eventually(lambda: not len(shop.holdings), within=AMPLE)
        (late,) = shop.jobs([gate.job_id])
        gate.open()

    assert (late.state, late.attempts, late.crashes) == (JobState.QUEUED, 0, 0)


def test_a_job_called_off_before_the_device_never_reaches_it(workshop: Make) -> None:
    gate = Gate("upscale")
    upscaler = Noting()
    shop = workshop(watch=gate, upscaler=upscaler, max_batch=1)
    gate.job_id, waiting = shop.submit(encoded(), encoded())
    with shop:
        gate.wait_reached()
        eventually(lambda: ("decode", waiting) in gate.seen)
        shop.cancel(waiting)
        gate.open()
        first, called_off = shop.wait_settled([gate.job_id, waiting])

    assert (first.state, called_off.state) == (JobState.SUCCEEDED, JobState.CANCELLED)
    assert (called_off.attempts, len(upscaler.steps)) == (0, first.parameters.steps)


def test_a_job_called_off_on_the_device_is_not_stored_and_its_company_is(workshop: Make) -> None:
    gate = Gate("upscale")
    shop = workshop(watch=gate)
    gate.job_id, other = shop.submit(encoded(), encoded(), size=(40, 30))
    with shop:
        gate.wait_reached()
        shop.cancel(gate.job_id)
        gate.open()
        called_off, company = shop.wait_settled([gate.job_id, other])

    assert (called_off.state, company.state) == (JobState.CANCELLED, JobState.SUCCEEDED)
    assert results_in(shop, called_off.id) == []


def test_a_job_called_off_while_it_is_stored_ends_once(workshop: Make) -> None:
    """Nobody had confirmed the cancel: the picture that was paid for counts."""
    gate = Gate("encode")
    shop = workshop(watch=gate)
    (gate.job_id,) = shop.submit(encoded())
    with shop:
        gate.wait_reached()
        shop.cancel(gate.job_id)
        gate.open()
        (job,) = shop.wait_settled([gate.job_id])

    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)
    assert len(results_in(shop, job.id)) == 1


def test_a_job_that_was_given_to_another_run_is_dropped(workshop: Make, engine: Engine) -> None:
    """What this run stored for it is garbage, not a result."""
    gate = Gate("encode")
    shop = workshop(watch=gate)
    (gate.job_id,) = shop.submit(encoded())
    with shop:
        gate.wait_reached()
        other = begun(engine, model_revision="1")
        with engine.begin() as connection:
            connection.execute(
                text("UPDATE jobs SET fence = fence + 1, run_id = :other"), {"other": other}
            )
        gate.open()
        eventually(lambda: not len(shop.holdings), within=AMPLE)

    (job,) = shop.jobs([gate.job_id])
    assert (job.state, job.run_id, job.result) == (JobState.RUNNING, other, None)
    assert len(results_in(shop, job.id)) == 1


def test_with_enough_ahead_of_the_engine_only_a_better_class_is_claimed(workshop: Make) -> None:
    shop = workshop()
    shop.submit(encoded(), encoded(), size=(40, 30), job_class=JobClass.BULK)
    (urgent,) = shop.submit(encoded(), size=(40, 30), job_class=JobClass.INTERACTIVE)
    shop.stages._room_ahead.clear()
    assert shop.stages._claim() == []
    shop.stages._next_class = JobClass.INTERACTIVE
    assert shop.stages._claim() == []
    shop.stages._next_class = JobClass.BULK
    assert [job.id for job in shop.stages._claim()] == [urgent]
    assert shop.stages._claim() == []


def test_suspects_of_a_crash_wait_until_the_company_is_settled(workshop: Make) -> None:
    gate = Gate("store")
    shop = workshop(watch=gate)
    (gate.job_id,) = shop.submit(encoded())
    with shop:
        gate.wait_reached()
        (suspect,) = shop.submit(encoded(), isolation=new_id())
        shop.stages.wake()
        # The intake has looked, and found nothing that it may take, when it waits to be woken.
        eventually(lambda: not shop.stages._wanted.is_set(), within=AMPLE)
        eventually(lambda: not shop.stages._looking.is_set(), within=AMPLE)
        assert ("claim", suspect) not in gate.seen
        gate.open()
        jobs = shop.wait_settled([gate.job_id, suspect])

    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 2
    assert gate.seen.index(("store", gate.job_id)) < gate.seen.index(("claim", suspect))


class Doomed(NearestUpscaler):
    def step(self, samples: Sequence[Sample], *, rung: int) -> None:
        raise DeviceLost("illegal memory access")


@pytest.mark.parametrize(
    "stage", ["claim", "upscale", "settle"], ids=["intake", "engine", "outlet"]
)
def test_a_stage_that_crashes_says_that_the_process_cannot_go_on(
    workshop: Make, stage: str
) -> None:
    crash = RuntimeError("a defect")

    def watch(verb: str, _job_id: UUID) -> None:
        if verb == stage:
            raise crash

    shop = workshop(watch=watch)
    with shutting_down(shop):
        shop.submit(encoded())
        shop.stages.start()
        eventually(lambda: shop.broken, within=AMPLE)

    assert shop.broken == [crash]


def test_a_lost_device_is_not_a_jobs_fault(workshop: Make) -> None:
    shop = workshop(upscaler=Doomed())
    with shutting_down(shop):
        (job_id,) = shop.submit(encoded())
        shop.stages.start()
        eventually(lambda: shop.broken, within=AMPLE)

    assert [type(error) for error in shop.broken] == [DeviceLost]
    (job,) = shop.jobs([job_id])
    assert (job.state, job.attempts, job.errors) == (JobState.RUNNING, 0, ())


def test_a_database_that_refuses_claims_for_good_is_no_outage(
    workshop: Make, engine: Engine
) -> None:
    shop = workshop()
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobs RENAME COLUMN lane TO path"))
    with shutting_down(shop):
        shop.stages.start()
        eventually(lambda: shop.broken, within=AMPLE)

    (error,) = shop.broken
    assert "UndefinedColumn" in repr(error)


@contextmanager
def shutting_down(shop: Workshop) -> Iterator[None]:
    """End the threads that a crashed one leaves behind; in a worker they die with the process."""
    try:
        yield
    finally:
        shop.stages.stop()
        threads = shop.stages._threads
        threads["intake"].join(AMPLE)
        shop.stages._ready.put(None)
        threads["engine"].join(AMPLE)
        shop.stages._outlet.close()
        threads["outlet"].join(AMPLE)


def test_a_ticket_lasts_until_the_look_for_work_has_ended(workshop: Make, engine: Engine) -> None:
    """A process about to hold work must not take the ticket that would wake an idle one."""
    shop = workshop()
    ended = threading.Event()

    def wait_idle() -> None:
        shop.stages.wait_idle()
        ended.set()

    ticket = threading.Thread(target=wait_idle)
    with engine.begin() as connection:
        # The run's row is what a claim reads first; one that waits for it is a slow look.
        connection.execute(text("SELECT FROM runs FOR UPDATE"))
        (job_id,) = shop.submit(encoded())
        shop.stages.start()
        eventually(lambda: locked_out(engine), within=AMPLE)
        ticket.start()
        assert not ended.wait(0.2)
    ticket.join(AMPLE)
    shop.stages.stop()
    shop.stages.join()
    assert [job.state for job in shop.jobs([job_id])] == [JobState.SUCCEEDED]


def test_outcomes_of_several_kinds_never_deadlock_with_who_locks_in_order(
    workshop: Make, engine: Engine
) -> None:
    """Whoever locks jobs locks them by id: a bulk cancel must never be a deadlock's victim."""
    shop = workshop()
    job_ids = sorted(shop.submit(*[encoded()] * 3, size=(40, 30)))
    lowest, middle, highest = (job.claim for job in shop.pipeline.claim())
    outcomes: list[Outcome] = [
        Failed(highest, StorageUnavailable()),
        Released(lowest),
        Failed(middle, JobError()),
    ]
    with engine.begin() as cancel:
        cancel.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": job_ids[0]})
        settling = threading.Thread(target=shop.pipeline.settle, args=[outcomes])
        settling.start()
        eventually(lambda: locked_out(engine), within=AMPLE)
        cancel.execute(text("SELECT FROM jobs ORDER BY id FOR UPDATE NOWAIT"))
    settling.join(AMPLE)

    assert [job.state for job in shop.jobs(job_ids)] == [
        JobState.QUEUED,
        JobState.FAILED,
        JobState.SCHEDULED,
    ]
    assert len(shop.holdings) == 0


def test_a_decoder_that_waits_for_the_ledger_does_not_stand_still(
    workshop: Make, engine: Engine
) -> None:
    """An outage of the database must not get the process replaced."""
    now = 0.0
    shop = workshop(clock=lambda: now)
    shop.submit(encoded())
    (unmeasured,) = shop.pipeline.claim()
    refused: list[object] = []

    content = shop.pipeline.fetch(unmeasured)

    def decode() -> None:
        answer = attempt(
            unmeasured,
            lambda job: shop.pipeline.decode(job, content, first_version=content.version),
        )
        refused.append(answer)

    decoder = threading.Thread(target=decode)
    with engine.begin() as connection:
        connection.execute(text("SELECT FROM jobs FOR UPDATE"))
        decoder.start()
        eventually(lambda: locked_out(engine), within=AMPLE)
        now = 2 * AMPLE
        assert shop.pipeline.progress.stalled() == []
    decoder.join(AMPLE)
    (failed,) = refused
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, Mismeasured)


AWAY = error(503, "ServiceUnavailable")
NOTHING = error(404, "NoSuchKey")
STRANGER = error(403, "InvalidAccessKeyId")
PICTURE = Reply(200, encoded(), {"ETag": '"1"'})
STORED = Reply(200)


@contextmanager
def over_s3(
    workshop: Make, script: Callable[[Asked, str], Reply], **parts: Any
) -> Iterator[Workshop]:
    """A shop over an S3 that answers so, asked with a method for an object.

    An upload by the test is answered by the script as well.
    """

    def answer(asked: Asked) -> Reply:
        return script(asked, asked.path.rpartition("/")[2].partition("?")[0])

    with scripted(answer) as server:
        settings = StorageSettings(
            results="s3://house/results",
            uploads="s3://house/uploads",
            s3_endpoint_url=server.url,
            s3_attempts=1,
        )
        yield workshop(storage_settings=settings, **parts)


@pytest.mark.parametrize("refusal", [AWAY, STRANGER], ids=["away", "credentials"])
@pytest.mark.parametrize("company", [0, 2])
@pytest.mark.usefixtures("s3_endpoint")
def test_a_source_that_alone_does_not_answer_is_charged_to_its_job(
    workshop: Make, refusal: Reply, company: int
) -> None:
    def script(asked: Asked, name: str) -> Reply:
        if asked.method == "PUT":
            return STORED
        if name == ".reach":
            return NOTHING
        return refusal if name.endswith("-away") else PICTURE

    with over_s3(workshop, script) as shop:
        (job_id,) = shop.submit(encoded(), size=(40, 30), suffix="-away")
        others = shop.submit(*[encoded()] * company, size=(40, 30))
        with shop:
            job, *rest = shop.wait_settled([job_id, *others])

    assert (job.state, job.attempts) == (JobState.SCHEDULED, 1)
    assert {(one.state, one.attempts) for one in rest} <= {(JobState.SUCCEEDED, 1)}


@pytest.mark.usefixtures("s3_endpoint")
def test_storage_that_comes_back_before_it_is_asked_has_cost_no_attempt(workshop: Make) -> None:
    refused: list[str] = []

    def script(asked: Asked, name: str) -> Reply:
        if asked.method == "PUT":
            kind = "result" if name.endswith(".png") else "upload"
        else:
            kind = "ask" if name == ".reach" else "source"
        if kind in {"result", "source"} and kind not in refused:
            refused.append(kind)
            return AWAY
        return {"ask": NOTHING, "source": PICTURE}.get(kind, STORED)

    with over_s3(workshop, script, preview_side=0) as shop, shop:
        (job,) = shop.wait_settled(shop.submit(encoded(), size=(40, 30)))

    assert refused == ["source", "result"]
    assert (job.state, job.attempts, job.fence, job.errors) == (JobState.SUCCEEDED, 1, 1, ())


@pytest.mark.parametrize("ending", ["stop", "deadline"])
@pytest.mark.usefixtures("s3_endpoint")
def test_a_result_that_waits_for_storage_is_given_up_uncharged(workshop: Make, ending: str) -> None:
    """At the stop, or while there still is time before the claim is overdue."""
    asked_in_vain = threading.Event()

    def script(asked: Asked, name: str) -> Reply:
        if name == ".reach":
            asked_in_vain.set()
        if name == ".reach" or name.endswith((".png", ".webp")):
            return AWAY
        return STORED if asked.method == "PUT" else PICTURE

    with over_s3(workshop, script) as shop:
        (job_id,) = shop.submit(encoded(), size=(40, 30))
        with shop:
            assert asked_in_vain.wait(AMPLE)
            if ending == "deadline":
                half = shop.pipeline.worker.run_deadline_seconds / 2
                shop.holdings._clock = lambda: time.monotonic() + half
                eventually(lambda: not len(shop.holdings), within=AMPLE)

    (job,) = shop.jobs([job_id])
    assert (job.state, job.attempts, job.fence, job.errors) == (JobState.QUEUED, 0, 1, ())


@pytest.mark.usefixtures("s3_endpoint")
def test_a_result_that_alone_is_not_taken_is_charged_to_its_job(workshop: Make) -> None:
    def script(asked: Asked, name: str) -> Reply:
        if asked.method == "PUT":
            return AWAY if name.endswith(".png") else STORED
        return NOTHING if name == ".reach" else PICTURE

    with over_s3(workshop, script) as shop, shop:
        (job,) = shop.wait_settled(shop.submit(encoded(), size=(40, 30)))

    assert (job.state, job.attempts) == (JobState.SCHEDULED, 1)
    assert job.error is not None
    assert job.error.code == "storage_unavailable"
