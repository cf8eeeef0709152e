"""The keeper: does what no single job does, for ever.

Any number may run. What writes job rows takes an advisory lock for its transaction, so that one
does it; what touches storage is safe to do twice, and has a loop of its own, so that a slow store
holds up no rescue.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from twofold_producer.broker import Bell
from twofold_producer.keeper.garbage import Collector
from twofold_producer.keeper.operations import carry_out
from twofold_producer.keeper.publisher import Publisher
from twofold_producer.keeper.reporter import Reporter
from twofold_producer.keeper.webhooks import Outbox
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.database import is_transient
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

#: Rows of one round after which the next may be wanted soon.
_MANY = 100


@dataclass(frozen=True, slots=True)
class Duty:
    """One thing the keeper does.

    Attributes:
        name: As it is logged.
        do: Does it; returns how many rows or objects it concerned.
        always: There is something to do whenever jobs move, and nobody wants to read of it.
    """

    name: str
    do: Callable[[], int]
    always: bool = False


class Keeper:
    """Does every duty in turn.

    Args:
        duties: In order.
        every_seconds: How often each is done.
        hurries: Five times as often while it concerns many rows.
    """

    def __init__(
        self, duties: Sequence[Duty], *, every_seconds: float, hurries: bool = False
    ) -> None:
        self._duties = duties
        self._every_seconds = every_seconds
        self._hurries = hurries

    def run(self, stop: threading.Event) -> None:
        """Keep until `stop` is set. An outage of the database or of storage is waited out."""
        while not stop.is_set():
            hurry = self.once() >= _MANY and self._hurries
            stop.wait(self._every_seconds / 5 if hurry else self._every_seconds)

    def once(self) -> int:
        """Do every duty once; returns how many rows or objects they concerned together."""
        concerned = 0
        for duty in self._duties:
            try:
                count = duty.do()
            except DBAPIError as error:
                if not is_transient(error):
                    raise
                log.warning("database_away", duty=duty.name, error=str(error.orig))
                continue
            except JobError as error:
                log.warning("storage_away", duty=duty.name, code=error.code, error=error.message)
                continue
            concerned += count
            if count:
                tell = log.debug if duty.always else log.info
                tell("kept", duty=duty.name, count=count)
        return concerned


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
        _duty(engine, "promote", sweeps.promote),
        _duty(engine, "expire", sweeps.expire),
        _duty(engine, "fail_oversized", fail_oversized),
        Duty("rescue", rescue),
        _duty(engine, "ring", ring_lost_tickets),
        _duty(
            engine,
            "seal",
            lambda connection: submissions.seal_abandoned(connection, age=seal_after),
        ),
    ]


def fold_duties(engine: Engine) -> list[Duty]:
    """What adds up the journals that every claim reads to the end."""
    return [
        _duty(engine, "fold", tallies.fold, always=True),
        _duty(engine, "fold_shares", shares.fold, always=True),
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
        _duty(engine, "roll_up", rollups.roll_up),
        _duty(
            engine,
            "keep_events",
            _keeping(retention.EVENTS, days_to_come, timedelta(days=settings.events_days)),
        ),
        # First, so that what is moved finds its partition.
        _duty(engine, "keep_history", _keeping(retention.HISTORY, weeks_to_come, jobs_age)),
        _duty(engine, "keep_pairs", _keeping(retention.PAIRS, weeks_of_pairs, jobs_age)),
        _duty(engine, "move", move),
        _duty(engine, "forget_by_tenant", forget_by_tenant),
        _duty(engine, "forget_rollups", forget_rollups),
        _duty(engine, "forget_keys", keys.forget),
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

    return [Duty("deliver", outbox.deliver), _duty(engine, "forget_deliveries", forget)]


def _duty(
    engine: Engine, name: str, do: Callable[[Connection], int], *, always: bool = False
) -> Duty:
    """A duty in a transaction of its own, left out while another keeper is at it."""

    def in_a_transaction() -> int:
        with engine.begin() as connection:
            return do(connection) if sweeps.try_duty(connection, name) else 0

    return Duty(name, in_a_transaction, always)
