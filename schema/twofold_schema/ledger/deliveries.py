"""The outbox as people see it: what was told to whom, and again, and for how long it is kept.

How it is sent is in `sending`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from twofold_schema.errors import DeliveryNotFound, InvalidOperation
from twofold_schema.ledger import webhooks
from twofold_schema.webhook import DELIVERY_COLUMNS, Delivery, DeliveryState

_FORGET_ROWS = 5000

_GET = text(f"SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE id = :id")  # noqa: S608 - a constant

_OF = "CAST(:webhook_id AS uuid) IS NULL OR webhook_id = :webhook_id"

# Newest first.
_FIND = text(f"""
    SELECT {DELIVERY_COLUMNS} FROM deliveries
    WHERE ({_OF}) AND (CAST(:tenant AS text) IS NULL OR tenant = :tenant)
      AND (CAST(:state AS text) IS NULL OR state = :state)
      AND (CAST(:before AS uuid) IS NULL OR (created_at, id) < (
          SELECT created_at, id FROM deliveries WHERE id = :before))
    ORDER BY created_at DESC, id DESC LIMIT :limit
""")  # noqa: S608 - built from constants

# Delivers anew what has ended, as if it had never been tried, but for the log.
_AGAIN = text("""
    UPDATE deliveries
    SET state = 'pending', tries = 0, next_try_at = clock_timestamp(), ended_at = NULL
    WHERE id = :id AND state <> 'pending'
""")

# The same of what has failed since a moment, the oldest first.
_FAILED_AGAIN = text("""
    WITH failed AS (
        SELECT id FROM deliveries
        WHERE webhook_id = :webhook_id AND state = 'failed' AND created_at >= :since
        ORDER BY created_at, id LIMIT :rows FOR UPDATE
    )
    UPDATE deliveries
    SET state = 'pending', tries = 0, next_try_at = clock_timestamp(), ended_at = NULL
    WHERE id = ANY(ARRAY(SELECT id FROM failed))
""")

# A message that tells of nothing.
_TEST = text(f"""
    INSERT INTO deliveries (webhook_id, tenant, type, body)
    SELECT id, tenant, 'webhook.test', CAST(json_build_object(
        'type', 'webhook.test',
        'timestamp', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'data', json_build_object('webhook_id', id, 'tenant', tenant)) AS text)
    FROM webhooks WHERE id = :id
    RETURNING {DELIVERY_COLUMNS}
""")  # noqa: S608 - a constant

# Forgets what ended so long ago, the oldest first.
_FORGET_ENDED = text("""
    DELETE FROM deliveries WHERE id = ANY(ARRAY(
        SELECT id FROM deliveries WHERE ended_at <= (SELECT clock_timestamp()) - :age
        ORDER BY ended_at LIMIT :rows FOR UPDATE SKIP LOCKED))
""")

# The same of what waits for endpoints that were disabled so long ago.
_FORGET_DISABLED = text("""
    DELETE FROM deliveries WHERE id = ANY(ARRAY(
        SELECT deliveries.id FROM webhooks JOIN deliveries ON webhook_id = webhooks.id
        WHERE disabled_at <= (SELECT clock_timestamp()) - :age AND state = 'pending'
        LIMIT :rows FOR UPDATE OF deliveries SKIP LOCKED))
""")


def get(connection: Connection, delivery_id: UUID) -> Delivery:
    """One message.

    Raises:
        DeliveryNotFound: None has this id, or it was forgotten.
    """
    row = connection.execute(_GET, {"id": delivery_id}).mappings().one_or_none()
    if row is None:
        raise DeliveryNotFound(f"No delivery has the id {delivery_id}, or it was forgotten.")
    return Delivery.from_row(row)


def find(
    connection: Connection,
    *,
    webhook_id: UUID | None = None,
    tenant: str | None = None,
    state: DeliveryState | None = None,
    before: UUID | None = None,
    limit: int = 50,
) -> Sequence[Delivery]:
    """A page of messages, newest first.

    Args:
        connection: Of the database.
        webhook_id: Only to this endpoint.
        tenant: Only of this tenant.
        state: Only in this one.
        before: The last id of the page before.
        limit: 1 or more.
    """
    values = {
        "webhook_id": webhook_id,
        "tenant": tenant,
        "state": state,
        "before": before,
        "limit": limit,
    }
    return [Delivery.from_row(row) for row in connection.execute(_FIND, values).mappings()]


def redeliver(connection: Connection, delivery_id: UUID) -> Delivery:
    """Deliver a message anew that has ended, well or not, under its old id.

    One that is still to be delivered stays as it is.

    Raises:
        DeliveryNotFound: None has this id, or it was forgotten.
    """
    connection.execute(_AGAIN, {"id": delivery_id})
    return get(connection, delivery_id)


def redeliver_failed(
    connection: Connection, webhook_id: UUID, *, since: datetime, rows: int = 5000
) -> int:
    """Deliver anew what failed at an endpoint; returns how many, `rows` at most.

    Args:
        connection: In a transaction.
        webhook_id: Of the endpoint.
        since: Only of what was told since then.
        rows: Whoever gets as many asks again.
    """
    values = {"webhook_id": webhook_id, "since": since, "rows": rows}
    return connection.execute(_FAILED_AGAIN, values).rowcount


def send_test(connection: Connection, webhook_id: UUID) -> Delivery:
    """Send an endpoint a message that tells of nothing, whatever it wants to be told of.

    Raises:
        WebhookNotFound: None has this id.
        InvalidOperation: It is disabled.
    """
    if webhooks.get(connection, webhook_id).disabled_at is not None:
        raise InvalidOperation("The endpoint is disabled; enable it first.")
    return Delivery.from_row(connection.execute(_TEST, {"id": webhook_id}).mappings().one())


def forget(connection: Connection, *, older_than: timedelta) -> int:
    """Delete messages that ended so long ago, and what waits for endpoints disabled as long.

    Returns:
        How many; each call deletes no more than some thousand.
    """
    values = {"age": older_than, "rows": _FORGET_ROWS}
    ended = connection.execute(_FORGET_ENDED, values).rowcount
    return ended + connection.execute(_FORGET_DISABLED, values).rowcount
