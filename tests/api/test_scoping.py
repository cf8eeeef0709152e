"""Nobody gets at what is not theirs: every route, with another tenant's ids and lesser keys."""

from uuid import UUID, uuid4

import pytest
from tests.api.conftest import Served
from tests.factories import new_job, submitted

from twofold_producer.api import app
from twofold_schema.ledger import operations, pauses, rights, submissions
from twofold_schema.operation import JobFilter, OperationKind

#: What each route needs: one of these scopes, or nothing.
_SCOPES = {
    ("POST", "/v1/jobs"): {"submit"},
    ("GET", "/v1/jobs"): {"read"},
    ("GET", "/v1/jobs/{job_id}"): {"read"},
    ("GET", "/v1/jobs/{job_id}/attempts"): {"read"},
    ("GET", "/v1/jobs/{job_id}/result"): {"read"},
    ("POST", "/v1/jobs/{job_id}/cancel"): {"submit", "operate"},
    ("POST", "/v1/jobs/{job_id}/retry"): {"submit", "operate"},
    ("POST", "/v1/submissions"): {"submit"},
    ("GET", "/v1/submissions/{submission_id}"): {"read"},
    ("GET", "/v1/events"): {"read"},
    ("GET", "/v1/queues"): {"read"},
    ("POST", "/v1/queues/pause"): {"operate"},
    ("POST", "/v1/queues/resume"): {"operate"},
    ("POST", "/v1/operations"): {"operate"},
    ("GET", "/v1/operations"): {"read"},
    ("GET", "/v1/operations/{operation_id}"): {"read"},
    ("POST", "/v1/operations/{operation_id}/stop"): {"operate"},
    ("GET", "/v1/workers"): {"read"},
    ("GET", "/v1/autoscale"): {"read"},
    ("POST", "/v1/uploads"): {"submit"},
    ("GET", "/v1/key"): set[str](),
    ("GET", "/livez"): set[str](),
    ("GET", "/readyz"): set[str](),
}
_EVERYBODYS = {"/v1/workers", "/v1/autoscale"}
_BODIES = {
    "/v1/jobs": {"source": "s3://twofold/a.png", "key": "x"},
    "/v1/submissions": {"items": []},
    "/v1/queues/pause": {"reason": "x"},
    "/v1/queues/resume": {"reason": "x"},
    "/v1/operations": {"kind": "cancel", "where": {"error": "x"}, "reason": "x"},
    "/v1/uploads": {"content_type": "image/png"},
}


def test_every_route_is_listed_here() -> None:
    routes = {
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    assert routes == set(_SCOPES)


@pytest.mark.parametrize("tenant", ["acme", None])
@pytest.mark.parametrize(("method", "path"), sorted(key for key, need in _SCOPES.items() if need))
def test_a_key_without_the_scope_gets_nothing(
    served: Served, method: str, path: str, tenant: str | None
) -> None:
    """Nor does nobody, nor a key that is no key."""
    needed = _SCOPES[method, path]
    asked = path.format(job_id=uuid4(), submission_id=uuid4(), operation_id=uuid4())
    body = _BODIES.get(path) if method == "POST" else None
    lesser = {"submit", "read", "operate"} - needed
    if tenant is None:
        lesser -= {"submit"}
    with served.http(tenant, *lesser) as http:
        refused = http.request(method, asked, json=body)
        http.headers["Authorization"] = "Bearer tfk_00000000_" + 64 * "0"
        unknown = http.request(method, asked, json=body)
        del http.headers["Authorization"]
        nobody = http.request(method, asked, json=body)
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    assert (unknown.status_code, unknown.json()["code"]) == (401, "invalid_api_key")
    assert (nobody.status_code, nobody.json()["code"]) == (401, "invalid_api_key")
    assert nobody.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("scope", ["submit", "read", "operate", "admin"])
def test_a_key_for_anything_hears_what_it_is_for(served: Served, scope: str) -> None:
    with served.http("acme", scope) as http:
        told = http.get("/v1/key").json()
        del http.headers["Authorization"]
        nobody = http.get("/v1/key")
    assert (told["tenant"], told["scopes"]) == ("acme", [scope])
    assert nobody.status_code == 401


@pytest.mark.parametrize("path", sorted(_EVERYBODYS))
def test_a_tenants_key_sees_nothing_of_the_fleet(served: Served, path: str) -> None:
    with served.http("acme") as http:
        refused = http.get(path)
    with served.http(None) as http:
        answered = http.get(path)
    assert (refused.status_code, answered.status_code) == (403, 200)


class TestAnotherTenant:
    """With a key for everything, of a tenant whose these are not."""

    @pytest.fixture
    def ids(self, served: Served) -> dict[str, UUID]:
        engine = served.house.engine
        (job_id,) = submitted(engine, new_job(tenant="theirs", key="cat", metadata={"a": "b"}))
        with engine.begin() as connection:
            submission = submissions.begin(connection, tenant="theirs")
            operation = operations.begin(
                connection,
                OperationKind.CANCEL,
                JobFilter(tenant="theirs"),
                reason="theirs",
                who="them",
            )
        return {"job_id": job_id, "submission_id": submission, "operation_id": operation.id}

    @pytest.mark.parametrize(("method", "path"), sorted(key for key in _SCOPES if "{" in key[1]))
    def test_does_not_find_them(
        self, served: Served, ids: dict[str, UUID], method: str, path: str
    ) -> None:
        """The answer is that for an id that nobody has."""
        with served.http("mine") as http:
            theirs = http.request(method, path.format(**ids))
            nobodys = http.request(method, path.format(**dict.fromkeys(ids, uuid4())))
        assert (theirs.status_code, theirs.json()["code"]) == (404, nobodys.json()["code"])
        (job,) = served.house.rows("SELECT state, cancel_requested_at FROM jobs")
        (operation,) = served.house.rows("SELECT finished_at FROM operations WHERE kind = 'cancel'")
        assert (job["state"], job["cancel_requested_at"]) == ("queued", None)
        assert operation["finished_at"] is None

    def test_does_not_see_them_in_lists(self, served: Served, ids: dict[str, UUID]) -> None:
        with served.http("mine") as http:
            lists = [
                http.get("/v1/jobs", params=query).json()["items"]
                for query in (
                    {},
                    {"key": "cat"},
                    {"id": str(ids["job_id"])},
                    {"metadata": "a=b"},
                    {"submission": str(ids["submission_id"])},
                )
            ]
            queues = http.get("/v1/queues").json()
            listed = http.get("/v1/operations").json()
        assert lists == [[]] * 5
        assert [queue["states"] for queue in queues] == [{}] * 3
        assert listed == []

    def test_cannot_name_them_in_an_operation(self, served: Served, ids: dict[str, UUID]) -> None:
        wanted = {"kind": "cancel", "reason": "x", "dry_run": True}
        with served.http("mine") as http:
            named = http.post("/v1/operations", json={**wanted, "where": {"tenant": "theirs"}})
            by_submission = http.post(
                "/v1/operations",
                json={**wanted, "where": {"states": ["queued"]}},
            )
            nothing = http.post("/v1/operations", json={**wanted, "where": {}})
        assert named.status_code == 403
        assert by_submission.json()["counts"] in ({}, {"cancelled": 0})
        assert (nothing.status_code, nothing.json()["code"]) == (422, "invalid_operation")

    def test_pauses_only_its_own(self, served: Served) -> None:
        with served.http("mine") as http:
            assert http.post("/v1/queues/pause", json={"reason": "x"}).status_code == 204
            (pause,) = http.get("/v1/queues").json()[0]["pauses"]
        assert (pause["tenant"], pause["job_class"]) == ("mine", None)
        with served.http("theirs") as http:
            assert http.get("/v1/queues").json()[0]["pauses"] == []
            http.post("/v1/queues/resume", json={"reason": "x"})
        assert served.house.rows("SELECT FROM pauses WHERE resumed_at IS NOT NULL") == []


class TestWhatAnOperatorDidToATenant:
    @pytest.fixture
    def ids(self, served: Served) -> dict[str, UUID]:
        with served.house.engine.begin() as connection:
            begun = operations.begin(
                connection,
                OperationKind.CANCEL,
                JobFilter(tenant="mine"),
                reason="sent twice",
                who="ann",
            )
            pauses.pause(connection, tenant="mine", reason="invoice is open", who="ann")
        return {"operation_id": begun.id}

    def test_is_not_the_tenants_to_end(self, served: Served, ids: dict[str, UUID]) -> None:
        with served.http("mine") as http:
            again = http.post("/v1/queues/pause", json={"reason": "own"})
            resumed = http.post("/v1/queues/resume", json={"reason": "own"})
            stopped = http.post("/v1/operations/{operation_id}/stop".format(**ids))
            (pause,) = http.get("/v1/queues").json()[0]["pauses"]
            operation = http.get("/v1/operations/{operation_id}".format(**ids)).json()
        assert again.status_code == 204
        for refused in (resumed, stopped):
            assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
            assert "operator" in refused.json()["detail"]
        assert (pause["reason"], pause["paused_by"]) == ("invoice is open", "an operator")
        assert operation["finished_at"] is None

    def test_is_any_operators_to_end(self, served: Served, ids: dict[str, UUID]) -> None:
        with served.house.engine.begin() as connection:
            assert pauses.resume(connection, tenant="mine", who="bob")
            assert operations.stop(connection, ids["operation_id"], who="bob").finished_at


class TestWithAKeyOfNoTenant:
    """That is no admin's: for a page of counts, an autoscaler, or whoever is on call."""

    def test_for_read_everything_is_seen(self, served: Served) -> None:
        engine = served.house.engine
        mine, theirs = submitted(engine, new_job(tenant="a"), new_job(tenant="b"))
        with engine.begin() as connection:
            submission = submissions.begin(connection, tenant="b")
        with served.http("b", "operate") as http:
            begun = http.post("/v1/operations", json=_BODIES["/v1/operations"]).json()
        with served.http(None, "read") as http:
            jobs = http.get("/v1/jobs").json()["items"]
            single = http.get(f"/v1/jobs/{theirs}").json()
            together = http.get(f"/v1/submissions/{submission}").json()
            queues = http.get("/v1/queues").json()
            operation = http.get(f"/v1/operations/{begun['id']}").json()
            kinds = {one["kind"] for one in http.get("/v1/operations").json()}
            fleet = [http.get(path).status_code for path in sorted(_EVERYBODYS)]
        assert {job["id"] for job in jobs} == {str(mine), str(theirs)}
        assert (single["tenant"], together["tenant"]) == ("b", "b")
        assert sum(queue["states"].get("queued", 0) for queue in queues) == 2
        assert operation["who"].startswith("key tfk_")
        assert kinds == {"cancel", "create_key"}
        assert fleet == [200, 200]

    def test_for_operate_everything_is_paused_and_called_off(self, served: Served) -> None:
        submitted(served.house.engine, new_job(tenant="a"), new_job(tenant="b"))
        (single,) = submitted(served.house.engine, new_job(tenant="b"))
        wanted = {"kind": "cancel", "where": {"states": ["queued"]}, "reason": "x"}
        with served.http(None, "operate") as http:
            paused = http.post("/v1/queues/pause", json={"reason": "x"})
            ended = http.post(f"/v1/jobs/{single}/cancel")
            counted = http.post("/v1/operations", json={**wanted, "dry_run": True})
            begun = http.post("/v1/operations", json=wanted)
            stopped = http.post(f"/v1/operations/{begun.json()['id']}/stop")
        assert (paused.status_code, ended.json()["answer"]) == (204, "cancelled")
        assert sum(counted.json()["counts"].values()) == 2
        assert (begun.status_code, stopped.json()["stopped_by"]) == (202, begun.json()["who"])
        (pause,) = served.house.rows("SELECT tenant, resumed_at FROM pauses")
        assert (pause["tenant"], pause["resumed_at"]) == (None, None)


class TestWhatATenantIsToldOfOperations:
    @pytest.fixture
    def operations_of_mine(self, served: Served) -> None:
        """An operator's: rights, a cancel that another one stopped, and a pause of everything."""
        with served.house.engine.begin() as connection:
            rights.set_rights(connection, "mine", max_queued=5, reason="late to pay", who="ann")
            begun = operations.begin(
                connection,
                OperationKind.CANCEL,
                JobFilter(tenant="mine"),
                reason="sent twice",
                who="ann",
            )
            operations.stop(connection, begun.id, who="bob")
            pauses.pause(connection, reason="new disks", who="ann")

    @pytest.mark.usefixtures("operations_of_mine")
    def test_what_is_done_to_its_jobs_by_whom_of_its_own_and_no_more(self, served: Served) -> None:
        with served.http("mine") as http:
            own = http.post("/v1/operations", json=_BODIES["/v1/operations"]).json()
            listed = http.get("/v1/operations").json()
            single = http.get(f"/v1/operations/{listed[1]['id']}").json()
            (pause,) = http.get("/v1/queues").json()[0]["pauses"]
            by_kind = http.get("/v1/operations", params={"kind": ["rights", "create_key"]}).json()
        assert [(one["kind"], one["who"], one["stopped_by"]) for one in listed] == [
            ("cancel", own["who"], None),
            ("cancel", "an operator", "an operator"),
        ]
        assert own["who"].startswith("key tfk_")
        assert (single, single["reason"]) == (listed[1], "sent twice")
        assert (pause["paused_by"], pause["reason"]) == ("an operator", "new disks")
        assert by_kind == []

    @pytest.mark.usefixtures("operations_of_mine")
    def test_an_operation_on_its_rights_is_found_by_operators_alone(self, served: Served) -> None:
        (row,) = served.house.rows("SELECT id FROM operations WHERE kind = 'rights'")
        with served.http("mine") as http:
            hidden = http.get(f"/v1/operations/{row['id']}")
        with served.http(None, "read") as http:
            shown = http.get(f"/v1/operations/{row['id']}").json()
        assert (hidden.status_code, hidden.json()["code"]) == (404, "operation_not_found")
        assert (shown["who"], shown["change"]["max_queued"]) == ("ann", 5)
