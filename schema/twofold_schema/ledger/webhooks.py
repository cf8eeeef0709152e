"""Webhook endpoints: made, changed, and given their secrets.

The database draws the secrets (244 random bits of two UUIDs version 4, RFC 9562), so that no
statement has one among its parameters, which errors quote. What is made or changed is also an
operation that was done at once: who, and why.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import Connection, TextClause, text

from twofold_schema.egress import Egress
from twofold_schema.errors import InvalidParameter, InvalidWebhook, WebhookNotFound
from twofold_schema.ids import new_id
from twofold_schema.ledger import operations
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.webhook import CHOICES, WEBHOOK_COLUMNS, EventType, Webhook

#: How long the old secret signs beside a new one, unless said otherwise.
KEEP_OLD = timedelta(hours=24)
#: The most that sign beside each other: a signature each, in one header.
MOST_SECRETS = 5

_INSERT = text(f"""
    INSERT INTO webhooks (id, tenant, url, events, everything)
    VALUES (:id, :tenant, :url, CAST(:events AS text[]), :everything)
    RETURNING {WEBHOOK_COLUMNS}
""")  # noqa: S608 - a constant

# Draws a secret of 32 bytes, written as Standard Webhooks has it.
_DRAW = text("""
    INSERT INTO webhook_secrets (webhook_id, secret)
    VALUES (:id, 'whsec_' || encode(
        uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'base64'))
    RETURNING secret
""")

# Lets the secrets that an endpoint has sign for so much longer, and no longer than they would.
_EXPIRE = text("""
    UPDATE webhook_secrets SET expires_at = least(expires_at, clock_timestamp() + :keep)
    WHERE webhook_id = :id
""")

# Forgets secrets that do not sign any more: those that have expired, and the oldest of too many.
_FORGET = text("""
    DELETE FROM webhook_secrets
    WHERE webhook_id = :id AND (expires_at <= clock_timestamp() OR created_at NOT IN (
        SELECT created_at FROM webhook_secrets
        WHERE webhook_id = :id ORDER BY created_at DESC LIMIT :most))
""")

_GET = text(f"SELECT {WEBHOOK_COLUMNS} FROM webhooks WHERE id = :id")  # noqa: S608 - a constant

# The same, and nobody else changes it before this transaction ends.
_HOLD = text(f"""
    SELECT {WEBHOOK_COLUMNS} FROM webhooks WHERE id = :id FOR NO KEY UPDATE
""")  # noqa: S608 - a constant

# Oldest first.
_ALL = text(f"""
    SELECT {WEBHOOK_COLUMNS} FROM webhooks
    WHERE (CAST(:tenant AS text) IS NULL OR tenant = :tenant)
    ORDER BY id
""")  # noqa: S608 - a constant

_DISABLE = text(f"""
    UPDATE webhooks
    SET disabled_at = coalesce(disabled_at, clock_timestamp()), disabled_reason = :reason
    WHERE id = :id RETURNING {WEBHOOK_COLUMNS}
""")  # noqa: S608 - a constant

_ENABLE = text(f"""
    UPDATE webhooks
    SET disabled_at = NULL, disabled_reason = NULL, failing_since = NULL, failures = 0,
        retry_at = NULL
    WHERE id = :id RETURNING {WEBHOOK_COLUMNS}
""")  # noqa: S608 - a constant

# Whose endpoints these are.
_TENANTS = text("SELECT id, tenant FROM webhooks WHERE id = ANY(CAST(:ids AS uuid[]))")


def create(
    connection: Connection,
    url: str,
    *,
    egress: Egress,
    who: str,
    reason: str = "",
    tenant: str = "default",
    events: Collection[EventType] | None = None,
    everything: bool = True,
) -> tuple[Webhook, SecretStr]:
    """Make an endpoint; its secret is told this once.

    Args:
        connection: In a transaction.
        url: Where messages go.
        egress: What is open to webhooks.
        who: Makes it.
        reason: Why, for people.
        tenant: Whose jobs and submissions it is told of.
        events: What it is told of; None for all, those of later versions too.
        everything: Whether of all of them, or only of those that name it.

    Raises:
        InvalidWebhook: The URL is not open to webhooks, or an event cannot be chosen.
        InvalidOperation: The tenant's name is blank, or nobody makes it.
    """
    operations.check_tenant(tenant)
    egress.receiver(url)
    if events is not None and (not events or set(events) - set(CHOICES)):
        raise InvalidWebhook(f"Choose one event or more of: {', '.join(CHOICES)}.")
    values = {
        "id": new_id(),
        "tenant": tenant,
        "url": url,
        "events": None if events is None else sorted(set(events)),
        "everything": everything,
    }
    webhook = Webhook.from_row(connection.execute(_INSERT, values).mappings().one())
    _note(connection, webhook, "create", who, reason, url=url)
    return webhook, SecretStr(connection.execute(_DRAW, values).scalar_one())


def rotate(
    connection: Connection,
    webhook_id: UUID,
    *,
    who: str,
    reason: str = "",
    keep: timedelta = KEEP_OLD,
) -> SecretStr:
    """Give an endpoint another secret, told this once; the old ones sign for a while longer.

    Args:
        connection: In a transaction.
        webhook_id: Of the endpoint.
        who: Asks for it.
        reason: Why, for people.
        keep: How long the old ones sign beside it; nothing for a secret that got out.

    Raises:
        WebhookNotFound: None has this id.
    """
    webhook = _one(connection, _HOLD, webhook_id)
    connection.execute(_EXPIRE, {"id": webhook_id, "keep": keep})
    secret: str = connection.execute(_DRAW, {"id": webhook_id}).scalar_one()
    connection.execute(_FORGET, {"id": webhook_id, "most": MOST_SECRETS})
    _note(connection, webhook, "rotate", who, reason, keep_seconds=keep.total_seconds())
    return SecretStr(secret)


def get(connection: Connection, webhook_id: UUID) -> Webhook:
    """One endpoint.

    Raises:
        WebhookNotFound: None has this id.
    """
    return _one(connection, _GET, webhook_id)


def find(connection: Connection, *, tenant: str | None = None) -> Sequence[Webhook]:
    """Endpoints, oldest first.

    Args:
        connection: Of the database.
        tenant: Only this tenant's.
    """
    rows = connection.execute(_ALL, {"tenant": tenant}).mappings()
    return [Webhook.from_row(row) for row in rows]


def disable(connection: Connection, webhook_id: UUID, *, who: str, reason: str) -> Webhook:
    """Send an endpoint nothing more, and note nothing more down for it. What waits stays.

    Raises:
        WebhookNotFound: None has this id.
    """
    webhook = _one(connection, _DISABLE, webhook_id, reason=reason)
    _note(connection, webhook, "disable", who, reason)
    return webhook


def enable(connection: Connection, webhook_id: UUID, *, who: str, reason: str = "") -> Webhook:
    """Use an endpoint again: what waited for it is sent, what happened meanwhile is not.

    Raises:
        WebhookNotFound: None has this id.
    """
    webhook = _one(connection, _ENABLE, webhook_id)
    _note(connection, webhook, "enable", who, reason)
    return webhook


def tenants(connection: Connection, webhook_ids: Collection[UUID]) -> Mapping[UUID, str]:
    """Whose these endpoints are; ids that are unknown are left out."""
    found = connection.execute(_TENANTS, {"ids": list(webhook_ids)})
    return {row.id: row.tenant for row in found}


def unknown(tenant: str, webhook_id: UUID) -> InvalidParameter:
    """What is wrong with a job or a submission that names an endpoint its tenant does not have."""
    return InvalidParameter(f"webhook: the tenant {tenant} has no endpoint {webhook_id}.")


def _one(
    connection: Connection, statement: TextClause, webhook_id: UUID, **values: object
) -> Webhook:
    row = connection.execute(statement, {"id": webhook_id, **values}).mappings().one_or_none()
    if row is None:
        raise WebhookNotFound(f"No webhook endpoint has the id {webhook_id}.")
    return Webhook.from_row(row)


def _note(
    connection: Connection, webhook: Webhook, act: str, who: str, reason: str, **more: object
) -> None:
    operations.note(
        connection,
        OperationKind.WEBHOOK,
        JobFilter(tenant=webhook.tenant),
        reason=reason,
        who=who,
        change={"webhook": str(webhook.id), "act": act, **more},
    )
