"""The states of a job and how it moves between them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from twofold_schema.ids import new_id
from twofold_schema.job import Job, Parameters
from twofold_schema.states import FINAL_STATES, TRANSITIONS, JobClass, JobState

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(**changes: Any) -> Job:
    """A queued job as its row has it; `changes` replace its columns."""
    row: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
    row |= {
        "id": new_id(),
        "tenant": "default",
        "job_class": 1,
        "state": "queued",
        "generation": 1,
        "fence": 0,
        "attempts": 0,
        "max_attempts": 3,
        "crashes": 0,
        "source": "s3://bucket/cat.png",
        "output_prefix": "s3://bucket/results",
        "output": {},
        "parameters": {"seed": 7},
        "metadata": {},
        "errors": [],
        "created_at": NOW,
    }
    return Job.from_row(row | changes)


def error(generation: int, code: str = "storage_unavailable") -> dict[str, Any]:
    """An entry of the error history."""
    return {
        "code": code,
        "message": "It did not answer.",
        "generation": generation,
        "attempt": 1,
        "fence": 1,
        "run_id": None,
        "at": NOW.isoformat(),
    }


class TestTransitions:
    def test_every_state_has_its_row(self) -> None:
        assert set(TRANSITIONS) == set(JobState)

    def test_no_state_moves_to_itself_and_every_move_has_a_cause(self) -> None:
        moves = [(a, b, why) for a, ways in TRANSITIONS.items() for b, why in ways.items()]

        assert all(a is not b and why for a, b, why in moves)

    def test_a_final_state_is_left_by_an_operators_retry_alone(self) -> None:
        for state in FINAL_STATES:
            assert dict(TRANSITIONS[state]) in ({}, {JobState.QUEUED: "retry"})

    def test_success_and_a_confirmed_cancel_are_never_taken_back(self) -> None:
        assert not TRANSITIONS[JobState.SUCCEEDED]
        assert not TRANSITIONS[JobState.CANCELLED]

    def test_a_job_is_claimed_from_the_queue_and_nowhere_else(self) -> None:
        origins = [state for state, ways in TRANSITIONS.items() if JobState.RUNNING in ways]

        assert origins == [JobState.QUEUED]

    def test_every_state_that_is_not_final_can_end_in_a_cancel_or_a_missed_deadline(self) -> None:
        for state in set(JobState) - FINAL_STATES:
            assert {JobState.CANCELLED, JobState.EXPIRED} <= set(TRANSITIONS[state])

    @pytest.mark.parametrize("start", [JobState.SCHEDULED, JobState.QUEUED])
    def test_every_state_can_be_reached_from_where_jobs_begin(self, start: JobState) -> None:
        reached, waiting = {start}, [start]
        while waiting:
            new = set(TRANSITIONS[waiting.pop()]) - reached
            reached |= new
            waiting += new

        assert reached == set(JobState)

    def test_nobody_can_change_the_table(self) -> None:
        with pytest.raises(TypeError):
            TRANSITIONS[JobState.QUEUED] = {}  # type: ignore[index]
        with pytest.raises(TypeError):
            TRANSITIONS[JobState.QUEUED][JobState.SUCCEEDED] = "magic"  # type: ignore[index]

    def test_is_final_says_the_same_as_the_set(self) -> None:
        assert {state for state in JobState if state.is_final} == FINAL_STATES


class TestFlags:
    @pytest.mark.parametrize("state", JobState)
    def test_retrying_is_a_scheduled_job_that_used_an_attempt(self, state: JobState) -> None:
        assert not job(state=state, attempts=0).retrying
        assert job(state=state, attempts=1).retrying == (state is JobState.SCHEDULED)

    @pytest.mark.parametrize("state", JobState)
    def test_cancelling_is_a_running_job_that_was_called_off(self, state: JobState) -> None:
        assert not job(state=state).cancelling
        flagged = job(state=state, cancel_requested_at=NOW)
        assert flagged.cancelling == (state is JobState.RUNNING)


class TestJob:
    def test_its_error_is_the_last_of_this_generation(self) -> None:
        assert job().error is None
        assert job(generation=2, errors=[error(1)]).error is None

        last = job(
            generation=2, errors=[error(1), error(2), error(2, "model_output_invalid")]
        ).error
        assert last is not None
        assert last.code == "model_output_invalid"

    def test_a_job_that_no_run_holds_has_no_claim(self) -> None:
        with pytest.raises(ValueError, match="held by no run"):
            _ = job().claim

    def test_classes_are_ranked_by_urgency(self) -> None:
        ranked = sorted(JobClass, key=lambda job_class: job_class.rank)

        assert ranked == [JobClass.INTERACTIVE, JobClass.STANDARD, JobClass.BULK]
        assert [job(job_class=rank).job_class for rank in range(3)] == ranked


class TestParameters:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"steps": 0},
            {"steps": 151},
            {"guidance_scale": -0.1},
            {"guidance_scale": float("nan")},
            {"guidance_scale": float("inf")},
            {"seed": -1},
            {"seed": 2**63},
            {"prompt": "x" * 2001},
            {"prompt": "\x00"},
            {"negative_prompt": "\ud800"},
            {"model_revision": "\x00"},
            {"colour": "red"},
        ],
    )
    def test_what_is_out_of_range_or_cannot_be_stored_is_refused(self, wrong: Any) -> None:
        with pytest.raises(ValidationError):
            Parameters.model_validate(wrong)
