"""The service does what its description says, whatever is sent to it.

Schemathesis makes requests of the description, those that it allows and those that it does not, and
compares the answers with it.
"""

from typing import Any
from uuid import UUID

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
)
from tests.api.conftest import Served
from tests.factories import new_job, submitted

from twofold_producer.api import app
from twofold_schema.ledger import operations, submissions
from twofold_schema.operation import JobFilter, OperationKind

#: Their fields have rules between each other and about places, keys and states, which no schema
#: says: what it allows may be refused for them.
_MORE_RULES = {
    "POST /v1/jobs",
    "POST /v1/jobs/{job_id}/retry",
    "POST /v1/operations",
    "POST /v1/submissions",
}
#: A stream has no end, so that whoever reads whole bodies would wait for ever; test_events.py reads
#: it, and test_scoping.py asks for it without a key.
_STREAM = "/v1/events"
_LONGEST_WAIT = 0.05
_LINES = "application/x-ndjson"

schemathesis.serializer.alias(_LINES, "text/plain")
described = schemathesis.openapi.from_dict(app.openapi()).exclude(path=_STREAM)
# A key is sent with every request; the check `ignored_auth` leaves it out, and sends others.
described.config.generation.update(with_security_parameters=False)


@pytest.fixture
def key(served: Served) -> str:
    return served.issue(None)


@pytest.fixture
def ids(served: Served) -> dict[str, str]:
    """Of what there is, by the names that paths have for it."""
    engine = served.house.engine
    with engine.begin() as connection:
        submission = submissions.begin(connection, tenant="default", key="album")
    (job_id,) = submitted(engine, new_job(metadata={"a": "b"}))
    with engine.begin() as connection:
        operation = operations.begin(
            connection,
            OperationKind.CANCEL,
            JobFilter(tenant="nobody"),
            reason="a test",
            who="a test",
        )
    return {
        "job_id": str(job_id),
        "submission_id": str(submission),
        "operation_id": str(operation.id),
    }


@described.parametrize()
@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_described(
    case: Case[Any], served: Served, key: str, ids: dict[str, str]
) -> None:
    """Also those to what is not allowed, and to whoever has no key."""
    if case.meta is not None and case.meta.generation.mode.is_positive:
        _meet(case, served, ids)
    excluded: list[Any] = [positive_data_acceptance] if case.operation.label in _MORE_RULES else []
    if case.media_type == _LINES:
        # A line that is no job is one that is not accepted: the answer says so, and is a good one.
        excluded.append(negative_data_rejection)
    case.call_and_validate(
        base_url=served.url,
        headers={"Authorization": f"Bearer {key}"},
        excluded_checks=excluded,
        timeout=30,
    )


def _meet(case: Case[Any], served: Served, ids: dict[str, str]) -> None:
    """Let what is allowed find what there is, as random ids and places never would."""
    for name in case.path_parameters.keys() & ids.keys():
        if UUID(case.path_parameters[name]).int % 2:
            case.path_parameters[name] = ids[name]
    if "wait" in case.query:
        case.query["wait"] = min(float(case.query["wait"]), _LONGEST_WAIT)
    if isinstance(case.body, dict) and "source" in case.body:
        bucket = served.house.environment["TWOFOLD_RESULTS"].split("/")[2]
        case.body["source"] = f"s3://{bucket}/a.png"
