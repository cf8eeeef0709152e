"""What the keeper does: what no single job does, for ever.

Any number may run. What writes job rows takes an advisory lock for its transaction, so that one
does it; what touches storage is safe to do twice, and has a loop of its own, so that a slow store
holds up no rescue.
"""

import time
from collections.abc import Callable
from datetime import timedelta

import structlog
from sqlalchemy import Connection, Engine

from twofold_producer.broker import Bell
from twofold_producer.keeper.garbage import Collector
from twofold_producer.keeper.loop import Duty
from twofold_producer.keeper.operations import carry_out
from twofold_producer.keeper.publisher import Publisher
from twofold_producer.keeper.reporter import Reporter
from twofold_producer.keeper.webhooks import Outbox
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import JobError
from twofold_schema.ledger import (
    capacity,
    deliveries,
    history,
    keys,
    reads,
    retention,
    rollups,
    runs,
    shares,
    submissions,
    sweeps,
    tallies,
    tenant_days,
)
from twofold_schema.settings import KeeperSettings, WebhookSettings
from twofold_schema.storage.port import Storage

log = structlog.get_logger(__name__)

#: A job that waited this long beside an idle run has lost its ticket.
_TICKET_LOST = timedelta(seconds=2)

#: How often it is said that jobs fit no live run, and up to how many are counted.
_UNFIT_SECONDS, _UNFIT_COUNTED = 60.0, 100_000

#: How often it is looked whether events and jobs have their partitions, and none too many, and
#: whose days are over.
_PARTITIONS_SECONDS = 60.0

#: A store that refused to list or to delete is asked again after so long.
_COLLECT_AGAIN_SECONDS = 60.0


def ledger_duties(
    engine: Engine,
    bell: Bell,
    *,
    every_seconds: float,
    seal_after: timedelta = timedelta(hours=24),
    largest_pool: int | None = None,
) -> list[Duty]:
    """What keeps the rows moving.

    Args:
        engine: Of the database.
        bell: Rung for jobs whose ticket was lost.
        every_seconds: How often they are done.
        seal_after: For how long a submission may stay open without another job.
        largest_pool: The largest padded source that a declared pool takes, in pixels; None where no
            pool is declared: then what fits no live run is reported, and never failed.
    """
    next_report = time.monotonic()

    def ring_lost_tickets(connection: Connection) -> int:
        idle = runs.count_idle(connection)
        if not idle:
            return 0
        waiting = reads.count_claimable(connection, older_than=_TICKET_LOST, most=idle)
        bell.ring(waiting)
        return waiting

    def fail_oversized(connection: Connection) -> int:
        nonlocal next_report
        if largest_pool is not None:
            return capacity.fail_oversized(connection, largest=largest_pool)
        if time.monotonic() >= next_report:
            next_report = time.monotonic() + _UNFIT_SECONDS
            if unfit := capacity.count_unfit(connection, most=_UNFIT_COUNTED):
                log.warning("jobs_fit_no_live_worker", jobs=unfit)
        return 0

    def rescue() -> int:
        with engine.begin() as connection:
            rescued = sweeps.rescue(connection, every_seconds=every_seconds)
            sweeps.note_kept(connection)
            return rescued

    return [
        Duty.of_rows(engine, "promote", sweeps.promote),
        Duty.of_rows(engine, "expire", sweeps.expire),
        Duty.of_rows(engine, "fail_oversized", fail_oversized),
        Duty("rescue", rescue),
        Duty.of_rows(engine, "ring", ring_lost_tickets),
        Duty.of_rows(
            engine,
            "seal",
            lambda connection: submissions.seal_abandoned(connection, age=seal_after),
        ),
    ]


def fold_duties(engine: Engine) -> list[Duty]:
    """What adds up the journals that every claim reads to the end."""
    return [
        Duty.of_rows(engine, "fold", tallies.fold, always=True),
        Duty.of_rows(engine, "fold_shares", shares.fold, always=True),
    ]


def count_duties(engine: Engine, settings: KeeperSettings) -> list[Duty]:
    """What keeps events, jobs and keys in bounds: apart, because an old week is counted first.

    Args:
        engine: Of the database.
        settings: Of the keeper.
    """
    jobs_age = timedelta(days=settings.jobs_days)

    def weeks_to_come(connection: Connection) -> int:
        # And those of jobs that ended before this was looked after.
        since = history.oldest(connection, kept=jobs_age)
        return retention.make_partitions(connection, retention.HISTORY, since=since)

    def days_to_come(connection: Connection) -> int:
        return retention.make_partitions(connection, retention.EVENTS)

    def weeks_of_pairs(connection: Connection) -> int:
        return retention.make_partitions(connection, retention.PAIRS)

    def move(connection: Connection) -> int:
        return history.move(connection, age=timedelta(hours=settings.history_after_hours))

    next_look = time.monotonic()

    def forget_by_tenant(connection: Connection) -> int:
        nonlocal next_look
        if time.monotonic() < next_look:
            return 0
        forgotten = tenant_days.forget(connection, everybodys=settings.jobs_days)
        if forgotten < tenant_days.FORGET_ROWS:
            next_look = time.monotonic() + _PARTITIONS_SECONDS
        return forgotten

    def forget_rollups(connection: Connection) -> int:
        return rollups.forget(connection, older_than=timedelta(days=settings.rollup_days))

    return [
        Duty.of_rows(engine, "roll_up", rollups.roll_up),
        Duty.of_rows(
            engine,
            "keep_events",
            _keeping(retention.EVENTS, days_to_come, timedelta(days=settings.events_days)),
        ),
        # First, so that what is moved finds its partition.
        Duty.of_rows(engine, "keep_history", _keeping(retention.HISTORY, weeks_to_come, jobs_age)),
        Duty.of_rows(engine, "keep_pairs", _keeping(retention.PAIRS, weeks_of_pairs, jobs_age)),
        Duty.of_rows(engine, "move", move),
        Duty.of_rows(engine, "forget_by_tenant", forget_by_tenant),
        Duty.of_rows(engine, "forget_rollups", forget_rollups),
        Duty.of_rows(engine, "forget_keys", keys.forget),
    ]


def _keeping(
    kept: retention.Kept, make: Callable[[Connection], int], age: timedelta
) -> Callable[[Connection], int]:
    """Makes partitions of a table and drops old ones, once a minute."""
    next_look = time.monotonic()

    def keep(connection: Connection) -> int:
        nonlocal next_look
        if time.monotonic() < next_look:
            return 0
        next_look = time.monotonic() + _PARTITIONS_SECONDS
        if not retention.may_change(connection, kept):
            mend = "Let the keeper's role own the tables."
            log.warning("kept_for_ever", table=kept.table, mend=mend)
            return 0
        return make(connection) + retention.drop_partitions(connection, kept, older_than=age)

    return keep


def storage_duties(
    engine: Engine, storage: Storage, results: ArtifactUri, settings: KeeperSettings
) -> list[Duty]:
    """What keeps storage as the rows say.

    Args:
        engine: Of the database.
        storage: Of the results.
        results: Below which garbage is looked for.
        settings: Of the keeper.
    """
    publisher = Publisher(engine, storage)
    collector = Collector(
        engine,
        storage,
        results,
        grace=timedelta(hours=settings.collect_after_hours),
        dry_run=settings.collect_dry_run,
    )
    next_round = time.monotonic()

    def collect() -> int:
        nonlocal next_round
        if not settings.collect_after_hours or time.monotonic() < next_round:
            return 0
        try:
            look = collector.look()
        except JobError:
            # Who may not list or delete now may not a second later either.
            next_round = time.monotonic() + _COLLECT_AGAIN_SECONDS
            raise
        if look.ended:
            next_round = time.monotonic() + settings.collect_every_seconds
        return 0 if settings.collect_dry_run else len(look.garbage)

    return [Duty("publish", publisher.publish), Duty("collect", collect)]


def reporting_duties(engine: Engine, storage: Storage, results: ArtifactUri) -> list[Duty]:
    """What ends submissions: apart, because a manifest of a million jobs takes its time.

    Args:
        engine: Of the database.
        storage: Of the results.
        results: Below which manifests are written.
    """
    return [Duty("report", Reporter(engine, storage, results).report)]


def operation_duties(engine: Engine, bell: Bell) -> list[Duty]:
    """What was asked for by filter: apart, because a hundred thousand jobs take their time.

    Args:
        engine: Of the database.
        bell: Rung for jobs that were retried.
    """
    return [Duty("operate", lambda: carry_out(engine, bell))]


def webhook_duties(engine: Engine, outbox: Outbox, settings: WebhookSettings) -> list[Duty]:
    """What tells endpoints what happened: apart, because receivers may take their time.

    Args:
        engine: Of the database.
        outbox: Sends.
        settings: Of webhooks.
    """

    def forget(connection: Connection) -> int:
        return deliveries.forget(connection, older_than=timedelta(days=settings.webhook_days))

    return [Duty("deliver", outbox.deliver), Duty.of_rows(engine, "forget_deliveries", forget)]
