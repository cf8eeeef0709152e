"""Two writers at one job, really at once, leave what one of them after the other leaves.

What that is, is not written down here: it is what the same two calls answer and leave when they
are made in turn.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, text
from tests.factories import (
    AMPLE,
    begun,
    claimed,
    job_of,
    renewed,
    result_of,
    silence,
    submitted,
)
from tests.rivals import rivals

from twofold_schema.errors import CorruptSource, LedgerError, StorageUnavailable
from twofold_schema.job import Claim
from twofold_schema.ledger import claims, holds, outcomes, requests, sweeps
from twofold_schema.states import JobState

_EMPTY = text("""
    WITH no_jobs AS (DELETE FROM jobs), no_runs AS (DELETE FROM runs) DELETE FROM pulse
""")
_MAKE_LATE = text("UPDATE jobs SET finish_by = '2020-01-01Z'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A job, the claim of the run that has or had it, and an idle run."""

    held: Claim
    idle_run_id: UUID


Act = Callable[[Connection, Scene], Any]

ACTS: Mapping[str, Act] = {
    "complete": lambda c, s: outcomes.complete(c, s.held.run_id, {s.held: result_of(s.held)}),
    "fail": lambda c, s: outcomes.fail(c, s.held.run_id, {s.held: CorruptSource()}),
    "retry_later": lambda c, s: outcomes.retry_later(
        c, s.held.run_id, {s.held: StorageUnavailable()}
    ),
    "release": lambda c, s: outcomes.release(c, s.held.run_id, [s.held]),
    "start": lambda c, s: holds.start(c, s.held.run_id, {s.held: "v1"}),
    "renew": lambda c, s: renewed(c, s.held.run_id).held,
    "claim": lambda c, s: claims.claim(c, s.idle_run_id, limit=1, run_deadline=AMPLE),
    "cancel": lambda c, s: requests.cancel(c, [s.held.job_id]),
    "retry": lambda c, s: requests.retry(c, [s.held.job_id]),
    "promote": lambda c, _: sweeps.promote(c),
    "expire": lambda c, _: sweeps.expire(c),
    "rescue": lambda c, _: sweeps.rescue(c, every_seconds=AMPLE.total_seconds()),
}

#: These step over what others hold, or find somebody else at it, and come again.
COMES_AGAIN = frozenset({"claim", "promote", "expire", "rescue"})

#: The acts that make sense at a job in each state.
SCENES: Mapping[JobState, tuple[str, ...]] = {
    JobState.RUNNING: tuple(act for act in ACTS if act != "promote"),
    JobState.QUEUED: ("claim", "cancel", "expire", "release", "retry"),
    JobState.SCHEDULED: ("promote", "claim", "cancel", "expire", "retry_later"),
    JobState.FAILED: ("retry", "claim", "cancel", "complete", "fail", "rescue"),
}


class Stage:
    """Plays acts at a job that is in one state to begin with."""

    def __init__(self, engine: Engine, state: JobState, pair: Iterable[str]) -> None:
        self._engine = engine
        self._state = state
        self._late = "expire" in pair
        self._silent = "rescue" in pair

    def in_turn(self, *names: str) -> tuple[list[object], object]:
        """What acts answer and leave one after the other."""
        scene = self._set()
        answers = [self._answer(name, scene) for name in names]
        return answers, self._left(scene)

    def at_once(
        self, first: str, second: str, *, commit: bool
    ) -> tuple[list[object], object, object]:
        """What two acts answer and leave at once, and what is left once the second came again."""
        scene = self._set()
        with rivals(self._engine) as rival, self._engine.connect() as connection:
            try:
                answers = [_plain(ACTS[first](connection, scene))]
            except LedgerError as refused:
                answers, commit = [refused.code], False
            other = rival(lambda c: ACTS[second](c, scene))
            (connection.commit if commit else connection.rollback)()
            try:
                answers.append(_plain(other.answer()))
            except LedgerError as refused:
                answers.append(refused.code)
        left = self._left(scene)
        self._answer(second, scene)
        return answers, left, self._left(scene)

    def _set(self) -> Scene:
        with self._engine.begin() as connection:
            connection.execute(_EMPTY)
        submitted(self._engine)
        run_id = begun(self._engine)
        held = claimed(self._engine, run_id, started=True)[0]
        with self._engine.begin() as connection:
            if self._state is JobState.QUEUED:
                outcomes.release(connection, run_id, [held])
            elif self._state is JobState.SCHEDULED:
                now = AMPLE * 0
                outcomes.retry_later(connection, run_id, {held: StorageUnavailable()}, base=now)
            elif self._state is JobState.FAILED:
                outcomes.fail(connection, run_id, {held: CorruptSource()})
            if self._late:
                connection.execute(_MAKE_LATE)
        if self._silent:
            silence(self._engine, run_id)
        return Scene(held=held, idle_run_id=begun(self._engine))

    def _answer(self, name: str, scene: Scene) -> object:
        try:
            with self._engine.begin() as connection:
                return _plain(ACTS[name](connection, scene))
        except LedgerError as refused:
            return refused.code

    def _left(self, scene: Scene) -> object:
        job = job_of(self._engine, scene.held.job_id)
        return (
            job.state,
            {None: "nobody", scene.held.run_id: "holder"}.get(job.run_id, "idle run"),
            (job.generation, job.fence, job.attempts, job.crashes),
            job.result is not None,
            [error.code for error in job.errors],
            [
                name
                for name in (
                    "isolation",
                    "scheduled_at",
                    "first_claimed_at",
                    "started_at",
                    "run_deadline",
                    "cancel_requested_at",
                    "finished_at",
                )
                if getattr(job, name) is not None
            ],
        )


def _plain(answer: Any) -> object:
    """An answer without what differs from one playing to the next."""
    if isinstance(answer, dict):
        return list(answer.values())
    if isinstance(answer, list):
        settled = [one for one in answer if isinstance(one, outcomes.Settled)]
        return [(one.stands, one.state) for one in settled] or len(answer)
    return len(answer) if isinstance(answer, set) else answer


PAIRS = [
    pytest.param(state, first, id=f"{state}-{first}")
    for state, acts in SCENES.items()
    for first in acts
]


@pytest.mark.parametrize(("state", "first"), PAIRS)
def test_two_writers_at_once_leave_what_they_leave_in_turn(
    engine: Engine, state: JobState, first: str
) -> None:
    for second in SCENES[state]:
        stage = Stage(engine, state, (first, second))
        answers, left, later = stage.at_once(first, second, commit=True)
        in_turn = stage.in_turn(first, second)
        if second in COMES_AGAIN and not answers[1]:
            assert left == stage.in_turn(first)[1], second
            assert later == in_turn[1], second
        else:
            (second_answer, first_answer), reverse = stage.in_turn(second, first)
            either = (in_turn, ([first_answer, second_answer], reverse))
            assert (answers, left) in either, second


@pytest.mark.parametrize(("state", "first"), PAIRS)
def test_a_writer_that_rolls_back_leaves_no_trace(
    engine: Engine, state: JobState, first: str
) -> None:
    for second in SCENES[state]:
        stage = Stage(engine, state, (first, second))
        _, left, later = stage.at_once(first, second, commit=False)
        alone = stage.in_turn(second)[1]
        untouched = stage.in_turn()[1]
        assert left == alone or (second in COMES_AGAIN and left == untouched), second
        assert second not in COMES_AGAIN or later == alone, second
