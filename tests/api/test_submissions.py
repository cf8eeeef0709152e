"""`/v1/submissions`: many at once, each told what came of it, and safe to send again."""

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from tests.api.conftest import Served
from tests.house import eventually

_KEY = {"Idempotency-Key": "album"}
_LINES = {**_KEY, "Content-Type": "application/x-ndjson"}


def _source(served: Served, number: int) -> str:
    bucket = served.house.environment["TWOFOLD_RESULTS"].split("/")[2]
    return f"s3://{bucket}/{number}.png"


def _lines(served: Served, count: int, **fields: object) -> bytes:
    rows = ({"source": _source(served, n), **fields} for n in range(count))
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "lines"])
def test_an_invalid_item_stops_no_other(served: Served, *, inline: bool) -> None:
    items: list[dict[str, object]] = [
        {"source": _source(served, 0), "key": "a"},
        {"source": "/etc/passwd", "key": "b"},
        {"source": _source(served, 2), "steps": 0, "key": "c"},
        {"source": _source(served, 3)},
    ]
    lines = b"\n".join(json.dumps(item).encode() for item in items)
    with served.http() as http:
        answer = (
            http.post("/v1/submissions", json={"items": items}, headers=_KEY)
            if inline
            else http.post("/v1/submissions", content=lines, headers=_LINES)
        )
        status = http.get(answer.headers["Location"]).json()
    assert answer.status_code == 202
    summed = answer.json()
    assert [summed[name] for name in ("created", "existing", "invalid")] == [2, 0, 2]
    assert [(fault["position"], fault["key"]) for fault in summed["faults"]] == [(1, "b"), (2, "c")]
    assert {fault["code"] for fault in summed["faults"]} == {"invalid_parameter"}
    assert (status["total"], status["key"], status["done"]) == (2, "album", False)


def test_the_same_request_again_creates_nothing_twice(served: Served) -> None:
    """Items without a key of their own are known by their place."""
    with served.http() as http:
        first = http.post("/v1/submissions", content=_lines(served, 30), headers=_LINES).json()
        again = http.post("/v1/submissions", content=_lines(served, 30), headers=_LINES).json()
        more = http.post("/v1/submissions", content=_lines(served, 31), headers=_LINES)
    assert (first["created"], again["created"], again["existing"]) == (30, 0, 30)
    assert again["id"] == first["id"]
    assert (more.status_code, more.json()["code"]) == (409, "submission_sealed")
    assert served.house.rows("SELECT count(*) AS n FROM jobs")[0]["n"] == 30


def test_answers_line_by_line_where_that_is_asked_for(served: Served) -> None:
    with served.http() as http:
        answer = http.post(
            "/v1/submissions",
            content=_lines(served, 3) + b"{\n",
            headers={**_LINES, "Accept": "application/x-ndjson"},
        )
    *items, summed = map(json.loads, answer.text.splitlines())
    assert [item["outcome"] for item in items] == ["created"] * 3 + ["invalid"]
    assert [item["key"] for item in items[:3]] == ["album/1", "album/2", "album/3"]
    assert (summed["created"], summed["invalid"]) == (3, 1)


def test_who_goes_away_half_way_may_send_all_of_it_again(served: Served) -> None:
    """What came before is written or not, by whole chunks, and is not written twice."""
    address = urlsplit(served.url)
    lines = _lines(served, 8000)
    head = (
        f"POST /v1/submissions HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Authorization: Bearer {served.issue('default')}\r\nIdempotency-Key: album\r\n"
        f"Content-Type: application/x-ndjson\r\nContent-Length: {len(lines)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port)) as half:
        half.sendall(head.encode() + lines[: 7 * len(lines) // 8])
        eventually(lambda: served.house.rows("SELECT FROM jobs LIMIT 1"))
    with served.http() as http:
        whole = http.post("/v1/submissions", content=lines, headers=_LINES).json()
    assert whole["existing"] >= 5000
    assert whole["created"] + whole["existing"] == 8000
    assert served.house.rows("SELECT count(*) AS n FROM jobs")[0]["n"] == 8000


def test_an_end_in_the_middle_says_what_was_written(served: Served) -> None:
    """Here the database goes away for good, for the role that asks."""
    house = served.house

    def lines() -> Iterator[bytes]:
        yield _lines(served, 6000)
        eventually(lambda: house.rows("SELECT FROM jobs LIMIT 1"))
        with house.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE jobs RENAME TO gone")
        yield _lines(served, 6000)

    with served.http() as http:
        answer = http.post("/v1/submissions", content=lines(), headers=_LINES)
        with house.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE gone RENAME TO jobs")
        problem = answer.json()
        assert answer.status_code >= 500
        assert problem["code"] in {"api_failed", "database_unavailable"}
        assert problem["created"] == served.house.rows("SELECT count(*) AS n FROM jobs")[0]["n"]


@pytest.mark.parametrize(
    "body",
    [{}, {"items": [], "manifest": "s3://twofold/a"}, {"items": [1]}, {"items": {}}, [], "x"],
)
def test_a_body_that_is_none_is_refused(served: Served, body: object) -> None:
    with served.http() as http:
        answer = http.post("/v1/submissions", json=body, headers=_KEY)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"]


def test_a_manifest_in_storage_is_read_by_the_service(served: Served, s3: object) -> None:
    place = served.house.environment["TWOFOLD_UPLOADS"] + "/in.jsonl"
    bucket, _, key = place.removeprefix("s3://").partition("/")
    s3.put_object(Bucket=bucket, Key=key, Body=_lines(served, 3))  # type: ignore[attr-defined]
    with served.http() as http:
        good = http.post("/v1/submissions", json={"manifest": place}, headers=_KEY)
        gone = http.post(
            "/v1/submissions",
            json={"manifest": place + "x"},
            headers={"Idempotency-Key": "another"},
        )
    assert good.json()["created"] == 3
    assert gone.json()["code"] == "source_not_found"


def test_a_submission_that_has_ended_ends_the_wait(served: Served) -> None:
    served.house.keeper()
    with served.http() as http:
        empty = http.post("/v1/submissions", json={"items": []}, headers=_KEY)
        ended = http.get(empty.headers["Location"], params={"wait": 60}).json()
        unknown = http.get(f"/v1/submissions/{uuid4()}")
    assert (ended["done"], ended["total"]) == (True, 0)
    assert unknown.status_code == 404
