"""Several jobs at once: who is late is left behind, and none is lost."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from tests.factories import claimed_job
from tests.house import eventually

from twofold_schema.errors import JobError, SourceNotFound, StorageUnavailable
from twofold_schema.job import ClaimedJob
from twofold_worker.outcome import Failed, Released
from twofold_worker.reach import Reach
from twofold_worker.side_by_side import SideBySide

_THREADS = 4
_SOON = 0.1


class _Slow:
    """A verb that waits for some jobs until it is told not to, and then perhaps fails."""

    def __init__(self, jobs: Sequence[ClaimedJob], error: JobError | None = None) -> None:
        self.go_on = threading.Event()
        self.calls: list[UUID] = []
        self._slow = {job.id for job in jobs}
        self._error = error

    def __call__(self, job: ClaimedJob) -> str:
        self.calls.append(job.id)
        if job.id in self._slow:
            self.go_on.wait()
            if self._error is not None:
                raise self._error
        return f"of {job.id}"


@contextmanager
def _threads(
    ask: Callable[[], None] = lambda: None, stopping: threading.Event | None = None
) -> Iterator[SideBySide]:
    woken = threading.Event()
    at_once = SideBySide(_THREADS, Reach(ask), stopping or threading.Event(), woken.set)
    try:
        yield at_once
    finally:
        at_once.close()


@pytest.fixture
def jobs() -> Sequence[ClaimedJob]:
    return [claimed_job() for _ in range(6)]


def _of(job: ClaimedJob) -> str:
    return f"of {job.id}"


def _come_late(threads: SideBySide) -> tuple[Sequence[ClaimedJob], dict[UUID, Any]]:
    def come() -> list[tuple[Sequence[ClaimedJob], dict[UUID, Any]]]:
        jobs, answers = threads.late()
        return [(jobs, answers)] if jobs else []

    (found,) = eventually(come)
    return found


def test_who_is_late_is_left_behind_and_comes_later(jobs: Sequence[ClaimedJob]) -> None:
    verb = _Slow(jobs[:1])
    with _threads() as threads:
        assert threads.each(jobs, verb, patience=_SOON) == {j.id: _of(j) for j in jobs[1:]}
        assert threads.late() == ([], {})
        assert threads.each(jobs[1:], _of) == {j.id: _of(j) for j in jobs[1:]}
        verb.go_on.set()
        late, answers = _come_late(threads)
        assert (list(late), answers) == (jobs[:1], {jobs[0].id: _of(jobs[0])})
        assert threads.late() == ([], {})


def test_nobody_is_left_behind_where_nobody_is_waited_for_in_vain(
    jobs: Sequence[ClaimedJob],
) -> None:
    """As long as nothing of many has ended there is nobody to go on with."""
    verb = _Slow(jobs)
    threading.Timer(5 * _SOON, verb.go_on.set).start()
    with _threads() as threads:
        assert threads.each(jobs, verb, patience=_SOON).keys() == {job.id for job in jobs}


def test_a_few_are_left_behind_though_nothing_has_ended(jobs: Sequence[ClaimedJob]) -> None:
    """Whoever waits behind them is not known here."""
    verb = _Slow(jobs[:2])
    with _threads() as threads:
        assert threads.each(jobs[:2], verb, patience=_SOON) == {}
        assert not threads.has_room
        verb.go_on.set()
        eventually(lambda: [threads.late()] and threads.has_room)


def test_there_is_no_room_while_half_of_the_threads_are_late(jobs: Sequence[ClaimedJob]) -> None:
    verb = _Slow(jobs[:2])
    with _threads() as threads:
        assert threads.has_room
        threads.each(jobs, verb, patience=_SOON)
        assert not threads.has_room
        verb.go_on.set()
        eventually(lambda: [threads.late()] and threads.has_room)


@pytest.mark.parametrize(
    ("error", "is_away", "ended", "calls"),
    [
        (SourceNotFound(), False, Failed, 1),
        (StorageUnavailable(), False, Failed, 2),
        (StorageUnavailable(), True, Released, 1),
    ],
)
def test_what_comes_late_is_judged_as_what_comes_soon(
    jobs: Sequence[ClaimedJob], error: JobError, ended: type, calls: int, *, is_away: bool
) -> None:
    def ask() -> None:
        if is_away:
            raise StorageUnavailable

    verb = _Slow(jobs[:1], error)
    with _threads(ask) as threads:
        threads.each(jobs, verb, patience=_SOON)
        verb.go_on.set()
        _, answers = _come_late(threads)
    assert isinstance(answers[jobs[0].id], ended)
    assert verb.calls.count(jobs[0].id) == calls


def test_at_the_stop_all_that_is_late_is_released(jobs: Sequence[ClaimedJob]) -> None:
    verb, stopping = _Slow(jobs[:2]), threading.Event()
    with _threads(stopping=stopping) as threads:
        threads.each(jobs, verb, patience=_SOON)
        stopping.set()
        late, answers = threads.late()
        assert {job.id for job in late} == answers.keys() == {job.id for job in jobs[:2]}
        assert set(map(type, answers.values())) == {Released}
        assert not threads.is_quiet
        verb.go_on.set()
        eventually(lambda: threads.is_quiet)
