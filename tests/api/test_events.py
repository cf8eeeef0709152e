"""`/v1/events`: nothing is missed, nothing comes twice, and nobody sees another's."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import text
from tests.api.conftest import Served
from tests.factories import begun, claimed, new_job, result_of, submitted
from tests.house import eventually

from twofold_producer.api import follower
from twofold_schema.ledger import api_keys, outcomes, retention

_OF_NO_CLASS = text("""
    INSERT INTO events (xid, at, job_id, tenant, job_class, generation, fence, state)
    VALUES (CAST(CAST(pg_current_xact_id() AS text) AS bigint), clock_timestamp(),
            gen_random_uuid(), 'default', 99, 1, 0, 'queued')
""")


@contextmanager
def _following(
    http: httpx2.Client, after: str | None = None, **query: str
) -> Iterator[Iterator[dict[str, Any]]]:
    """Events as they come; nothing is missed from here on."""
    headers = {"Last-Event-ID": after} if after else {}
    # Sooner than the service says that nothing happens: what does not come is an error.
    asked = http.stream("GET", "/v1/events", params=query, headers=headers, timeout=12)
    with asked as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines).startswith(":")
        yield _events(lines)


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = json.loads(value) if name == "data" else value
        elif event:
            yield event
            event = {}


def _run(served: Served) -> None:
    engine = served.house.engine
    run_id = begun(engine)
    taken = claimed(engine, run_id, started=True)
    with engine.begin() as connection:
        outcomes.complete(connection, run_id, {claim: result_of(claim) for claim in taken})


def test_tells_of_every_change_as_it_comes(served: Served) -> None:
    with served.http() as http, _following(http) as events:
        (job_id,) = submitted(served.house.engine)
        _run(served)
        told = [next(events) for _ in range(3)]
    assert {event["event"] for event in told} == {"job"}
    assert [event["data"]["state"] for event in told] == ["queued", "running", "succeeded"]
    assert {event["data"]["job_id"] for event in told} == {str(job_id)}
    assert [event["id"] for event in told] == [event["data"]["position"] for event in told]


def test_who_comes_back_gets_what_was_missed_and_no_more(served: Served) -> None:
    with served.http() as http:
        with _following(http) as events:
            submitted(served.house.engine)
            last = next(events)["id"]
        missed = submitted(served.house.engine, *[new_job()] * 3)
        with _following(http, last) as events:
            again = [next(events)["data"]["job_id"] for _ in range(3)]
            (new,) = submitted(served.house.engine)
            assert next(events)["data"]["job_id"] == str(new)
    assert sorted(again) == sorted(str(job_id) for job_id in missed)


def test_what_was_missed_and_what_comes_meanwhile_join(served: Served) -> None:
    """Whatever is submitted while the past is told comes once."""
    with served.http() as http:
        with _following(http) as events:
            submitted(served.house.engine)
            last = next(events)["id"]
        before = submitted(served.house.engine, *[new_job()] * 1500)
        after: list[Any] = []
        writer = threading.Thread(
            target=lambda: after.extend(
                job_id for _ in range(50) for job_id in submitted(served.house.engine)
            )
        )
        with _following(http, last) as events:
            writer.start()
            told = [next(events)["data"]["job_id"] for _ in range(1550)]
            writer.join()
    assert sorted(told) == sorted(str(job_id) for job_id in [*before, *after])


def test_tells_a_tenant_of_its_own(served: Served) -> None:
    with served.http("mine") as http, _following(http) as events:
        submitted(served.house.engine, new_job(tenant="theirs"))
        (mine,) = submitted(served.house.engine, new_job(tenant="mine"))
        assert next(events)["data"]["job_id"] == str(mine)


def test_filters_by_job(served: Served) -> None:
    one, _ = submitted(served.house.engine, *[new_job()] * 2)
    with served.http() as http, _following(http, job=str(one)) as events:
        _run(served)
        told = [next(events)["data"] for _ in range(2)]
    assert [(event["job_id"], event["state"]) for event in told] == [
        (str(one), "running"),
        (str(one), "succeeded"),
    ]


def test_who_missed_too_much_begins_anew(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "REPLAY", 1500)
    with served.http() as http:
        with _following(http) as events:
            submitted(served.house.engine)
            last = next(events)["id"]
        submitted(served.house.engine, *[new_job()] * 2500)
        with _following(http, last) as events:
            told = list(events)
    assert told[-1]["event"] == "behind"
    assert len(told) <= 2001


def test_who_had_an_event_last_that_is_no_longer_kept_begins_anew(served: Served) -> None:
    def dropped() -> int:
        with served.house.engine.begin() as connection:
            of_today = timedelta(days=-1)
            return retention.drop_partitions(connection, retention.EVENTS, older_than=of_today)

    with served.http() as http:
        with _following(http) as events:
            submitted(served.house.engine)
            last = next(events)["id"]
        eventually(dropped)
        submitted(served.house.engine)
        with _following(http, last) as events:
            told = list(events)
    assert [event["event"] for event in told] == ["behind"]


def test_an_event_that_nobody_can_read_is_told_as_missed_and_ends_nothing(served: Served) -> None:
    """As one is that a newer version wrote."""
    with served.http() as http:
        with _following(http) as events:
            submitted(served.house.engine)
            last = next(events)["id"]
            with served.house.engine.begin() as connection:
                connection.execute(_OF_NO_CLASS)
            assert [event["event"] for event in events] == ["behind"]
        with _following(http, last) as events:
            assert [event["event"] for event in events] == ["behind"]
        with _following(http) as events:
            (job_id,) = submitted(served.house.engine)
            assert next(events)["data"]["job_id"] == str(job_id)


@pytest.mark.parametrize("how", ["revoked", "rotated"])
def test_a_stream_ends_with_its_key(served: Served, how: str) -> None:
    """And another, of a key that is in force, goes on."""
    engine = served.house.engine
    with (
        served.http("acme") as http,
        served.http("acme") as other,
        _following(other) as heard,
        _following(http) as events,
    ):
        with engine.begin() as connection:
            _, ours = api_keys.every_key(connection)  # newest first
            said = {"reason": "a test", "who": "a test"}
            if how == "revoked":
                api_keys.revoke(connection, ours.id, **said)
            else:
                api_keys.rotate(connection, ours.id, overlap=timedelta(0), **said)
        assert not list(events)
        submitted(engine, new_job(tenant="acme"))
        assert next(heard)["event"] == "job"


def test_a_place_that_is_none_is_refused_before_anything_is_sent(served: Served) -> None:
    with served.http() as http:
        answer = http.get("/v1/events", headers={"Last-Event-ID": "yesterday"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_position")
