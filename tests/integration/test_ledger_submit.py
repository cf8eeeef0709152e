"""Jobs are written once per key, in the state that their start time gives them."""

from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text
from tests.factories import FUTURE, job_of, new_job, submitted
from tests.rivals import rivals

from twofold_schema import lanes
from twofold_schema.errors import KeyReused, SubmissionNotFound
from twofold_schema.ids import new_id, new_packed_id
from twofold_schema.job import Parameters
from twofold_schema.ledger import reads, requests, submissions, submit
from twofold_schema.states import JobClass, JobState

_KEYS_END = text("UPDATE job_keys SET expires_at = clock_timestamp()")
#: Whatever a job's text may hold.
Text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)

_COUNT = text("SELECT count(*) FROM jobs")
_EXPIRE = text("UPDATE jobs SET state = 'expired', finished_at = clock_timestamp()")


def test_a_job_is_read_back_as_it_was_submitted(engine: Engine) -> None:
    parameters = Parameters(seed=2**63 - 1, prompt="a cat, ±1", guidance_scale=0.5, steps=12)
    measure = lanes.measure(parameters, 640, 480)
    asked = new_job(
        parameters=parameters,
        measure=measure,
        job_class=JobClass.INTERACTIVE,
        tenant="lab",
        key="cat-1",
        metadata={"album": "cats"},
        start_by=FUTURE,
        finish_by=FUTURE,
        max_attempts=5,
    )
    job = job_of(engine, submitted(engine, asked)[0])
    assert (job.source, job.output_prefix) == (asked.source, asked.terms.output_prefix)
    assert (job.parameters, dict(job.metadata)) == (parameters, {"album": "cats"})
    assert (job.job_class, job.tenant, job.key) == (JobClass.INTERACTIVE, "lab", "cat-1")
    assert (job.width, job.height, job.pixels) == (640, 480, 640 * 480)
    assert (job.lane, job.est_gpu_seconds) == (measure.lane, measure.est_gpu_seconds)
    assert (job.start_by, job.finish_by, job.max_attempts) == (FUTURE, FUTURE, 5)
    assert (job.generation, job.fence, job.attempts, job.crashes) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    ("start_at", "state"), [(None, JobState.QUEUED), (FUTURE, JobState.SCHEDULED)]
)
def test_a_job_with_a_start_time_waits_for_it(
    engine: Engine, start_at: object, state: JobState
) -> None:
    job = job_of(engine, submitted(engine, new_job(start_at=start_at))[0])
    assert job.state is state
    assert job.scheduled_at == start_at


def test_a_job_of_unknown_size_is_unmeasured(engine: Engine) -> None:
    job = job_of(engine, submitted(engine, new_job(measure=None))[0])
    assert (job.width, job.height) == (None, None)
    assert (job.lane, job.pixels, job.est_gpu_seconds) == (None, None, None)


def test_a_key_names_one_job_and_answers_come_in_the_order_of_the_jobs(engine: Engine) -> None:
    cat, dog, plain = new_job(key="cat"), new_job(key="dog"), new_job()
    (cat_id,) = submitted(engine, cat)
    with engine.begin() as connection:
        answers = submit.insert_jobs(connection, [dog, cat, plain, dog, plain])
    assert [answer.created for answer in answers] == [True, False, True, False, True]
    assert answers[1].job_id == cat_id
    assert answers[3].job_id == answers[0].job_id
    assert len({answer.job_id for answer in answers}) == 4


def test_a_key_is_a_tenants_own(engine: Engine) -> None:
    ours, theirs = submitted(engine, new_job(key="cat"), new_job(key="cat", tenant="lab"))
    assert ours != theirs


@pytest.mark.parametrize(
    "change",
    [
        {"source": "s3://twofold/uploads/dog.png"},
        {"output_prefix": "s3://twofold/elsewhere"},
        {"parameters": Parameters(seed=8)},
        {"measure": None},
        {"job_class": JobClass.BULK},
        {"metadata": {"album": "dogs"}},
        {"start_at": FUTURE},
        {"start_by": FUTURE},
        {"finish_by": FUTURE},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_key_with_another_payload_is_refused_and_nothing_is_written(
    engine: Engine, change: dict[str, object]
) -> None:
    submitted(engine, new_job(key="cat"))
    with pytest.raises(KeyReused), engine.begin() as connection:
        submit.insert_jobs(connection, [new_job(), new_job(key="cat", **change)])
    with engine.begin() as connection:
        assert connection.execute(_COUNT).scalar_one() == 1


def test_two_payloads_of_one_call_cannot_share_a_key(engine: Engine) -> None:
    with pytest.raises(KeyReused), engine.begin() as connection:
        submit.insert_jobs(
            connection, [new_job(key="cat"), new_job(key="cat", job_class=JobClass.BULK)]
        )


def test_a_seed_that_we_drew_is_no_part_of_what_was_asked(engine: Engine) -> None:
    first, again = (new_job(key="cat", parameters=Parameters(), seed=seed) for seed in (1, 2))
    (job_id,) = submitted(engine, first)
    assert submitted(engine, again) == [job_id]
    assert job_of(engine, job_id).parameters.seed == 1


def test_a_key_is_free_again_once_it_is_forgotten(engine: Engine) -> None:
    (old,) = submitted(engine, new_job(key="cat"))
    with engine.begin() as connection:
        connection.execute(_KEYS_END)
    (new,) = submitted(engine, new_job(key="cat", job_class=JobClass.BULK))
    assert new != old
    assert submitted(engine, new_job(key="cat", job_class=JobClass.BULK)) == [new]


def test_a_key_is_remembered_as_long_as_asked(engine: Engine) -> None:
    with engine.begin() as connection:
        (old,) = submit.insert_jobs(
            connection, [new_job(key="cat")], remember_keys=timedelta(seconds=-1)
        )
        (new,) = submit.insert_jobs(connection, [new_job(key="cat")])
    assert new.created
    assert new.job_id != old.job_id


def test_a_submission_has_its_jobs_oldest_first(engine: Engine) -> None:
    with engine.begin() as connection:
        submission_id = submissions.begin(connection)
        answers = submit.insert_jobs(
            connection, [new_job() for _ in range(3)], submission_id=submission_id
        )
        submit.insert_jobs(connection, [new_job()])
        submissions.seal(connection, submission_id)
        submissions.seal(connection, submission_id)
        job_ids = reads.submission_jobs(connection, submission_id)
    assert job_ids == [answer.job_id for answer in answers]


def test_an_unknown_submission_takes_no_jobs(engine: Engine) -> None:
    with pytest.raises(SubmissionNotFound), engine.begin() as connection:
        submissions.join(connection, new_id())


@pytest.mark.parametrize("to_seal", [True, False])
def test_a_submission_is_not_sealed_under_who_adds_to_it(engine: Engine, *, to_seal: bool) -> None:
    with engine.begin() as connection:
        submission_id = submissions.begin(connection)
    with rivals(engine) as rival, engine.begin() as connection:
        assert submissions.join(connection, submission_id, to_seal=to_seal)
        sealer = rival(lambda c: submissions.seal(c, submission_id))
        assert sealer.blocked
        submit.insert_jobs(connection, [new_job()], submission_id=submission_id)
        connection.commit()
        sealer.answer()
    with engine.begin() as connection:
        assert not submissions.join(connection, submission_id)


def join_and_seal(submission_id: UUID, connection: Connection) -> bool:
    takes_more = submissions.join(connection, submission_id, to_seal=True)
    submissions.seal(connection, submission_id)
    return takes_more


def test_two_that_will_seal_one_submission_do_not_wait_for_each_other(engine: Engine) -> None:
    """The second waits for the first from the start."""
    with engine.begin() as connection:
        submission_id = submissions.begin(connection)
    with rivals(engine) as rival, engine.begin() as connection:
        assert submissions.join(connection, submission_id, to_seal=True)
        other = rival(partial(join_and_seal, submission_id))
        assert other.blocked
        submissions.seal(connection, submission_id)
        connection.commit()
        assert not other.answer()


def test_who_will_seal_a_submission_has_his_turn_before_those_that_come_later(
    engine: Engine,
) -> None:
    """Else he would wait for as long as others add to it without a pause."""
    with engine.begin() as connection:
        submission_id = submissions.begin(connection)
    with rivals(engine) as rival, engine.begin() as connection:
        assert submissions.join(connection, submission_id)
        sealer = rival(partial(join_and_seal, submission_id))
        assert sealer.blocked
        later = rival(lambda c: submissions.join(c, submission_id))
        assert later.blocked
        connection.commit()
        assert sealer.answer()
        assert not later.answer()


def test_who_retries_a_job_has_his_turn_before_those_that_add_to_its_submission_later(
    engine: Engine,
) -> None:
    with engine.begin() as connection:
        submission_id = submissions.begin(connection)
        (job_id, _), *_ = submit.insert_jobs(connection, [new_job()], submission_id=submission_id)
    with engine.begin() as connection:
        connection.execute(_EXPIRE)
    with rivals(engine) as rival, engine.begin() as connection:
        assert submissions.join(connection, submission_id)
        retrying = rival(lambda c: requests.retry_ended(c, [job_id]))
        assert retrying.blocked
        later = rival(lambda c: submissions.join(c, submission_id))
        assert later.blocked
        connection.commit()
        assert retrying.answer() == {job_id}
        assert later.answer()


def test_a_rolled_back_submit_leaves_neither_job_nor_key(engine: Engine) -> None:
    with engine.connect() as connection:
        (undone,) = submit.insert_jobs(connection, [new_job(key="cat")])
        connection.rollback()
    assert submitted(engine, new_job(key="cat", job_class=JobClass.BULK)) != [undone.job_id]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example has its own key
)
@given(Text, Text, Text, st.none() | Text)
@example("\\N", "\\.", "\t\n\r\\", "\x01\u2028\N{CAT}")
def test_any_text_comes_back_as_it_was_submitted(
    engine: Engine, source: str, prompt: str, value: str, publish_to: str | None
) -> None:
    """Also what COPY gives a meaning of its own."""
    key = new_id().hex + value
    asked = new_job(
        source=source,
        key=key,
        parameters=Parameters(prompt=prompt, seed=1),
        metadata={value: prompt},
        publish_to=publish_to,
    )
    several = [asked, *[new_job(key=f"{number}{key}") for number in range(30)]]
    with engine.begin() as connection:
        ids = [new_packed_id() for _ in several]
        written = submit.insert_each(connection, several, job_ids=ids, likely_new=True)
        assert submit.insert_jobs(connection, several)[0] == (UUID(bytes=ids[0]), False)

    assert (written.job_ids, list(written.created), written.faults) == (ids, [True] * 31, {})
    job = job_of(engine, UUID(bytes=ids[0]))
    assert (job.source, job.key, job.publish_to) == (source, key, publish_to)
    assert (job.parameters.prompt, dict(job.metadata)) == (prompt, {value: prompt})
