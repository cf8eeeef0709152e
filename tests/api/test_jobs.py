"""`/v1/jobs`: submitted once whatever is lost, found, waited for, called off, retried."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.api.conftest import Served
from tests.factories import begun, claimed, dropped, new_job, result_of, submitted
from tests.house import eventually

from twofold_schema.errors import ApiFailed, CorruptSource
from twofold_schema.job import Claim
from twofold_schema.ledger import outcomes, submit


def _body(served: Served, name: str = "cat.png", **fields: object) -> dict[str, object]:
    bucket = served.house.environment["TWOFOLD_RESULTS"].split("/")[2]
    return {"source": f"s3://{bucket}/{name}", **fields}


def _complete(served: Served) -> list[Claim]:
    engine = served.house.engine
    run_id = begun(engine)
    taken = claimed(engine, run_id, started=True)
    with engine.begin() as connection:
        outcomes.complete(connection, run_id, {claim: result_of(claim) for claim in taken})
    return taken


class TestSubmitting:
    def test_answers_202_and_where_the_job_is(self, served: Served) -> None:
        with served.http() as http:
            answer = http.post(
                "/v1/jobs",
                json=_body(served, metadata={"order": "42"}, width=64, height=48),
                headers={"Idempotency-Key": "cat"},
            )
            again = http.get(answer.headers["Location"])
        assert answer.status_code == 202
        job = answer.json()
        assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
        assert again.json() == job
        assert (job["key"], job["state"], job["done"]) == ("cat", "queued", False)
        assert (job["tenant"], job["metadata"]) == ("default", {"order": "42"})

    def test_the_same_request_is_the_same_job_and_another_is_refused(self, served: Served) -> None:
        headers = {"Idempotency-Key": "cat"}
        with served.http() as http:
            first = http.post("/v1/jobs", json=_body(served), headers=headers)
            again = http.post("/v1/jobs", json=_body(served), headers=headers)
            other = http.post("/v1/jobs", json=_body(served, "dog.png"), headers=headers)
        assert first.json()["id"] == again.json()["id"]
        assert (other.status_code, other.json()["code"]) == (422, "key_reused")
        assert len(served.house.rows("SELECT FROM jobs")) == 1

    def test_a_key_whose_job_is_gone_says_so_and_does_nothing(self, served: Served) -> None:
        """It may be remembered for longer than the job is kept."""
        headers = {"Idempotency-Key": "cat", "Prefer": "wait=1"}
        with served.http() as http:
            job_id = UUID(http.post("/v1/jobs", json=_body(served), headers=headers).json()["id"])
            _complete(served)
            dropped(served.house.engine, job_id)
            answer = http.post("/v1/jobs", json=_body(served), headers=headers)
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (404, "job_not_found")
        assert f"The job of the key 'cat', {job_id}," in problem["detail"]
        assert "use another key" in problem["detail"]
        assert served.house.rows("SELECT FROM jobs") == []

    def test_a_key_is_needed_and_there_is_one(self, served: Served) -> None:
        with served.http() as http:
            none = http.post("/v1/jobs", json=_body(served))
            two = http.post(
                "/v1/jobs", json=_body(served, key="a"), headers={"Idempotency-Key": "b"}
            )
            in_body = http.post("/v1/jobs", json=_body(served, key="a"))
            quoted = http.post("/v1/jobs", json=_body(served), headers={"Idempotency-Key": '"a"'})
        assert (none.status_code, none.json()["code"]) == (400, "idempotency_key_missing")
        assert (two.status_code, two.json()["code"]) == (400, "bad_request")
        assert in_body.json()["id"] == quoted.json()["id"]

    def test_a_key_in_other_hands_is_a_conflict_to_try_again(self, served: Served) -> None:
        engine = served.house.engine
        with served.http() as http, engine.connect() as slow:
            submit.insert_jobs(slow, [new_job(key="cat")])
            answer = http.post("/v1/jobs", json=_body(served), headers={"Idempotency-Key": "cat"})
            slow.rollback()
        assert (answer.status_code, answer.json()["code"]) == (409, "request_in_progress")
        assert answer.json()["retryable"]
        assert int(answer.headers["Retry-After"]) >= 1

    @pytest.mark.parametrize(
        ("body", "code", "field"),
        [
            ({"source": "/etc/passwd"}, "invalid_request", "source"),
            ({"source": "s3://twofold/a.png", "steps": 0}, "invalid_request", "steps"),
            ({"source": "s3://twofold/a.png", "colour": "red"}, "invalid_request", "colour"),
            ({"source": "s3://twofold/a.png", "steps": "7"}, "invalid_request", "steps"),
            ({"source": "s3://twofold/a.png", "steps": True}, "invalid_request", "steps"),
            ({"source": "s3://twofold/a.png", "latents": "yes"}, "invalid_request", "latents"),
            (
                {"source": "s3://twofold/a.png", "start_by": 1900000000},
                "invalid_request",
                "start_by",
            ),
            ({"source": "s3://twofold/a.png", "start_by": "1.9e9"}, "invalid_request", "start_by"),
            (
                {"source": "s3://twofold/a.png", "metadata": {"a": 1}},
                "invalid_request",
                "metadata.a",
            ),
            ({}, "invalid_request", "source"),
            ({"source": "s3://elsewhere/a.png"}, "place_not_allowed", None),
            ({"source": "s3://elsewhere/../a.png"}, "invalid_uri", None),
        ],
    )
    def test_what_is_wrong_is_named(
        self, served: Served, body: dict[str, object], code: str, field: str | None
    ) -> None:
        with served.http() as http:
            answer = http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "x"})
        problem = answer.json()
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert (problem["code"], problem.get("field")) == (code, field)
        assert problem["status"] == answer.status_code
        assert problem["request_id"] == answer.headers["X-Request-Id"]
        assert served.house.rows("SELECT FROM jobs") == []

    def test_waits_for_the_end_if_preferred(self, served: Served) -> None:
        def work() -> None:
            eventually(lambda: _complete(served))

        worker = threading.Thread(target=work)
        worker.start()
        with served.http() as http:
            answer = http.post(
                "/v1/jobs",
                json=_body(served, width=64, height=64),
                headers={"Idempotency-Key": "x", "Prefer": "respond-async, wait=30"},
            )
        worker.join()
        assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
        assert answer.headers["Preference-Applied"] == "wait=30"


class TestFinding:
    def test_pages_are_by_keyset_and_lead_on(self, served: Served) -> None:
        ids = submitted(served.house.engine, *[new_job()] * 5)
        seen: list[str] = []
        path = "/v1/jobs?limit=2&state=queued"
        with served.http() as http:
            while path:
                page = http.get(path).json()
                seen += [job["id"] for job in page["items"]]
                path = page["next"]
        assert seen == [str(job_id) for job_id in reversed(ids)]

    def test_by_metadata_key_and_ids(self, served: Served) -> None:
        one, two = submitted(
            served.house.engine,
            new_job(metadata={"order": "42"}),
            new_job(metadata={"order": "43"}, key="two"),
        )
        with served.http() as http:
            by_pair = http.get("/v1/jobs", params={"metadata": "order=42"}).json()["items"]
            by_key = http.get("/v1/jobs", params={"key": "two"}).json()["items"]
            nobody = http.get("/v1/jobs", params={"key": "three"}).json()["items"]
            ids = [str(two), str(uuid4()), str(one)]
            by_id = http.get("/v1/jobs", params={"id": ids}).json()["items"]
            wrong = http.get("/v1/jobs", params={"metadata": "order"})
        assert [job["id"] for job in by_pair] == [str(one)]
        assert [job["id"] for job in by_key] == [str(two)]
        assert nobody == []
        assert [job["id"] for job in by_id] == [str(two), str(one)]
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")

    def test_an_etag_saves_an_answer_that_is_known(self, served: Served) -> None:
        (job_id,) = submitted(served.house.engine)
        with served.http() as http:
            etag = http.get(f"/v1/jobs/{job_id}").headers["ETag"]
            known = http.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": etag})
            _complete(served)
            changed = http.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": etag})
        assert (known.status_code, known.content) == (304, b"")
        assert changed.json()["state"] == "succeeded"
        assert changed.headers["ETag"] != etag

    def test_many_may_wait_at_once(self, served: Served) -> None:
        """More than there are threads or connections."""
        (job_id,) = submitted(served.house.engine)
        with served.http() as http, ThreadPoolExecutor(80) as waiters:
            ends = [
                waiters.submit(http.get, f"/v1/jobs/{job_id}", params={"wait": 30})
                for _ in range(80)
            ]
            status = http.get(f"/v1/jobs/{job_id}").json()["state"]
            _complete(served)
            states = {end.result().json()["state"] for end in ends}
        assert (status, states) == ("queued", {"succeeded"})

    def test_a_wait_that_is_over_answers_what_there_is(self, served: Served) -> None:
        (job_id,) = submitted(served.house.engine)
        with served.http() as http:
            answer = http.get(f"/v1/jobs/{job_id}", params={"wait": 0.2})
            too_long = http.get(f"/v1/jobs/{job_id}", params={"wait": 61})
        assert (answer.status_code, answer.json()["state"]) == (200, "queued")
        assert too_long.status_code == 422

    def test_a_transaction_that_stays_open_holds_up_no_wait(self, served: Served) -> None:
        """The stream of events ends before it."""
        engine = served.house.engine
        (job_id,) = submitted(engine)
        with engine.connect() as slow, served.http() as http, ThreadPoolExecutor(1) as waiter:
            submit.insert_jobs(slow, [new_job()])
            end = waiter.submit(http.get, f"/v1/jobs/{job_id}", params={"wait": 30})
            _complete(served)
            assert end.result().json()["state"] == "succeeded"
            slow.rollback()

    def test_attempts_tell_how_claims_ended(self, served: Served) -> None:
        engine = served.house.engine
        (job_id,) = submitted(engine)
        run_id = begun(engine)
        with engine.begin() as connection:
            taken = claimed(engine, run_id, started=True)
            outcomes.retry_later(connection, run_id, dict.fromkeys(taken, CorruptSource()))
        with served.http() as http:
            (attempt,) = http.get(f"/v1/jobs/{job_id}/attempts").json()
        assert (attempt["outcome"], attempt["attempt"], attempt["fence"]) == ("failed", 1, 1)
        assert attempt["error"]["code"] == "corrupt_source"
        assert attempt["run_id"] == str(run_id)


class TestChangingCourse:
    def test_cancel_and_retry(self, served: Served) -> None:
        engine = served.house.engine
        waiting, running, failed = submitted(engine, *[new_job()] * 3)
        with served.http() as http:
            first = http.post(f"/v1/jobs/{waiting}/cancel")
            run_id = begun(engine)
            taken = claimed(engine, run_id, started=True)
            second = http.post(f"/v1/jobs/{running}/cancel")
            with engine.begin() as connection:
                outcomes.fail(
                    connection,
                    run_id,
                    {claim: CorruptSource() for claim in taken if claim.job_id == failed},
                )
            retried = http.post(f"/v1/jobs/{failed}/retry")
            refused = http.post(f"/v1/jobs/{failed}/retry")
            unknown = [
                http.post(f"/v1/jobs/{uuid4()}/{verb}").status_code for verb in ("cancel", "retry")
            ]
        assert (first.status_code, first.json()["answer"]) == (202, "cancelled")
        assert second.json()["answer"] == "cancelling"
        assert (retried.status_code, retried.json()["generation"]) == (202, 2)
        assert (refused.status_code, refused.json()["code"]) == (409, "job_not_retryable")
        assert refused.json()["job_id"] == str(failed)
        assert unknown == [404, 404]


class TestResults:
    def test_a_result_is_fetched_through_a_link(self, served: Served, s3: Any) -> None:
        house = served.house
        with served.client() as client:
            job = client.submit(_png(), width=8, height=8)
            with served.http() as http:
                early = http.get(f"/v1/jobs/{job.id}/result")
            assert (early.status_code, early.json()["code"]) == (409, "result_not_ready")
            house.worker()
            (ended,) = client.wait(job.id, timeout=60)
            assert ended.result is not None
            data = client.result(job.id)
            assert len(data) == ended.result.size_bytes
            bucket, _, name = ended.result.uri.removeprefix("s3://").partition("/")
            s3.put_object(Bucket=bucket, Key=name, Body=data[:-1])
            with pytest.raises(ApiFailed, match="is not that job's result"):
                client.result(job.id)
        assert UUID(int=0) != ended.id


def _png() -> bytes:
    from tests.pictures import encoded

    return encoded(8, 8)
