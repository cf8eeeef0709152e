"""Many jobs by filter, pauses, and who works."""

import json
from collections.abc import Iterable
from urllib.parse import urlencode
from uuid import UUID

from twofold_producer.client.calls import Call, Flow, listed, post
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.states import JobClass
from twofold_schema.wire import (
    Autoscale,
    KeyReport,
    OperationReport,
    QueueReport,
    Resumed,
    WorkerReport,
)


def queues() -> Flow[list[QueueReport]]:
    """What waits, by class."""
    return (yield from listed("/v1/queues", QueueReport))


def pause(job_class: JobClass | None, reason: str) -> Flow[None]:
    """Let no more be claimed."""
    body = json.dumps({"job_class": job_class, "reason": reason}).encode()
    yield post("/v1/queues/pause", body)


def resume(job_class: JobClass | None, reason: str) -> Flow[bool]:
    """End a pause; returns whether there was one."""
    body = json.dumps({"job_class": job_class, "reason": reason}).encode()
    # Asked again, the service would answer that there was none.
    answer = yield post("/v1/queues/resume", body, repeatable=False)
    return Resumed.model_validate_json(answer.body).ended


def operate(
    kind: OperationKind, where: JobFilter, *, reason: str, dry_run: bool, expected: int | None
) -> Flow[OperationReport]:
    """Cancel or retry by filter."""
    body = {
        "kind": kind,
        "where": where.to_json(),
        "reason": reason,
        "dry_run": dry_run,
        "expected": expected,
    }
    call = post("/v1/operations", json.dumps(body).encode(), repeatable=dry_run)
    answer = yield call
    return OperationReport.model_validate_json(answer.body)


def operations(
    kinds: Iterable[OperationKind], before: UUID | None, limit: int, *, unfinished: bool
) -> Flow[list[OperationReport]]:
    """A page of operations."""
    query = [("kind", kind.value) for kind in kinds]
    query += [("unfinished", "true")] if unfinished else []
    query += [("before", str(before))] if before else []
    query += [("limit", str(limit))]
    return (yield from listed(f"/v1/operations?{urlencode(query)}", OperationReport))


def operation(operation_id: UUID) -> Flow[OperationReport]:
    """How far an operation is."""
    answer = yield Call(method="GET", path=f"/v1/operations/{operation_id}")
    return OperationReport.model_validate_json(answer.body)


def stop_operation(operation_id: UUID) -> Flow[OperationReport]:
    """End an operation."""
    answer = yield post(f"/v1/operations/{operation_id}/stop")
    return OperationReport.model_validate_json(answer.body)


def key() -> Flow[KeyReport]:
    """Who asks."""
    answer = yield Call(method="GET", path="/v1/key")
    return KeyReport.model_validate_json(answer.body)


def workers() -> Flow[list[WorkerReport]]:
    """Who works."""
    return (yield from listed("/v1/workers", WorkerReport))


def autoscale(drain_seconds: float) -> Flow[Autoscale]:
    """What waits for GPUs."""
    query = [("drain_seconds", f"{drain_seconds:g}")]
    answer = yield Call(method="GET", path="/v1/autoscale", query=query)
    return Autoscale.model_validate_json(answer.body)
