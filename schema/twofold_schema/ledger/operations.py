"""What was asked for that concerns many jobs: who, why, and how far it is.

A cancel or a retry by filter is a row that a keeper carries out; see `batches`. Pauses, shares,
rights and API keys are done at once and leave a row as well, so that there is one place that says
who did what.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from twofold_schema.errors import InvalidOperation, OperationNotFound, ScopeMissing
from twofold_schema.ids import new_id
from twofold_schema.job import can_be_tenant
from twofold_schema.ledger import matching
from twofold_schema.ledger.matching import CHANGEABLE, Bounds
from twofold_schema.operation import OPERATION_COLUMNS, JobFilter, Operation, OperationKind

# Writes an operation down; one that is not bound to a moment has been done.
_INSERT = text(f"""
    INSERT INTO operations (id, kind, filter, change, who, reason, expected, last_id, created_at,
                            finished_at)
    VALUES (:id, :kind, CAST(:filter AS jsonb), CAST(:change AS jsonb), :who, :reason, :expected,
            :last_id, coalesce(CAST(:asked_at AS timestamptz), clock_timestamp()),
            CASE WHEN CAST(:asked_at AS timestamptz) IS NULL THEN clock_timestamp() END)
    RETURNING {OPERATION_COLUMNS}
""")  # noqa: S608 - a constant

#: What a tenant is told of: what is done to its jobs and its endpoints. Its share, its rights and
#: its keys are said by operators, and are between them.
TOLD = (
    OperationKind.CANCEL,
    OperationKind.RETRY,
    OperationKind.PAUSE,
    OperationKind.RESUME,
    OperationKind.WEBHOOK,
)

_TOLD = ", ".join(f"'{kind}'" for kind in TOLD)

# Of those that concern one tenant's jobs alone, and that it is told of; None for all.
_OF_TENANT = f"""
    (CAST(:tenant AS text) IS NULL OR filter ->> 'tenant' = :tenant AND kind IN ({_TOLD}))
"""


def by_own_key(column: str, asker: str = "tenant") -> str:
    """SQL: whether who did something was a key of the tenant that asks; true of all if none does.

    Args:
        column: Who did it.
        asker: The parameter that has the tenant.
    """
    return f"""
        (CAST(:{asker} AS text) IS NULL
         OR {column} IN (SELECT 'key ' || prefix FROM api_keys WHERE tenant = :{asker}))
    """  # noqa: S608 - of the names of columns and parameters of this package


def as_told(column: str) -> str:
    """SQL: who did something, as a tenant is told: by name if it was one of its own keys."""
    return f"""
        CASE WHEN {by_own_key(column)} THEN {column}
             WHEN {column} IS NOT NULL THEN 'an operator' END AS {column}
    """


_SEEN = ", ".join(
    as_told(name) if name in {"who", "stopped_by"} else name
    for name in Operation.__dataclass_fields__
)

_GET = text(f"""
    SELECT {_SEEN} FROM operations WHERE id = :id AND {_OF_TENANT}
""")  # noqa: S608 - built from constants of this package

# Newest first; ids are in order of time.
_FIND = text(f"""
    SELECT {_SEEN} FROM operations
    WHERE (CAST(:kinds AS text[]) IS NULL OR kind = ANY(CAST(:kinds AS text[])))
      AND (NOT :unfinished OR finished_at IS NULL)
      AND (CAST(:before AS uuid) IS NULL OR id < :before) AND {_OF_TENANT}
    ORDER BY id DESC LIMIT :limit
""")  # noqa: S608 - built from constants of this package

# Ends an operation whose batch, if one is under way, has committed.
_STOP = text(f"""
    UPDATE operations SET finished_at = clock_timestamp(), stopped_by = :who
    WHERE id = :id AND finished_at IS NULL AND {_OF_TENANT} AND {by_own_key("who")}
""")  # noqa: S608 - built from constants of this module


def check_tenant(tenant: str | None) -> None:
    """Accept the name of a tenant, or none.

    Raises:
        InvalidOperation: It is blank.
    """
    if tenant is not None and not can_be_tenant(tenant):
        raise InvalidOperation("A tenant's name cannot be blank; name one, or leave it out.")


def check_stated(where: JobFilter) -> None:
    """Accept a filter that states something.

    Raises:
        InvalidOperation: It does not.
    """
    if not where.to_json():
        raise InvalidOperation(
            "A filter states at least one thing, so that none means everything by accident; name "
            "all states to mean every job."
        )


def check(kind: OperationKind, where: JobFilter) -> None:
    """Accept a filter of a cancel or a retry.

    Raises:
        InvalidOperation: It states nothing, or what no such job can be.
    """
    check_stated(where)
    if not matching.states(kind, where):
        possible = ", ".join(CHANGEABLE[kind])
        raise InvalidOperation(f"A {kind} concerns jobs that are {possible}, and no others.")


def begin(
    connection: Connection,
    kind: OperationKind,
    where: JobFilter,
    *,
    reason: str,
    who: str,
    expected: int | None = None,
) -> Operation:
    """Ask for a cancel or a retry of all jobs that match and were submitted before.

    Args:
        connection: Whose transaction ends soon after: jobs that are submitted until then are not
            touched either.
        kind: Cancel or retry.
        where: Which jobs.
        reason: Why, for people.
        who: Asks for it.
        expected: How many there are, if they were counted.

    Raises:
        InvalidOperation: The filter states nothing, or what no such job can be.
    """
    check(kind, where)
    if not reason.strip():
        raise InvalidOperation("Say why, for whoever reads it later.")
    within = matching.bounds(connection, kind, where)
    return _insert(
        connection, kind, where, reason=reason, who=who, within=within, expected=expected
    )


def note(
    connection: Connection,
    kind: OperationKind,
    where: JobFilter,
    *,
    reason: str,
    who: str,
    change: Mapping[str, Any] | None = None,
) -> None:
    """Write down what this transaction has done.

    Args:
        connection: In whose transaction it was done.
        kind: Any but cancel and retry.
        where: Its scope.
        reason: Why, for people.
        who: Did it.
        change: What a share or rights were set to, or which API key it was.
    """
    _insert(connection, kind, where, reason=reason, who=who, change=change)


def get(connection: Connection, operation_id: UUID, *, tenant: str | None = None) -> Operation:
    """One operation.

    Args:
        connection: Of the database.
        operation_id: Its id.
        tenant: To whom it is told, and whose jobs alone it has to concern; None for whosoever's.

    Raises:
        OperationNotFound: None of these has this id.
    """
    asked = {"id": operation_id, "tenant": tenant}
    row = connection.execute(_GET, asked).mappings().one_or_none()
    if row is None:
        raise OperationNotFound(f"No operation has the id {operation_id}.")
    return Operation.from_row(row)


def find(
    connection: Connection,
    *,
    kinds: Collection[OperationKind] | None = None,
    unfinished: bool = False,
    tenant: str | None = None,
    before: UUID | None = None,
    limit: int = 50,
) -> Sequence[Operation]:
    """A page of operations, newest first.

    Args:
        connection: Of the database.
        kinds: Only these; None for all.
        unfinished: Only those that go on.
        tenant: To whom they are told: only those that concern this one's jobs and endpoints alone,
            and without the names of operators; None for all.
        before: The last id of the page before.
        limit: 1 or more.
    """
    parameters = {
        "kinds": None if kinds is None else list(kinds),
        "unfinished": unfinished,
        "tenant": tenant,
        "before": before,
        "limit": limit,
    }
    return [Operation.from_row(row) for row in connection.execute(_FIND, parameters).mappings()]


def stop(
    connection: Connection, operation_id: UUID, *, who: str, tenant: str | None = None
) -> Operation:
    """End an operation; what it has done stays. One that has finished stays as it is.

    Raises:
        OperationNotFound: None has this id, or of this tenant.
        ScopeMissing: A tenant asks, and it is an operator's.
    """
    connection.execute(_STOP, {"id": operation_id, "who": who, "tenant": tenant})
    operation = get(connection, operation_id, tenant=tenant)
    if operation.finished_at is None:
        raise ScopeMissing("An operator began this; ask them to stop it.")
    return operation


def _insert(
    connection: Connection,
    kind: OperationKind,
    where: JobFilter,
    *,
    reason: str,
    who: str,
    within: Bounds | None = None,
    expected: int | None = None,
    change: Mapping[str, Any] | None = None,
) -> Operation:
    if not who.strip():
        raise InvalidOperation("Say who asks for it.")
    values = {
        "id": new_id(),
        "kind": kind,
        "filter": json.dumps(where.to_json()),
        "change": change and json.dumps(change),
        "who": who,
        "reason": reason,
        "expected": expected,
        "last_id": within and within.last,
        "asked_at": within and within.asked_at,
    }
    return Operation.from_row(connection.execute(_INSERT, values).mappings().one())
