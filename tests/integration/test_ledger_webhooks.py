"""Endpoints, and the outbox: who is told what, once, and how far that is."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from tests.factories import (
    FUTURE,
    PAST,
    begun,
    claimed,
    endpoint,
    job_of,
    new_job,
    outbox_of,
    result_of,
    submitted,
)
from tests.rivals import rivals

from twofold_schema.egress import Egress
from twofold_schema.errors import (
    CorruptSource,
    DeliveryNotFound,
    InvalidOperation,
    InvalidParameter,
    InvalidWebhook,
    StorageUnavailable,
    WebhookNotFound,
)
from twofold_schema.ids import new_id, new_packed_id
from twofold_schema.ledger import (
    claims,
    deliveries,
    generations,
    history,
    operations,
    outcomes,
    requests,
    sending,
    submissions,
    submit,
    sweeps,
    webhooks,
)
from twofold_schema.ledger.sending import GIVE_UP, PAUSES, Leased, Outcome
from twofold_schema.states import FINAL_STATES, JobState
from twofold_schema.webhook import JOB_EVENTS, Delivery, DeliveryState, EventType

DAY = timedelta(days=1)
WELL = Outcome(status=204, seconds=0.1)
ILL = Outcome(status=500, seconds=0.1)
_LOCK_ENDPOINT = text("SELECT FROM webhooks WHERE id = :id FOR UPDATE NOWAIT")


def cancelled(engine: Engine, **changes: Any) -> UUID:
    """The id of a job that was submitted and called off: an end is all that most tests need."""
    (job_id,) = submitted(engine, new_job(**changes))
    with engine.begin() as connection:
        requests.cancel(connection, [job_id])
    return job_id


def leased(engine: Engine, **limits: Any) -> list[Leased]:
    """What a keeper with room for much took, and committed that."""
    room: dict[str, Any] = {"rows": 100, "failing_rows": 100, "each": 100, "busy": {}}
    with engine.begin() as connection:
        return sending.lease(connection, **room | limits)


def recorded(engine: Engine, *tries: tuple[Leased, Outcome]) -> dict[UUID, str]:
    """Which endpoints were disabled when these outcomes were recorded."""
    with engine.begin() as connection:
        return dict(sending.record(connection, tries))


def due_now(engine: Engine) -> None:
    """Let all pauses and leases be over."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE webhooks SET retry_at = NULL"))
        connection.execute(
            text("UPDATE deliveries SET next_try_at = '2020-01-01Z' WHERE state = 'pending'")
        )


def only(engine: Engine) -> Delivery:
    """The one message that there is."""
    (one,) = outbox_of(engine)
    return one


class TestEndpoints:
    def test_a_secret_is_told_once_and_stands_in_one_place(self, engine: Engine) -> None:
        webhook, secret = endpoint(engine, tenant="acme")
        plain = secret.get_secret_value()
        assert plain.startswith("whsec_")
        with engine.connect() as connection:
            tables = ("webhooks", "operations", "deliveries", "events")
            rows = [connection.execute(text(f"SELECT * FROM {name}")).all() for name in tables]
            kept = connection.execute(text("SELECT secret FROM webhook_secrets")).scalars().all()
            found = webhooks.find(connection)
        assert kept == [plain]
        assert found == [webhook]
        said = repr((rows, found, webhook, secret, str(secret)))
        assert plain not in said
        assert plain.removeprefix("whsec_") not in said

    def test_a_message_that_was_leased_hides_its_secrets(self, engine: Engine) -> None:
        _, secret = endpoint(engine)
        cancelled(engine)
        (one,) = leased(engine)
        assert [held.get_secret_value() for held in one.secrets] == [secret.get_secret_value()]
        assert "whsec_" not in repr(one)

    def test_are_made_only_where_webhooks_may_go(self, engine: Engine) -> None:
        with pytest.raises(InvalidWebhook), engine.begin() as connection:
            webhooks.create(connection, "https://127.0.0.1/", egress=Egress(), who="ann")
        with engine.connect() as connection:
            assert webhooks.find(connection) == []

    @pytest.mark.parametrize("events", [[], [EventType.TEST]])
    def test_choose_events_that_there_are(self, engine: Engine, events: list[EventType]) -> None:
        with pytest.raises(InvalidWebhook, match=r"job\.succeeded"):
            endpoint(engine, events=events)

    def test_whoever_makes_and_changes_one_is_written_down(self, engine: Engine) -> None:
        webhook, _ = endpoint(engine, tenant="acme", reason="billing")
        with engine.begin() as connection:
            webhooks.rotate(connection, webhook.id, who="bob")
            webhooks.disable(connection, webhook.id, who="bob", reason="noise")
            webhooks.enable(connection, webhook.id, who="ann")
            noted = operations.find(connection)
        assert [(one.who, (one.change or {})["act"]) for one in noted] == [
            ("ann", "enable"),
            ("bob", "disable"),
            ("bob", "rotate"),
            ("ann", "create"),
        ]
        assert {one.filter.tenant for one in noted} == {"acme"}

    @pytest.mark.parametrize(
        "call",
        [
            webhooks.get,
            lambda c, one: webhooks.rotate(c, one, who="ann"),
            lambda c, one: webhooks.disable(c, one, who="ann", reason="why"),
            lambda c, one: webhooks.enable(c, one, who="ann"),
            deliveries.send_test,
        ],
    )
    def test_that_are_not_there(self, engine: Engine, call: Callable[..., object]) -> None:
        with pytest.raises(WebhookNotFound), engine.begin() as connection:
            call(connection, new_id())


class TestSecrets:
    def _signing(self, engine: Engine) -> list[str]:
        due_now(engine)
        (one,) = leased(engine)
        return [secret.get_secret_value() for secret in one.secrets]

    def test_the_old_one_signs_beside_the_new_one_for_a_while(self, engine: Engine) -> None:
        webhook, first = endpoint(engine)
        cancelled(engine)
        with engine.begin() as connection:
            second = webhooks.rotate(connection, webhook.id, who="ann")
        both = [second.get_secret_value(), first.get_secret_value()]
        assert self._signing(engine) == both
        with engine.begin() as connection:
            connection.execute(
                text("UPDATE webhook_secrets SET expires_at = '2020-01-01Z' WHERE secret = :old"),
                {"old": both[1]},
            )
        assert self._signing(engine) == both[:1]

    def test_one_that_got_out_signs_no_more(self, engine: Engine) -> None:
        webhook, _ = endpoint(engine)
        cancelled(engine)
        with engine.begin() as connection:
            new = webhooks.rotate(connection, webhook.id, who="ann", keep=timedelta(0))
        assert self._signing(engine) == [new.get_secret_value()]

    def test_an_old_one_signs_no_longer_for_being_rotated_again(self, engine: Engine) -> None:
        webhook, first = endpoint(engine)
        with engine.begin() as connection:
            webhooks.rotate(connection, webhook.id, who="ann", keep=timedelta(hours=1))
            webhooks.rotate(connection, webhook.id, who="ann", keep=timedelta(days=9))
            left = connection.execute(
                text("""
                    SELECT expires_at < clock_timestamp() + interval '2 hours'
                    FROM webhook_secrets WHERE secret = :first
                """),
                {"first": first.get_secret_value()},
            ).scalar_one()
        assert left is True

    def test_there_are_never_too_many_for_a_header(self, engine: Engine) -> None:
        webhook, _ = endpoint(engine)
        cancelled(engine)
        with engine.begin() as connection:
            made = [webhooks.rotate(connection, webhook.id, who="ann") for _ in range(9)]
        newest = [one.get_secret_value() for one in made[::-1][: webhooks.MOST_SECRETS]]
        assert self._signing(engine) == newest


class TestJobs:
    """Ends of jobs are told, and nothing else."""

    def test_each_end_has_an_event(self) -> None:
        assert {EventType.of_job(state) for state in FINAL_STATES} == JOB_EVENTS

    def test_of_each_kind(self, engine: Engine) -> None:
        webhook, _ = endpoint(engine)
        run_id = begun(engine)
        ids = submitted(engine, *[new_job(metadata={"order": "42"}, key=f"k{n}") for n in range(5)])
        taken = {claim.job_id: claim for claim in claimed(engine, run_id, started=True)}
        good, bad, off, late, again = ids
        with engine.begin() as connection:
            outcomes.complete(connection, run_id, {taken[good]: result_of(taken[good])})
            outcomes.fail(connection, run_id, {taken[bad]: CorruptSource()})
            outcomes.retry_later(connection, run_id, {taken[again]: StorageUnavailable()})
            requests.cancel(connection, [off])
            outcomes.release(connection, run_id, [taken[off]])
            connection.execute(
                text("UPDATE jobs SET finish_by = '2020-01-01Z' WHERE id = :id"), {"id": late}
            )
            sweeps.expire(connection)

        told = {one.job_id: one for one in outbox_of(engine)}
        assert {job_id: one.type for job_id, one in told.items()} == {
            good: "job.succeeded",
            bad: "job.failed",
            off: "job.cancelled",
            late: "job.expired",
        }
        for one in told.values():
            assert (one.webhook_id, one.tenant) == (webhook.id, "default")
            assert (one.state, one.tries, one.log) == (DeliveryState.PENDING, 0, ())
            body = json.loads(one.body)
            assert list(body) == ["type", "timestamp", "data"]
            assert body["type"] == one.type
            moment = datetime.fromisoformat(body["timestamp"])
            assert moment.utcoffset() == timedelta(0)
            assert abs(moment - one.created_at) < DAY
        result = result_of(taken[good]).uri
        common: dict[str, Any] = {"generation": 1, "submission_id": None, "tenant": "default"}
        common |= {"metadata": {"order": "42"}}
        assert json.loads(told[good].body)["data"] == common | {
            "job_id": str(good),
            "key": "k0",
            "state": "succeeded",
            "result_uri": result,
            "error_code": None,
        }
        assert json.loads(told[bad].body)["data"] == common | {
            "job_id": str(bad),
            "key": "k1",
            "state": "failed",
            "result_uri": None,
            "error_code": "corrupt_source",
        }

    def test_a_change_that_is_rolled_back_tells_nobody(self, engine: Engine) -> None:
        endpoint(engine)
        (job_id,) = submitted(engine)
        with engine.connect() as connection, connection.begin() as transaction:
            requests.cancel(connection, [job_id])
            assert len(deliveries.find(connection)) == 1
            transaction.rollback()
        assert outbox_of(engine) == []

    def test_nobody_who_is_not_there_is_told(self, engine: Engine) -> None:
        cancelled(engine)
        endpoint(engine, tenant="other")
        cancelled(engine)
        assert outbox_of(engine) == []

    def test_an_endpoint_that_is_disabled_is_not_told(self, engine: Engine) -> None:
        webhook, _ = endpoint(engine)
        with engine.begin() as connection:
            webhooks.disable(connection, webhook.id, who="ann", reason="noise")
        cancelled(engine)
        assert outbox_of(engine) == []

    def test_each_endpoint_of_a_tenant_is_told_what_it_wants(self, engine: Engine) -> None:
        everything, _ = endpoint(engine)
        some, _ = endpoint(engine, events=[EventType.JOB_FAILED, EventType.JOB_CANCELLED])
        endpoint(engine, events=[EventType.JOB_SUCCEEDED])
        named, _ = endpoint(engine, everything=False)
        plain, naming = cancelled(engine), cancelled(engine, webhook=named.id)
        told = {(one.job_id, one.webhook_id) for one in outbox_of(engine)}
        assert told == {
            (plain, everything.id),
            (plain, some.id),
            (naming, everything.id),
            (naming, some.id),
            (naming, named.id),
        }
        assert job_of(engine, naming).webhook_id == named.id

    def test_of_many_at_once_each_is_told_once(self, engine: Engine) -> None:
        endpoint(engine)
        ids = submitted(engine, *[new_job() for _ in range(2000)])
        with engine.begin() as connection:
            requests.cancel(connection, ids)
        with engine.connect() as connection:
            found = connection.execute(text("SELECT job_id FROM deliveries")).scalars().all()
        assert sorted(found) == sorted(ids)

    def test_another_generation_is_told_of_anew(self, engine: Engine) -> None:
        endpoint(engine)
        (job_id,) = submitted(engine, new_job(start_by=PAST))
        for _ in range(2):
            with engine.begin() as connection:
                sweeps.expire(connection)
                history.move(connection, age=timedelta(0))
                requests.retry(connection, [job_id], start_by=PAST)
        generations = [json.loads(one.body)["data"]["generation"] for one in outbox_of(engine)]
        assert generations == [1, 2]

    def test_what_is_written_after_the_end_is_not_told(self, engine: Engine) -> None:
        endpoint(engine)
        job_id = cancelled(engine)
        with engine.begin() as connection:
            connection.execute(
                text("UPDATE jobs SET published_at = clock_timestamp() WHERE id = :id"),
                {"id": job_id},
            )
        assert len(outbox_of(engine)) == 1

    def test_no_message_is_larger_than_receivers_are_asked_to_take(self, engine: Engine) -> None:
        endpoint(engine)
        for character in ("\x01", "ä", "🙂", '"'):
            pairs = {f"{n:02}" + character * 62: character * 512 for n in range(16)}
            job_id = cancelled(engine, key=character * 200, metadata=pairs)
            one = outbox_of(engine)[-1]
            assert one.job_id == job_id
            assert len(one.body.encode()) < 20_000
            assert json.loads(one.body)["data"]["metadata"] is None

    def test_metadata_of_a_usual_size_is_told(self, engine: Engine) -> None:
        endpoint(engine)
        pairs = {f"name-{n}": "x" * 512 for n in range(16)}
        cancelled(engine, metadata=pairs)
        assert json.loads(only(engine).body)["data"]["metadata"] == pairs


class TestNaming:
    """Whoever submits names endpoints of his own tenant only."""

    def test_one_that_is_not_there_stops_no_other(self, engine: Engine) -> None:
        webhook, _ = endpoint(engine)
        foreign, _ = endpoint(engine, tenant="other")
        asked = [
            new_job(webhook=one, key=f"k{at}")
            for at, one in enumerate((None, new_id(), webhook.id, foreign.id))
        ]
        with engine.begin() as connection:
            written = submit.insert_each(
                connection, asked, job_ids=[new_packed_id() for _ in asked], likely_new=True
            )
        assert list(written.faults) == [1, 3]
        assert all(isinstance(fault, InvalidParameter) for fault in written.faults.values())
        assert list(written.created) == [True, False, True, False]
        with engine.connect() as connection:
            kept = connection.execute(text("SELECT key FROM jobs ORDER BY key")).scalars().all()
            held = connection.execute(text("SELECT key FROM job_keys ORDER BY 1")).scalars().all()
        assert kept == held == ["k0", "k2"]

    def test_one_that_is_not_there_is_refused_where_all_or_none_are_written(
        self, engine: Engine
    ) -> None:
        with pytest.raises(InvalidParameter, match="endpoint"):
            submitted(engine, new_job(), new_job(webhook=new_id()))

    def test_a_key_that_is_remembered_is_no_other_for_there_being_endpoints(self) -> None:
        webhook = new_id()
        assert new_job(key="k").fingerprint() == new_job(key="k", webhook=None).fingerprint()
        assert new_job(key="k").fingerprint() != new_job(key="k", webhook=webhook).fingerprint()


class TestSubmissions:
    def _ended(self, engine: Engine, submission_id: UUID) -> bool:
        with engine.begin() as connection:
            submissions.seal(connection, submission_id)
            (one,) = generations.sealed(connection, after=None, limit=1)
            return generations.finish(
                connection, one, results="s3://a/r", errors="s3://a/e", counts={JobState.FAILED: 3}
            )

    def test_its_end_is_told_once(self, engine: Engine) -> None:
        webhook, _ = endpoint(engine)
        endpoint(engine, events=[EventType.JOB_FAILED])
        endpoint(engine, everything=False)
        endpoint(engine, tenant="other")
        with engine.begin() as connection:
            submission_id = submissions.begin(connection, key="album")
        assert self._ended(engine, submission_id)
        one = only(engine)
        assert (one.webhook_id, one.type) == (webhook.id, "submission.finished")
        assert (one.submission_id, one.job_id) == (submission_id, None)
        body = json.loads(one.body)
        assert datetime.fromisoformat(body["timestamp"]).utcoffset() == timedelta(0)
        assert body["data"] == {
            "submission_id": str(submission_id),
            "generation": 1,
            "tenant": "default",
            "key": "album",
            "counts": {"failed": 3},
            "results_uri": "s3://a/r",
            "errors_uri": "s3://a/e",
        }

    def test_it_names_an_endpoint_of_its_tenant(self, engine: Engine) -> None:
        named, _ = endpoint(engine, everything=False)
        with engine.begin() as connection:
            submission_id = submissions.begin(connection, webhook=named.id)
        assert self._ended(engine, submission_id)
        assert only(engine).webhook_id == named.id
        with pytest.raises(InvalidParameter), engine.begin() as connection:
            submissions.begin(connection, webhook=named.id, tenant="other")

    def test_an_end_that_came_too_late_tells_nobody(self, engine: Engine) -> None:
        endpoint(engine)
        with engine.begin() as connection:
            submission_id = submissions.begin(connection)
            submissions.seal(connection, submission_id)
            stale = generations.Generation(submission_id, 7)
            assert not generations.finish(connection, stale, results="r", errors="e", counts={})
        assert outbox_of(engine) == []


class TestLeases:
    def test_two_keepers_never_hold_the_same_message(self, engine: Engine) -> None:
        endpoint(engine)
        jobs = {cancelled(engine) for _ in range(3)}
        room: dict[str, Any] = {"rows": 9, "failing_rows": 9, "each": 2, "busy": {}}
        with engine.begin() as one, engine.begin() as other:
            first = sending.lease(one, **room)
            second = sending.lease(other, **room)
        assert (len(first), len(second)) == (2, 1)
        told = {one.id: one.job_id for one in outbox_of(engine)}
        assert {told[one.id] for one in first + second} == jobs
        assert leased(engine) == []

    def test_one_whose_keeper_died_comes_again_under_its_id(self, engine: Engine) -> None:
        endpoint(engine)
        cancelled(engine)
        (first,) = leased(engine)
        due_now(engine)
        (second,) = leased(engine)
        assert (first.id, first.body) == (second.id, second.body)
        assert first.until != second.until

    def test_nothing_is_sent_to_an_endpoint_that_is_disabled_until_it_is_enabled(
        self, engine: Engine
    ) -> None:
        webhook, _ = endpoint(engine)
        cancelled(engine)
        with engine.begin() as connection:
            webhooks.disable(connection, webhook.id, who="ann", reason="noise")
        assert leased(engine) == []
        with engine.begin() as connection:
            webhooks.enable(connection, webhook.id, who="ann")
        assert len(leased(engine)) == 1

    def test_an_endpoint_has_no_more_than_its_part(self, engine: Engine) -> None:
        """However many wait for it, others are taken beside them."""
        flooded, _ = endpoint(engine, tenant="flood")
        quiet, _ = endpoint(engine, tenant="quiet")
        for _ in range(20):
            cancelled(engine, tenant="flood")
        cancelled(engine, tenant="quiet")
        first = leased(engine, rows=9, each=4)
        assert sorted(one.webhook_id for one in first) == [*[flooded.id] * 4, quiet.id]
        assert leased(engine, rows=9, each=4, busy={flooded.id: 4}) == []
        assert len(leased(engine, rows=9, each=4, busy={flooded.id: 3})) == 1

    def test_endpoints_that_fail_have_one_try_each_and_leave_room(self, engine: Engine) -> None:
        for tenant in ("a", "b", "c"):
            endpoint(engine, tenant=tenant)
            for _ in range(5):
                cancelled(engine, tenant=tenant)
        recorded(engine, *((one, ILL) for one in leased(engine, each=1)))
        due_now(engine)
        taken = leased(engine, rows=50, failing_rows=2, each=4)
        assert len({one.webhook_id for one in taken}) == len(taken) == 2
        assert all(one.failing for one in taken)


class TestRecords:
    def test_a_success_ends_it(self, engine: Engine) -> None:
        endpoint(engine)
        cancelled(engine)
        (one,) = leased(engine)
        recorded(engine, (one, WELL))
        after = only(engine)
        assert (after.state, after.tries, after.next_try_at) == ("delivered", 1, None)
        assert after.ended_at is not None
        (entry,) = after.log
        assert (entry.status, entry.seconds, entry.error) == (204, 0.1, None)
        assert entry.at == one.began_at

    def test_a_failure_is_tried_again_by_the_schedule_until_it_is_spent(
        self, engine: Engine
    ) -> None:
        endpoint(engine)
        cancelled(engine)
        for spent, pause in enumerate([*PAUSES, None], start=1):
            due_now(engine)
            (one,) = leased(engine)
            recorded(engine, (one, ILL))
            after = only(engine)
            assert after.tries == spent
            if pause is None:
                assert (after.state, after.next_try_at) == ("failed", None)
            else:
                assert after.next_try_at is not None
                began = after.log[-1].at
                assert timedelta(seconds=pause) <= after.next_try_at - began
                # Up to a fifth longer, and what this test took.
                longest = timedelta(seconds=1.2 * pause + 60)
                assert after.next_try_at - began <= longest
        assert timedelta(days=3) <= timedelta(seconds=sum(PAUSES)) <= timedelta(days=4)
        assert len(only(engine).log) == 10

    def test_what_an_endpoint_asks_for_is_heeded(self, engine: Engine) -> None:
        """For this message and for all others to it."""
        webhook, _ = endpoint(engine)
        cancelled(engine)
        (one,) = leased(engine)
        recorded(engine, (one, Outcome(status=429, seconds=0.1, retry_after=3600.0)))
        after = only(engine)
        assert after.next_try_at is not None
        assert after.next_try_at - after.log[0].at >= timedelta(hours=1)
        cancelled(engine)
        assert leased(engine) == []
        with engine.connect() as connection:
            found = webhooks.get(connection, webhook.id)
        assert found.failing_since == one.began_at

    def test_a_failure_of_a_lease_that_is_over_is_nobodys(self, engine: Engine) -> None:
        endpoint(engine)
        cancelled(engine)
        (stale,) = leased(engine)
        due_now(engine)
        leased(engine)
        recorded(engine, (stale, ILL))
        assert (only(engine).state, only(engine).tries) == ("pending", 0)

    def test_a_success_counts_however_late_it_is_recorded(self, engine: Engine) -> None:
        endpoint(engine)
        cancelled(engine)
        (late,) = leased(engine)
        due_now(engine)
        (other,) = leased(engine)
        recorded(engine, (late, WELL))
        recorded(engine, (other, ILL))
        assert (only(engine).state, only(engine).tries) == ("delivered", 1)

    def test_a_record_whose_reply_was_lost_may_be_repeated(self, engine: Engine) -> None:
        endpoint(engine)
        for outcome, tries in ((ILL, 1), (WELL, 2)):
            if tries == 1:
                cancelled(engine)
            due_now(engine)
            (one,) = leased(engine)
            recorded(engine, (one, outcome))
            recorded(engine, (one, outcome))
            assert (only(engine).tries, len(only(engine).log)) == (tries, tries)

    def test_keepers_that_record_tries_of_the_same_endpoints_never_deadlock(
        self, engine: Engine
    ) -> None:
        """Endpoints are locked in the order of their ids, whichever of them were heard."""
        ids = sorted(endpoint(engine, tenant=tenant)[0].id for tenant in ("a", "b"))
        for tenant in ("a", "b"):
            cancelled(engine, tenant=tenant)
        recorded(engine, *((one, ILL) for one in leased(engine)))
        due_now(engine)
        tries = {one.webhook_id: one for one in leased(engine)}
        came = [(tries[ids[0]], ILL), (tries[ids[1]], WELL)]
        with engine.begin() as other, rivals(engine) as rival:
            other.execute(_LOCK_ENDPOINT, {"id": ids[0]})
            keeper = rival(lambda connection: sending.record(connection, came))
            assert keeper.blocked
            other.execute(_LOCK_ENDPOINT, {"id": ids[1]})
            other.rollback()
            assert keeper.answer() == {}

    def test_an_endpoint_that_is_gone_is_told_nothing_more(self, engine: Engine) -> None:
        webhook, _ = endpoint(engine)
        cancelled(engine)
        (one,) = leased(engine)
        gone = Outcome(status=410, seconds=0.1)
        assert list(recorded(engine, (one, gone))) == [webhook.id]
        assert only(engine).state is DeliveryState.FAILED
        with engine.connect() as connection:
            found = webhooks.get(connection, webhook.id)
        assert found.disabled_at is not None
        assert "410" in (found.disabled_reason or "")
        cancelled(engine)
        assert len(outbox_of(engine)) == 1

    def _failing_for(self, engine: Engine, age: timedelta) -> None:
        with engine.begin() as connection:
            connection.execute(
                text("UPDATE webhooks SET failing_since = clock_timestamp() - :age"), {"age": age}
            )

    def test_an_endpoint_that_failed_for_as_long_as_one_is_tried_is_disabled(
        self, engine: Engine
    ) -> None:
        webhook, _ = endpoint(engine)
        cancelled(engine)
        self._failing_for(engine, GIVE_UP - timedelta(hours=1))
        (one,) = leased(engine)
        assert recorded(engine, (one, ILL)) == {}
        self._failing_for(engine, GIVE_UP)
        due_now(engine)
        (one,) = leased(engine)
        assert list(recorded(engine, (one, ILL))) == [webhook.id]
        assert only(engine).state is DeliveryState.PENDING

    def test_one_message_that_is_not_liked_disables_no_endpoint(self, engine: Engine) -> None:
        """Though its last try comes after three days: others were heard meanwhile."""
        endpoint(engine)
        cancelled(engine)
        (bad,) = leased(engine)
        recorded(engine, (bad, ILL))
        self._failing_for(engine, GIVE_UP + DAY)
        cancelled(engine)
        due_now(engine)
        taken = leased(engine, each=9) + leased(engine, each=9)
        by_id = {one.id: one for one in taken}
        (good,) = (one for one in by_id.values() if one.id != bad.id)
        recorded(engine, (good, WELL))
        if bad.id not in by_id:
            due_now(engine)
            (by_id[bad.id],) = leased(engine)
        assert recorded(engine, (by_id[bad.id], ILL)) == {}

    def test_an_endpoint_waits_longer_each_time_it_fails(self, engine: Engine) -> None:
        """But not for tries that had begun together."""
        endpoint(engine)
        for _ in range(4):
            cancelled(engine)

        def failures() -> int:
            with engine.connect() as connection:
                return int(connection.execute(text("SELECT failures FROM webhooks")).scalar_one())

        together = leased(engine)
        for one in together:
            recorded(engine, (one, ILL))
        assert failures() == 1
        for count in (2, 3):
            due_now(engine)
            (one,) = leased(engine)
            recorded(engine, (one, ILL))
            assert failures() == count
        due_now(engine)
        (one,) = leased(engine)
        recorded(engine, (one, WELL))
        assert failures() == 0


class TestAgain:
    def test_what_has_ended_is_delivered_anew_under_its_id(self, engine: Engine) -> None:
        endpoint(engine)
        cancelled(engine)
        (one,) = leased(engine)
        recorded(engine, (one, WELL))
        with engine.begin() as connection:
            again = deliveries.redeliver(connection, one.id)
        assert (again.id, again.body, again.state, again.tries) == (one.id, one.body, "pending", 0)
        assert len(again.log) == 1
        assert [taken.id for taken in leased(engine)] == [one.id]

    def test_what_is_under_way_is_left_alone(self, engine: Engine) -> None:
        endpoint(engine)
        cancelled(engine)
        (one,) = leased(engine)
        with engine.begin() as connection:
            deliveries.redeliver(connection, one.id)
        assert leased(engine) == []
        recorded(engine, (one, WELL))
        assert only(engine).state is DeliveryState.DELIVERED

    def test_all_that_failed_since_a_moment(self, engine: Engine) -> None:
        webhook, _ = endpoint(engine)
        for _ in range(3):
            cancelled(engine)
        with engine.begin() as connection:
            connection.execute(
                text("""
                    UPDATE deliveries
                    SET state = 'failed', next_try_at = NULL, ended_at = clock_timestamp()
                """)
            )
            assert deliveries.redeliver_failed(connection, webhook.id, since=FUTURE) == 0
            assert deliveries.redeliver_failed(connection, webhook.id, since=PAST, rows=2) == 2
            assert deliveries.redeliver_failed(connection, webhook.id, since=PAST, rows=2) == 1
            assert deliveries.redeliver_failed(connection, webhook.id, since=PAST, rows=2) == 0

    def test_one_that_is_not_there(self, engine: Engine) -> None:
        with pytest.raises(DeliveryNotFound), engine.begin() as connection:
            deliveries.redeliver(connection, new_id())

    def test_a_test_is_sent_whatever_the_endpoint_wants(self, engine: Engine) -> None:
        webhook, _ = endpoint(engine, events=[EventType.JOB_FAILED], everything=False)
        with engine.begin() as connection:
            one = deliveries.send_test(connection, webhook.id)
        assert json.loads(one.body)["data"] == {"webhook_id": str(webhook.id), "tenant": "default"}
        assert [taken.id for taken in leased(engine)] == [one.id]
        with engine.begin() as connection:
            webhooks.disable(connection, webhook.id, who="ann", reason="noise")
        with pytest.raises(InvalidOperation), engine.begin() as connection:
            deliveries.send_test(connection, webhook.id)

    def test_pages_are_newest_first(self, engine: Engine) -> None:
        webhook, _ = endpoint(engine)
        endpoint(engine, tenant="other")
        jobs = [cancelled(engine) for _ in range(5)]
        cancelled(engine, tenant="other")
        seen, before = [], None
        with engine.connect() as connection:
            while page := deliveries.find(
                connection, webhook_id=webhook.id, before=before, limit=2
            ):
                seen += [one.job_id for one in page]
                before = page[-1].id
            assert len(deliveries.find(connection, tenant="other")) == 1
            assert deliveries.find(connection, state=DeliveryState.FAILED) == []
        assert seen == jobs[::-1]


class TestForgetting:
    def test_what_ended_long_ago_is_forgotten_and_nothing_else(self, engine: Engine) -> None:
        endpoint(engine)
        old, new, waiting = (cancelled(engine) for _ in range(3))
        taken = {one.id: one for one in leased(engine)}
        by_job = {one.job_id: taken[one.id] for one in outbox_of(engine)}
        recorded(engine, (by_job[old], WELL), (by_job[new], WELL))
        with engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE deliveries SET ended_at = ended_at - interval '8 days' WHERE id = :id"
                ),
                {"id": by_job[old].id},
            )
            assert deliveries.forget(connection, older_than=7 * DAY) == 1
        assert {one.job_id for one in outbox_of(engine)} == {new, waiting}

    def test_what_waits_for_an_endpoint_that_was_given_up(self, engine: Engine) -> None:
        webhook, _ = endpoint(engine)
        cancelled(engine)
        with engine.begin() as connection:
            webhooks.disable(connection, webhook.id, who="ann", reason="noise")
            assert deliveries.forget(connection, older_than=7 * DAY) == 0
            assert deliveries.forget(connection, older_than=timedelta(0)) == 1


def test_a_claim_tells_nobody(engine: Engine) -> None:
    endpoint(engine)
    submitted(engine)
    run_id = begun(engine)
    taken = claimed(engine, run_id, started=True)
    with engine.begin() as connection:
        outcomes.release(connection, run_id, taken)
        claims.claim(connection, run_id, limit=1, run_deadline=DAY)
    assert outbox_of(engine) == []
