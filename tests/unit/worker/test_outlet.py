"""Every picture that is delivered comes to an outcome, whatever goes wrong on the way."""

import threading
from types import SimpleNamespace
from typing import Any

from tests.factories import claimed_job

from twofold_schema.errors import StorageUnavailable, UpscaleFailed
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
        holdings=SimpleNamespace(goes_on=lambda _: True),
        encode=lambda _: object(),
        store=store,
        settle=settled.extend,
    )
    reach: Any = SimpleNamespace(error=None, ask=ask)
    job = claimed_job()
    outlet = Outlet(pipeline, reach, stopping=threading.Event())

    upscaled: Any = SimpleNamespace(prepared=SimpleNamespace(job=job))
    outlet.deliver(upscaled)
    outlet.close()
    outlet.run()

    (outcome,) = settled
    assert isinstance(outcome, Failed)
    assert outcome.claim == job.claim
    assert isinstance(outcome.error, UpscaleFailed)
