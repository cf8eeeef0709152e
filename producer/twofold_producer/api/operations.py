"""`/v1/operations`: a cancel or a retry of many jobs, which the keeper carries out."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response, status

from twofold_producer.api.caller import Caller, Operator, Reader
from twofold_producer.api.description import LOCATION, errors
from twofold_producer.api.service import Parts
from twofold_schema.errors import InvalidOperation, ScopeMissing
from twofold_schema.ledger import batches
from twofold_schema.ledger import operations as ledger
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.wire import OperationBody, OperationReport

router = APIRouter(prefix="/v1/operations", tags=["operations"])


@router.post(
    "",
    status_code=status.HTTP_202_ACCEPTED,
    responses=errors(400, 409, 413, 422)
    | {
        200: {"model": OperationReport, "description": "It was only counted."},
        202: {"headers": LOCATION},
    },
)
def begin(
    body: OperationBody, caller: Operator, parts: Parts, response: Response
) -> OperationReport:
    """Call off, or retry, all jobs that match and were submitted before."""
    if body.kind not in {OperationKind.CANCEL, OperationKind.RETRY}:
        raise InvalidOperation("An operation over jobs is cancel or retry.")
    where = _own(body.where, caller)
    if body.dry_run:
        with parts.reading() as connection:
            counts = batches.count(connection, body.kind, where)
        response.status_code = status.HTTP_200_OK
        return OperationReport(
            id=None,
            kind=body.kind,
            filter=where,
            who=caller.name,
            reason=body.reason,
            expected=sum(counts.values()),
            counts=counts,
            created_at=None,
            finished_at=None,
            stopped_by=None,
        )
    with parts.writing() as connection:
        begun = ledger.begin(
            connection,
            body.kind,
            where,
            reason=body.reason,
            who=caller.name,
            expected=body.expected,
        )
    response.headers["Location"] = f"/v1/operations/{begun.id}"
    return OperationReport.of(begun)


@router.get("", responses=errors(422))
def find(
    caller: Reader,
    parts: Parts,
    *,
    kind: Annotated[list[OperationKind] | None, Query(description="Only of these kinds.")] = None,
    unfinished: Annotated[bool, Query(description="Only those that go on.")] = False,
    before: Annotated[UUID | None, Query(description="The last id of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> list[OperationReport]:
    """A page of operations, newest first: who asked for what, and why."""
    with parts.reading() as connection:
        found = ledger.find(
            connection,
            kinds=kind,
            tenant=caller.tenant,
            unfinished=unfinished,
            before=before,
            limit=limit,
        )
    return [OperationReport.of(one) for one in found]


@router.get("/{operation_id}", responses=errors(404, 422))
def get(operation_id: UUID, caller: Reader, parts: Parts) -> OperationReport:
    """How far it is."""
    with parts.reading() as connection:
        return OperationReport.of(ledger.get(connection, operation_id, tenant=caller.tenant))


@router.post("/{operation_id}/stop", responses=errors(404, 409, 422))
def stop(operation_id: UUID, caller: Operator, parts: Parts) -> OperationReport:
    """End it before it is done; what it has done stays."""
    with parts.writing() as connection:
        stopped = ledger.stop(connection, operation_id, who=caller.name, tenant=caller.tenant)
    return OperationReport.of(stopped)


def _own(where: JobFilter, caller: Caller) -> JobFilter:
    """The filter, over nobody else's jobs.

    Raises:
        ScopeMissing: It names another tenant.
        InvalidOperation: It states nothing: a tenant that is only implied is no filter.
    """
    ledger.check_stated(where)
    if caller.tenant is None:
        return where
    if where.tenant not in {None, caller.tenant}:
        raise ScopeMissing(f"This key is of the tenant {caller.tenant}; name no other.")
    return where.model_copy(update={"tenant": caller.tenant})
