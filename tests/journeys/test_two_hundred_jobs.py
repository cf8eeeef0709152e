"""The journey: 200 jobs, two processes of the stand-in model, and everything that can go wrong."""

import hashlib
import io
import os
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import redis
from PIL import Image
from sqlalchemy import text
from tests.house import House, eventually
from tests.pictures import encoded

from twofold_producer.submit.request import JobRequest
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.job import Job
from twofold_schema.states import TRANSITIONS, JobState

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

JOBS = 200
#: Every tenth is bad.
BAD_EVERY = 10
SIZES = ((40, 30), (64, 64), (65, 20), (100, 90), (17, 130), (1, 1), (128, 64))
#: What the workers stop for; the keeper and rescue need some leases until all is well again.
WITHIN_SECONDS = 240

# Writes down every change of state, whoever makes it.
_AUDIT = text("""
    CREATE TABLE seen (at bigserial, id uuid, old text, new text, old_fence bigint, fence bigint);
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO seen (id, old, new, old_fence, fence)
        VALUES (new.id, old.state, new.state, old.fence, new.fence);
        RETURN NULL;
    END $$;
    CREATE TRIGGER see AFTER UPDATE ON jobs FOR EACH ROW
    WHEN (old.state IS DISTINCT FROM new.state) EXECUTE FUNCTION see();
""")


@pytest.mark.timeout(600)
def test_two_hundred_jobs_end_once_through_kills_stops_and_wipes(
    house: House, s3: "S3Client", bucket: str, stand_in_model: object, broker_url: str
) -> None:
    with house.engine.begin() as connection:
        connection.execute(_AUDIT)
    sizes = {f"job-{n}": SIZES[n % len(SIZES)] for n in range(JOBS) if n % BAD_EVERY}
    bad = {f"job-{n}": kind for n, kind in zip(range(0, JOBS, BAD_EVERY), _bad(), strict=True)}
    house.keeper()
    producer = house.producer()
    submission = producer.submit_many(_requests(s3, bucket, sizes, bad))
    house.supervised("--model", model=stand_in_model, processes=2, lease_seconds=6)

    with redis.Redis.from_url(broker_url) as broker:
        killed = _strike(house, signal.SIGKILL)
        broker.flushall()
        stopped = _strike(house, signal.SIGSTOP, but_not=killed)
        eventually(lambda: _run(house, stopped)["state"] == "lost", why=house.logs)
        broker.flushall()
        os.kill(_run(house, stopped)["pid"], signal.SIGCONT)
    jobs = house.wait_ended(submission.job_ids, within=WITHIN_SECONDS)

    assert len(jobs) == JOBS
    _good_ones_are_right(producer.storage, jobs, sizes)
    codes = {job.key: job.error and job.error.code for job in jobs if job.key in bad}
    assert codes == {key: code for key, (_, code) in bad.items()}
    assert Counter(job.state for job in jobs) == {
        JobState.SUCCEEDED: len(sizes),
        JobState.FAILED: len(bad),
    }
    _none_ended_twice(house, submission.job_ids)


def _bad() -> list[tuple[str, str]]:
    """A way to be bad for each bad job, and the code that it must end with."""
    kinds = [
        ("missing", "source_not_found"),
        ("text", "unsupported_format"),
        ("cut", "corrupt_source"),
        ("misstated", "size_mismatch"),
        ("long", "too_large"),
    ]
    return kinds * (JOBS // BAD_EVERY // len(kinds))


def _requests(
    s3: "S3Client",
    bucket: str,
    sizes: Mapping[str, tuple[int, int]],
    bad: Mapping[str, tuple[str, str]],
) -> list[JobRequest]:
    requests = []
    for number in range(JOBS):
        key = f"job-{number}"
        body, options = _body(number, sizes.get(key), bad.get(key, ("", ""))[0])
        if body is not None:
            s3.put_object(Bucket=bucket, Key=f"in/{key}", Body=body)
        options |= {"key": key, "steps": 2, "seed": number}
        requests.append(JobRequest.of(f"s3://{bucket}/in/{key}", options))
    return requests


def _body(
    number: int, size: tuple[int, int] | None, kind: str
) -> tuple[bytes | None, dict[str, Any]]:
    if size is not None:
        # Half of the callers know the size of their pictures.
        stated = {"width": size[0], "height": size[1]} if number % 2 else {}
        return encoded(*size, seed=number, form="JPEG" if number % 3 else "PNG"), stated
    good = encoded(seed=number)
    return {
        "missing": (None, {}),
        "text": (b"this is no picture", {}),
        "cut": (good[: len(good) // 2], {}),
        "misstated": (good, {"width": 64, "height": 64}),
        "long": (encoded(4100, 2), {}),
    }[kind]


def _strike(house: House, number: signal.Signals, *, but_not: UUID | None = None) -> UUID:
    """Send a signal to a run that is in the middle of a batch."""

    def at_work() -> list[Mapping[str, Any]]:
        return house.rows(
            """
            SELECT DISTINCT runs.id, runs.pid FROM runs JOIN jobs ON jobs.run_id = runs.id
            WHERE runs.state = 'live' AND jobs.state = 'running' AND jobs.started_at IS NOT NULL
              AND runs.id IS DISTINCT FROM :but_not
        """,
            but_not=but_not,
        )

    victim = eventually(at_work, within=120, why=house.logs)[0]
    os.kill(victim["pid"], number)
    return UUID(str(victim["id"]))


def _run(house: House, run_id: UUID) -> Mapping[str, Any]:
    return house.rows("SELECT * FROM runs WHERE id = :id", id=run_id)[0]


def _good_ones_are_right(
    storage: Any,
    jobs: list[Job],
    sizes: Mapping[str, tuple[int, int]],
) -> None:
    for job in jobs:
        if job.key is None or job.key not in sizes:
            continue
        assert job.result is not None, job
        data = storage.read(ArtifactUri.parse(job.result.uri), max_bytes=10**7).data
        assert hashlib.sha256(data).hexdigest() == job.result.sha256
        with Image.open(io.BytesIO(data)) as image:
            width, height = sizes[job.key]
            assert image.size == (2 * width, 2 * height) == (job.result.width, job.result.height)
        assert job.result.model == "stand-in"


def _none_ended_twice(house: House, job_ids: Sequence[UUID]) -> None:
    changes = house.rows("SELECT * FROM seen ORDER BY at")
    endings = Counter(row["id"] for row in changes if JobState(row["new"]).is_final)
    assert endings == dict.fromkeys(job_ids, 1)
    for row in changes:
        assert JobState(row["new"]) in TRANSITIONS[JobState(row["old"])], row
        assert row["fence"] == row["old_fence"] + (row["new"] == "running"), row
