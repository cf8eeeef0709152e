"""Turns of those who submit many at once: no tenant, and no slow line, takes them from others."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx2
import pytest
from tests.api.conftest import Served
from tests.house import eventually

from twofold_producer.api import bodies, bulks
from twofold_producer.submit.chunks import CHUNK_ITEMS
from twofold_schema.errors import ApiBusy

_LINES = {"Idempotency-Key": "album", "Content-Type": "application/x-ndjson"}


def _items(served: Served, count: int, **fields: object) -> Iterator[dict[str, object]]:
    bucket = served.house.environment["TWOFOLD_RESULTS"].split("/")[2]
    return ({"source": f"s3://{bucket}/{n}.png", **fields} for n in range(count))


def _lines(served: Served, count: int) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in _items(served, count))


@contextmanager
def _half_sent(served: Served, tenant: str, key: str, lines: bytes) -> Iterator[socket.socket]:
    """A submission whose last bytes do not come."""
    address = urlsplit(served.url)
    head = (
        f"POST /v1/submissions HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Authorization: Bearer {served.issue(tenant)}\r\nIdempotency-Key: {key}\r\n"
        f"Content-Type: application/x-ndjson\r\nContent-Length: {2**30}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port)) as half:
        half.sendall(head.encode() + lines)
        yield half


@contextmanager
def _turns_taken(served: Served, tenant: str) -> Iterator[None]:
    """All turns that a tenant can have are had by submissions of it that come no further."""
    with ExitStack() as halves:
        lines = _lines(served, CHUNK_ITEMS + 1)
        for key in "abcd":
            halves.enter_context(_half_sent(served, tenant, key, lines))
        # Chunks are written by those who have a turn, whose next one is never whole.
        eventually(lambda: _count(served, tenant) >= 2 * CHUNK_ITEMS)
        yield


def _count(served: Served, tenant: str) -> int:
    query = "SELECT count(*) AS n FROM jobs WHERE tenant = :tenant"
    return int(served.house.rows(query, tenant=tenant)[0]["n"])


def test_a_tenant_that_trickles_leaves_turns_to_others(served: Served) -> None:
    with _turns_taken(served, "slow"), served.http("other") as http:
        content = _lines(served, 3)
        answer = http.post("/v1/submissions", content=content, headers=_LINES, timeout=15)
        assert answer.json()["created"] == 3
        assert _count(served, "slow") == 2 * CHUNK_ITEMS


def test_a_body_that_trickles_is_ended_and_may_be_sent_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often something comes: too little does."""
    monkeypatch.setattr(bodies, "PATIENCE_SECONDS", 0.5)

    def trickled() -> bytes:
        half.sendall(b" ")
        try:
            return half.recv(4096)
        except TimeoutError:
            return b""

    lines = _lines(served, 2)
    with _half_sent(served, "default", "album", lines) as half:
        half.settimeout(0.05)
        answer = eventually(trickled, within=20)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"too slowly" in answer
    assert b'"code":"bad_request"' in answer
    with served.http() as http:
        whole = http.post("/v1/submissions", content=lines, headers=_LINES).json()
    assert whole["created"] + whole["existing"] == 2


def test_the_time_that_writing_takes_is_not_the_senders(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(bodies, "LEAST_BYTES_A_SECOND", 10**12)
    held_up = """
        SELECT FROM pg_stat_activity WHERE datname = current_database()
          AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '3 seconds'
    """
    with (
        served.http() as http,
        ThreadPoolExecutor(1) as sender,
        served.house.engine.connect() as other,
    ):
        other.exec_driver_sql("LOCK TABLE jobs IN EXCLUSIVE MODE")
        content = _lines(served, 5 * CHUNK_ITEMS)
        sent = sender.submit(http.post, "/v1/submissions", content=content, headers=_LINES)
        eventually(lambda: served.house.rows(held_up))
        other.rollback()
        answer = sent.result()
    assert (answer.status_code, answer.json().get("created")) == (202, 5 * CHUNK_ITEMS)


class TestRefused:
    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bulks, "_PATIENCE_SECONDS", 0.2)
        monkeypatch.setattr(ApiBusy, "retry_after", 1)

    def test_is_told_when_to_come_back(self, served: Served) -> None:
        with _turns_taken(served, "acme"), served.http("acme") as http:
            answer = http.post("/v1/submissions", content=_lines(served, 3), headers=_LINES)
        assert (answer.status_code, answer.json()["code"]) == (503, "api_busy")
        assert answer.json()["retryable"]
        assert answer.headers["Retry-After"] == "1"

    @pytest.mark.parametrize("prompt", ["a cat", 2000 * "a"], ids=["short", "long"])
    def test_the_client_goes_on_by_itself(self, served: Served, prompt: str) -> None:
        """Also where it still sends when it is refused, and may not hear why."""
        asked: list[httpx2.Request] = []
        with (
            httpx2.Client(event_hooks={"request": [asked.append]}) as http,
            served.client("acme", http_client=http, max_retries=20) as client,
            ThreadPoolExecutor(1) as sender,
        ):
            items = _items(served, 5000, prompt=prompt)
            with _turns_taken(served, "acme"):
                sent = sender.submit(client.submit_many, items)
                eventually(lambda: len(asked) > 1)
            assert sent.result().created == 5000

    def test_the_client_gives_up_in_the_services_words(self, served: Served) -> None:
        with (
            served.client("acme", max_retries=0) as client,
            _turns_taken(served, "acme"),
            pytest.raises(ApiBusy, match="later"),
        ):
            client.submit_many(_items(served, 3))
