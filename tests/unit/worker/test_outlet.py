"""Every picture that is delivered comes to an outcome, whatever goes wrong on the way."""

import threading
from types import SimpleNamespace
from typing import Any

from tests.factories import claimed_job
from tests.house import eventually

from twofold_schema.errors import StorageUnavailable, UpscaleFailed
from twofold_worker.capacity import Capacity
from twofold_worker.outcome import Failed
from twofold_worker.outlet import Outlet


def test_a_surprise_while_storage_is_asked_fails_the_job() -> None:
    settled: list[Any] = []

    def store(_: object) -> None:
        raise StorageUnavailable

    def ask() -> None:
        raise KeyError("ETag")

    pipeline: Any = SimpleNamespace(
        worker=SimpleNamespace(max_batch=1, io_threads=1),
        capacity=Capacity(max_batch=1),
        holdings=SimpleNamespace(goes_on=lambda _: True),
        encode=lambda _: object(),
        store=store,
        settle=settled.extend,
    )
    reach: Any = SimpleNamespace(error=None, ask=ask)
    job = claimed_job()
    outlet = Outlet(pipeline, reach, stopping=threading.Event())

    upscaled: Any = SimpleNamespace(prepared=SimpleNamespace(job=job), pixels=1)
    outlet.deliver(upscaled)
    outlet.close()
    outlet.run()

    (outcome,) = settled
    assert isinstance(outcome, Failed)
    assert outcome.claim == job.claim
    assert isinstance(outcome.error, UpscaleFailed)


def test_no_more_pixels_than_two_batches_wait_for_storage() -> None:
    """However few jobs they are: each may be a hundred megabytes."""
    settled: list[Any] = []
    go_on = threading.Event()
    pipeline: Any = SimpleNamespace(
        worker=SimpleNamespace(max_batch=50, io_threads=1),
        capacity=SimpleNamespace(batch_pixels=100),
        holdings=SimpleNamespace(goes_on=lambda _: True),
        encode=lambda _: object(),
        store=lambda _: go_on.wait(30),
        settle=settled.extend,
    )
    reach: Any = SimpleNamespace(error=None)
    outlet = Outlet(pipeline, reach, stopping=threading.Event())
    large: list[Any] = [
        SimpleNamespace(prepared=SimpleNamespace(job=claimed_job()), pixels=100) for _ in range(3)
    ]
    for one in large[:2]:
        outlet.deliver(one)
    engine = threading.Thread(target=outlet.deliver, args=large[2:])
    engine.start()
    eventually(lambda: outlet._room._changed._waiters)  # type: ignore[attr-defined]  # of the library
    assert engine.is_alive()

    go_on.set()
    engine.join(30)
    outlet.close()
    outlet.run()

    assert len(settled) == 3
