"""A worker that dies, wherever it dies, loses nothing and finishes nothing twice."""

import hashlib

import pytest
from tests.house import House, eventually
from tests.pictures import encoded

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.states import JobState

VERBS = ("claim", "measure", "fetch", "start", "decode", "upscale", "encode", "store", "settle")


@pytest.mark.parametrize("verb", VERBS)
def test_every_job_still_ends_once_after_a_kill_between_two_stages(house: House, verb: str) -> None:
    producer = house.producer()
    submission = producer.submit_many([encoded(seed=seed) for seed in range(3)])
    house.keeper()
    killed = house.worker(f"--die-after={verb}")
    assert killed.wait(60) == 128 + 9, house.logs()

    house.worker()
    jobs = house.wait_ended(submission.job_ids)

    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 3
    for job in jobs:
        assert job.result is not None
        data = producer.storage.read(ArtifactUri.parse(job.result.uri), max_bytes=10**6).data
        assert hashlib.sha256(data).hexdigest() == job.result.sha256
        assert str(job.fence) in job.result.uri
        assert job.attempts == 1 + (job.crashes if job.errors and job.attempts > 1 else 0)


def test_a_job_that_kills_its_worker_is_found_out_and_its_company_succeeds(house: House) -> None:
    """Halves, and halves again, until the guilty one has crashed alone as often as it may."""
    producer = house.producer()
    submission = producer.submit_many([encoded(seed=seed) for seed in range(4)])
    guilty = submission.job_ids[1]
    house.keeper()
    house.supervised(f"--die-on={guilty}")

    jobs = house.wait_ended(submission.job_ids, within=120)

    assert [job.state for job in jobs if job.id != guilty] == [JobState.SUCCEEDED] * 3
    assert [job.attempts for job in jobs if job.id != guilty] == [1] * 3
    (worst,) = (job for job in jobs if job.id == guilty)
    assert (worst.state, worst.error and worst.error.code) == (JobState.FAILED, "worker_crashed")
    assert worst.attempts == worst.max_attempts


def test_a_run_that_comes_back_from_a_long_stop_changes_nothing(house: House) -> None:
    """Its jobs were given to another; it ends by itself when it is continued."""
    producer = house.producer()
    marker = house.marker("stand-still")
    marker.touch()
    job_id = producer.submit(encoded()).job_id
    house.keeper()
    zombie = house.worker("--pause-at=upscale", f"--marker={marker}")
    eventually(lambda: house.jobs([job_id])[0].started_at, why=house.logs)
    house.signal(zombie, "STOP")
    house.worker()
    (job,) = house.wait_ended([job_id])
    assert (job.state, job.fence) == (JobState.SUCCEEDED, 2)

    marker.unlink()
    house.signal(zombie, "CONT")
    assert zombie.wait(60) != 0, house.logs()

    assert house.jobs([job_id]) == [job]
