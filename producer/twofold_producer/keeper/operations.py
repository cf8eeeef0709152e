"""Cancels and retries by filter: batch by batch, each in a transaction of its own."""

import time

import structlog
from sqlalchemy import Engine

from twofold_producer.broker import Bell
from twofold_schema.ledger import batches, runs

log = structlog.get_logger(__name__)

#: After so long of it everybody else has the database to himself for a moment.
_TURN_SECONDS = 1.0


def carry_out(engine: Engine, bell: Bell) -> int:
    """Do batches of operations for about a second; returns how many jobs they concerned.

    Args:
        engine: Of the database.
        bell: Rung for jobs that were retried.
    """
    concerned, until = 0, time.monotonic() + _TURN_SECONDS
    while time.monotonic() < until:
        with engine.begin() as connection:
            batch = batches.advance(connection)
            idle = runs.count_idle(connection) if batch and batch.queued else 0
        if batch is None:
            break
        bell.ring(min(batch.queued, idle))
        concerned += sum(batch.counts.values())
        if batch.finished:
            log.info("operation_finished", operation_id=str(batch.operation))
    return concerned
