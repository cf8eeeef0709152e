"""The outbox: taken by keepers, sent by them outside any transaction, and recorded.

A row is leased before it is sent: its next try is put off until the lease ends, so that nobody
else takes it meanwhile, and so that it is tried again if the keeper dies. Whoever records a try
names the lease. What an endpoint said 2xx to is delivered, though, however late that is recorded.

Endpoints do not wait for each other: each has so many tries under way and no more, and one whose
last try failed has one, with a pause after it that grows while it goes on failing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import Connection, text

#: How long a message waits after each try that failed, in seconds, and up to a fifth longer: the
#: schedule of Standard Webhooks, three days in all.
PAUSES = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)

#: An endpoint that has failed for as long as one message is tried is disabled.
GIVE_UP = timedelta(seconds=sum(PAUSES))

#: How long a keeper has for a try and its record.
LEASE = timedelta(seconds=60)

#: The pause of an endpoint that fails, in seconds, doubling up to the second.
_ENDPOINT_PAUSE, _LONGEST_ENDPOINT_PAUSE = 5.0, 300.0

#: How many tries the log holds, and how much of an error.
_LOGGED, _MAX_ERROR = 20, 300


def _due(which: str, limit: str) -> str:
    """What is due of endpoints, these by lot: no more is locked than is wanted."""
    return f"""
        SELECT one.id, lot.url, lot.failing
        FROM (SELECT * FROM room WHERE tries > 0 AND {which} ORDER BY random()) AS lot
        CROSS JOIN LATERAL (
            SELECT id FROM deliveries
            WHERE webhook_id = lot.id AND state = 'pending'
              AND next_try_at <= (SELECT clock_timestamp())
            ORDER BY next_try_at LIMIT lot.tries FOR UPDATE SKIP LOCKED
        ) AS one
        LIMIT :{limit}
    """  # noqa: S608 - built from constants of this module


# Takes what is due, of each endpoint no more than it has room for, and of those that fail no more
# than so many together.
_LEASE = text(f"""
    WITH room AS (
        SELECT webhooks.id, url, failing_since IS NOT NULL AS failing,
               CASE WHEN failing_since IS NULL THEN :each ELSE 1 END
               - coalesce(busy.tries, 0) AS tries
        FROM webhooks
        LEFT JOIN unnest(CAST(:busy AS uuid[]), CAST(:busy_tries AS integer[]))
               AS busy (id, tries) USING (id)
        WHERE disabled_at IS NULL
          AND (retry_at IS NULL OR retry_at <= (SELECT clock_timestamp()))
    ), taken AS (
        SELECT * FROM (
            ({_due("NOT failing", "rows")}) UNION ALL ({_due("failing", "failing_rows")})
        ) AS due
        ORDER BY random() LIMIT :rows
    )
    UPDATE deliveries SET next_try_at = clock_timestamp() + :lease
    FROM taken WHERE deliveries.id = taken.id
    RETURNING deliveries.id, webhook_id, url, failing, body, next_try_at AS until,
              clock_timestamp() AS began_at
""")  # noqa: S608 - built from constants of this module

# What signs for these endpoints, the newest first.
_SECRETS = text("""
    SELECT webhook_id, secret FROM webhook_secrets
    WHERE webhook_id = ANY(CAST(:ids AS uuid[]))
      AND (expires_at IS NULL OR expires_at > clock_timestamp())
    ORDER BY created_at DESC
""")

# Writes down what came of tries.
_RECORD = text("""
    WITH came AS (
        SELECT * FROM unnest(
            CAST(:ids AS uuid[]), CAST(:untils AS timestamptz[]), CAST(:began AS timestamptz[]),
            CAST(:delivered AS boolean[]), CAST(:gone AS boolean[]), CAST(:statuses AS integer[]),
            CAST(:seconds AS double precision[]), CAST(:errors AS text[]),
            CAST(:waits AS double precision[])
        ) AS t (id, until, began_at, delivered, gone, status, seconds, error, wait)
    ), held AS (
        SELECT deliveries.id, CASE
            WHEN came.delivered THEN 'delivered'
            WHEN came.gone OR deliveries.tries >= cardinality(CAST(:pauses AS double precision[]))
            THEN 'failed'
            ELSE 'pending' END AS fate
        FROM deliveries JOIN came USING (id)
        WHERE deliveries.state = 'pending'
          AND (came.delivered OR deliveries.next_try_at = came.until)
        ORDER BY deliveries.id FOR UPDATE OF deliveries
    )
    UPDATE deliveries
    SET state = held.fate,
        tries = tries + 1,
        next_try_at = CASE held.fate WHEN 'pending' THEN clock_timestamp() + interval '1 second' *
            greatest(came.wait, (CAST(:pauses AS double precision[]))[tries + 1]
                                * (1 + random() / 5)) END,
        ended_at = CASE WHEN held.fate <> 'pending' THEN clock_timestamp() END,
        log = CASE WHEN jsonb_array_length(log) >= :logged THEN log - 0 ELSE log END
            || jsonb_build_array(jsonb_build_object(
                   'at', came.began_at, 'status', came.status, 'seconds', came.seconds,
                   'error', came.error))
    FROM came JOIN held USING (id)
    WHERE deliveries.id = came.id
    RETURNING deliveries.id, deliveries.state
""")

# Locks endpoints of both kinds below at once, in the order in which everybody does.
_LOCK = text("""
    SELECT FROM webhooks WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE
""")

# Notes that endpoints hear again.
_HEARD = text("""
    WITH held AS (
        SELECT id FROM webhooks
        WHERE id = ANY(CAST(:ids AS uuid[])) AND failing_since IS NOT NULL
        ORDER BY id FOR UPDATE
    )
    UPDATE webhooks SET failing_since = NULL, failures = 0, retry_at = NULL
    FROM held WHERE webhooks.id = held.id
""")

# Notes that tries failed, and puts the next ones off: longer each time, but not for a try that had
# begun before the last pause. Gives up endpoints that are gone or have failed for so long.
_FAILED = text("""
    WITH came AS (
        SELECT * FROM unnest(
            CAST(:ids AS uuid[]), CAST(:began AS timestamptz[]), CAST(:gone AS boolean[]),
            CAST(:waits AS double precision[])
        ) AS t (id, began_at, gone, wait)
    ), held AS (
        SELECT webhooks.id, came.gone, came.wait,
               coalesce(failing_since, came.began_at) AS since,
               retry_at IS NULL OR retry_at <= came.began_at AS anew
        FROM webhooks JOIN came ON came.id = webhooks.id
        WHERE disabled_at IS NULL
        ORDER BY webhooks.id FOR UPDATE OF webhooks
    ), judged AS (
        SELECT *, CASE WHEN gone THEN CAST(:gone_reason AS text)
                       WHEN since <= clock_timestamp() - :give_up THEN CAST(:failed_reason AS text)
                       END AS reason
        FROM held
    )
    UPDATE webhooks
    SET failing_since = judged.since,
        failures = failures + CAST(judged.anew AS integer),
        retry_at = greatest(retry_at, clock_timestamp() + interval '1 second' * greatest(
            judged.wait,
            CASE WHEN judged.anew THEN least(:longest, :pause * power(2, least(failures, 20))) END
        )),
        disabled_at = CASE WHEN judged.reason IS NOT NULL THEN clock_timestamp() END,
        disabled_reason = judged.reason
    FROM judged WHERE webhooks.id = judged.id
    RETURNING webhooks.id, webhooks.disabled_reason AS reason
""")

_GONE = "The endpoint answered 410 Gone."
_FAILED_FOR_LONG = "Every try has failed for three days."


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """A message that this keeper may send, once, until its lease ends.

    Attributes:
        id: Its `webhook-id`.
        failing: Whether the endpoint's last try failed.
        body: What is sent.
        secrets: Of the endpoint, the newest first.
        until: The lease's end, by which it is known.
        began_at: When it was leased, by the database's clock.
    """

    id: UUID
    webhook_id: UUID
    url: str
    failing: bool
    body: str
    secrets: tuple[SecretStr, ...] = field(repr=False)
    until: datetime
    began_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a try.

    Attributes:
        status: The HTTP status of the answer; None for no answer.
        seconds: How long it took.
        error: Why there was no answer.
        retry_after: For how long the endpoint asked to be left alone, in seconds; 0 if it did not.
    """

    status: int | None
    seconds: float
    error: str | None = None
    retry_after: float = 0.0

    @property
    def delivered(self) -> bool:
        """Whether the endpoint has it."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """Whether the endpoint wants nothing more, ever."""
        return self.status == 410


def lease(
    connection: Connection,
    *,
    rows: int,
    failing_rows: int,
    each: int,
    busy: Mapping[UUID, int],
) -> list[Leased]:
    """Take messages that are due.

    Args:
        connection: In a transaction that ends before anything is sent.
        rows: How many tries this keeper can begin.
        failing_rows: How many of them at endpoints that fail.
        each: How many an endpoint may have under way with this keeper.
        busy: How many each endpoint has.
    """
    values = {
        "rows": rows,
        "failing_rows": failing_rows,
        "each": each,
        "busy": list(busy),
        "busy_tries": list(busy.values()),
        "lease": LEASE,
    }
    taken = connection.execute(_LEASE, values).all()
    if not taken:
        return []
    secrets: dict[UUID, list[SecretStr]] = {row.webhook_id: [] for row in taken}
    for row in connection.execute(_SECRETS, {"ids": list(secrets)}):
        secrets[row.webhook_id].append(SecretStr(row.secret))
    return [
        Leased(
            id=row.id,
            webhook_id=row.webhook_id,
            url=row.url,
            failing=row.failing,
            body=row.body,
            secrets=tuple(secrets[row.webhook_id]),
            until=row.until,
            began_at=row.began_at,
        )
        for row in taken
    ]


def record(connection: Connection, tries: Sequence[tuple[Leased, Outcome]]) -> Mapping[UUID, str]:
    """Write down what came of tries. Safe to repeat.

    Args:
        connection: In a transaction.
        tries: A message at most once.

    Returns:
        The endpoints that were disabled, and why.
    """
    values = {
        "ids": [one.id for one, _ in tries],
        "untils": [one.until for one, _ in tries],
        "began": [one.began_at for one, _ in tries],
        "delivered": [outcome.delivered for _, outcome in tries],
        "gone": [outcome.gone for _, outcome in tries],
        "statuses": [outcome.status for _, outcome in tries],
        "seconds": [round(outcome.seconds, 3) for _, outcome in tries],
        "errors": [outcome.error and outcome.error[:_MAX_ERROR] for _, outcome in tries],
        "waits": [outcome.retry_after for _, outcome in tries],
        "pauses": list(PAUSES),
        "logged": _LOGGED,
    }
    written = {row.id for row in connection.execute(_RECORD, values)}
    return _judge(connection, [(one, outcome) for one, outcome in tries if one.id in written])


def _judge(connection: Connection, tries: Sequence[tuple[Leased, Outcome]]) -> Mapping[UUID, str]:
    """Note which endpoints hear and which do not. Of several tries one that was heard decides."""
    heard = {one.webhook_id for one, outcome in tries if outcome.delivered}
    deaf: dict[UUID, tuple[datetime, bool, float]] = {}
    for one, outcome in tries:
        if outcome.gone or (one.webhook_id not in heard and not outcome.delivered):
            began_at, gone, wait = deaf.get(one.webhook_id, (one.began_at, False, 0.0))
            deaf[one.webhook_id] = (
                max(began_at, one.began_at),
                gone or outcome.gone,
                max(wait, outcome.retry_after),
            )
    if heard and deaf:
        connection.execute(_LOCK, {"ids": [*heard, *deaf]})
    if heard:
        connection.execute(_HEARD, {"ids": list(heard)})
    if not deaf:
        return {}
    judged = connection.execute(
        _FAILED,
        {
            "ids": list(deaf),
            "began": [began_at for began_at, _, _ in deaf.values()],
            "gone": [gone for _, gone, _ in deaf.values()],
            "waits": [wait for _, _, wait in deaf.values()],
            "give_up": GIVE_UP,
            "pause": _ENDPOINT_PAUSE,
            "longest": _LONGEST_ENDPOINT_PAUSE,
            "gone_reason": _GONE,
            "failed_reason": _FAILED_FOR_LONG,
        },
    )
    return {row.id: row.reason for row in judged if row.reason}
