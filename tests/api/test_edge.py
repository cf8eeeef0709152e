"""What every request meets: headers, lengths, rates, ids; and nothing that is secret gets out."""

import json
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from sqlalchemy import Engine
from tests.api.conftest import Issue, Served, serving
from tests.house import House, eventually

from twofold_producer.api import app, bodies
from twofold_schema.ledger import rights

_OPENAPI = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_answers_carry_what_keeps_them_where_they_belong(served: Served) -> None:
    with served.http() as http:
        for path in ("/v1/jobs", "/nowhere", "/livez"):
            headers = http.get(path).headers
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert "Access-Control-Allow-Origin" not in headers
            assert "Server" not in headers
        preflight = http.options(
            "/v1/jobs",
            headers={"Origin": "https://evil", "Access-Control-Request-Method": "POST"},
        )
    assert "Access-Control-Allow-Origin" not in preflight.headers


def test_a_request_has_the_id_that_it_came_with_unless_that_is_odd(served: Served) -> None:
    with served.http() as http:
        kept = http.get("/nowhere", headers={"X-Request-Id": "abc-1"})
        odd = http.get("/nowhere", headers={"X-Request-Id": "a b\tc"})
    assert kept.headers["X-Request-Id"] == kept.json()["request_id"] == "abc-1"
    assert " " not in odd.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
        ("GET", "/v1/jobs/cat", 422, "invalid_request"),
    ],
)
def test_what_is_not_there_is_a_problem_too(
    served: Served, method: str, path: str, status: int, code: str
) -> None:
    with served.http() as http:
        answer = http.request(method, path)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/queues/pause", {"reason": "a\x00b"}),
        ("POST", "/v1/queues/pause", {"reason": "\x1b[2J"}),
        ("POST", "/v1/queues/resume", {"reason": "a\x00b"}),
        ("POST", "/v1/jobs", {"source": "s3://a/b", "start_by": "0001-01-01T00:00:00+01:00"}),
        ("POST", "/v1/jobs", {"source": "s3://a/b", "finish_by": "9999-12-31T23:59:59-01:00"}),
        ("GET", "/v1/jobs?key=%00", None),
        ("GET", "/v1/autoscale?drain_seconds=5e-324", None),
    ],
)
def test_what_cannot_be_stored_counted_or_shown_is_refused(
    served: Served, method: str, path: str, body: dict[str, str] | None
) -> None:
    with served.http(None) as http:
        answer = http.request(method, path, json=body, headers={"Idempotency-Key": "x"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_a_method_that_is_not_there_is_answered_with_those_that_are(served: Served) -> None:
    with served.http() as http:
        assert http.delete("/v1/jobs").headers["Allow"] == "GET, POST"


class TestLengths:
    @pytest.fixture
    def url(self, house: House) -> object:
        limits = {"TWOFOLD_API_MAX_BODY_BYTES": "2048", "TWOFOLD_API_MAX_MANIFEST_BYTES": "4096"}
        with serving({**house.environment, **limits}) as url:
            yield url

    @pytest.mark.parametrize("stated", [False, True])
    @pytest.mark.parametrize(
        ("path", "kind", "length"),
        [
            ("/v1/submissions", "application/x-ndjson", 4097),
            ("/v1/submissions", "application/json", 2049),
            ("/v1/submissions", "application/x-ndjson+json", 2049),
            ("/v1/jobs", "application/json", 2049),
            ("/v1/jobs", "application/x-ndjson", 2049),
            ("/v1/jobs", "application/x-ndjson+json", 2049),
        ],
    )
    def test_more_than_is_taken_is_refused(
        self, url: str, issue: Issue, path: str, kind: str, length: int, *, stated: bool
    ) -> None:
        """Whether or not it says beforehand how much it is; JSON lines are taken in one place."""
        body = b" " * length
        content = body if stated else iter([body])
        answer = httpx2.post(f"{url}{path}", content=content, headers=_sending(issue(), kind))
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        most = 4096 if length > 4096 else 2048
        assert f"more than {most} bytes" in answer.json()["detail"]

    @pytest.mark.parametrize(
        "kind", ["application/x-ndjson", "Application/X-NDJSON ; charset=utf-8"]
    )
    def test_json_lines_may_be_longer_however_their_kind_is_written(
        self, url: str, issue: Issue, kind: str
    ) -> None:
        body = b"{}\n" * 1000
        answer = httpx2.post(
            f"{url}/v1/submissions", content=body, headers=_sending(issue(), kind), timeout=30
        )
        assert (answer.status_code, answer.json()["invalid"]) == (202, 1000)

    def test_a_length_that_is_none_is_refused(self, url: str) -> None:
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port)) as raw:
            raw.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 400")

    @pytest.mark.parametrize("authorization", [None, "Bearer", "Basic YTpi"])
    def test_nothing_is_read_of_who_shows_no_key(self, url: str, authorization: str | None) -> None:
        headers = {"Authorization": authorization} if authorization else {}
        with _begun(url, "/v1/jobs", headers) as half:
            answer = half.recv(4096)
        assert answer.startswith(b"HTTP/1.1 401")
        assert b"invalid_api_key" in answer

    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/v1/jobs", "application/json"),
            ("/v1/submissions", "application/json"),
            ("/v1/submissions", "application/x-ndjson"),
        ],
    )
    def test_who_falls_silent_half_way_is_hung_up_on(
        self, url: str, issue: Issue, monkeypatch: pytest.MonkeyPatch, path: str, kind: str
    ) -> None:
        monkeypatch.setattr(bodies, "PATIENCE_SECONDS", 0.2)
        with _begun(url, path, _sending(issue(), kind)) as half:
            half.sendall(b"{")
            answer = b"".join(iter(lambda: half.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"0.2 s behind 4000 bytes a second" in answer


def _sending(secret: str, kind: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {secret}",
        "Idempotency-Key": "x",
        "Content-Type": kind,
    }


@contextmanager
def _begun(url: str, path: str, headers: Mapping[str, str]) -> Iterator[socket.socket]:
    """A request of which nothing has been sent but its head."""
    address = urlsplit(url)
    head = [f"POST {path} HTTP/1.1", f"Host: {address.netloc}", "Content-Length: 1000"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection((address.hostname, address.port), timeout=20) as begun:
        begun.sendall("\r\n".join([*head, "", ""]).encode())
        yield begun


class TestRates:
    def test_a_tenant_makes_no_more_requests_than_it_may(self, served: Served) -> None:
        with served.house.engine.begin() as connection:
            rights.set_rights(connection, "acme", rate=0.01, burst=3, reason="x", who="x")
        with served.http("acme") as http, served.http("other") as other:
            answers = [http.get("/v1/queues") for _ in range(5)]
            assert other.get("/v1/queues").status_code == 200
        assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 2
        assert answers[0].headers["RateLimit-Policy"] == '"requests";q=3;w=300'
        assert answers[0].headers["RateLimit"].startswith('"requests";r=2')
        assert answers[-1].json()["code"] == "rate_limited"
        assert 0 < int(answers[-1].headers["Retry-After"]) <= 100

    def test_a_full_queue_takes_no_more(self, served: Served) -> None:
        with served.house.engine.begin() as connection:
            rights.set_rights(connection, "acme", max_queued=1, reason="x", who="x")
        bucket = served.house.environment["TWOFOLD_RESULTS"].split("/")[2]
        body = {"source": f"s3://{bucket}/a.png"}
        with served.http("acme") as http:
            answers = [
                http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
                for key in ("a", "b")
            ]
        assert [answer.status_code for answer in answers] == [202, 429]
        assert answers[1].json()["code"] == "queue_full"
        assert "Retry-After" in answers[1].headers


class TestProxies:
    @pytest.mark.parametrize(
        "headers",
        [{"Forwarded": "for=1.2.3.4;proto=https"}, {"X-Forwarded-Proto": "https"}],
        ids=["RFC 7239", "the older one"],
    )
    def test_tls_at_the_proxy_is_honoured_if_that_is_trusted(
        self, house: House, headers: dict[str, str]
    ) -> None:
        trusted = {**house.environment, "TWOFOLD_API_TRUSTED_PROXIES": "127.0.0.1"}
        for environment, strict in ((trusted, True), (house.environment, False)):
            with serving(environment) as url:
                answer = httpx2.get(f"{url}/livez", headers=headers)
                assert ("Strict-Transport-Security" in answer.headers) is strict

    def test_pages_of_a_named_origin_may_call(self, house: House) -> None:
        named = {**house.environment, "TWOFOLD_API_CORS_ORIGINS": "https://ops.example"}
        with serving(named) as url:
            for origin, expected in (
                ("https://ops.example", "https://ops.example"),
                ("https://evil.example", None),
            ):
                answer = httpx2.get(f"{url}/livez", headers={"Origin": origin})
                assert answer.headers.get("Access-Control-Allow-Origin") == expected


def test_secrets_get_into_no_log_and_no_answer(
    house: House, issue: Issue, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not with what goes wrong, either."""
    secret = issue()
    process = house.process(["-m", "twofold_producer", "api", "--port", "0"])
    del process
    url = eventually(lambda: _url_in(house.logs()), why=house.logs)
    headers = {"Authorization": f"Bearer {secret}"}
    said = [
        httpx2.request(method, f"{url}{path}", headers=headers, json=body).text
        for method, path, body in (
            ("GET", "/v1/jobs", None),
            ("POST", "/v1/jobs", {"source": 1}),
            ("GET", f"/v1/jobs/{secret}", None),
            ("GET", "/nowhere", None),
        )
    ]
    wrong = {"Authorization": f"Bearer {secret}x"}
    said.append(httpx2.get(f"{url}/v1/jobs", headers=wrong).text)
    eventually(lambda: house.logs().count('"request"') >= 5, why=house.logs)
    everything = house.logs() + "".join(said[:2] + said[3:]) + "".join(capfd.readouterr())
    assert secret not in everything
    assert secret.rpartition("_")[2] not in everything


def _url_in(logs: str) -> str | None:
    for line in logs.splitlines():
        if '"listening"' in line:
            return str(json.loads(line)["url"])
    return None


def test_the_description_in_the_docs_is_that_of_the_service() -> None:
    """`python -m twofold_producer.api.app` writes it."""
    assert json.loads(_OPENAPI.read_text()) == app.openapi()


def test_a_database_that_is_away_is_said_and_comes_back(served: Served, engine: Engine) -> None:
    with served.http() as http, ThreadPoolExecutor(1):
        assert http.get("/readyz").status_code == 204
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert http.get("/readyz").status_code == 204
        assert http.get("/v1/queues").status_code == 200
