"""The keeper: does what no single job does, for ever.

Any number may run: each duty takes an advisory lock for its transaction, so that one does it.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from twofold_producer.broker import Bell
from twofold_schema.database import is_transient
from twofold_schema.ledger import reads, runs, sweeps

log = structlog.get_logger(__name__)

#: A job that waited this long beside an idle run has lost its ticket.
_TICKET_LOST = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Duty:
    """One thing the keeper does.

    Attributes:
        name: As it is logged.
        do: Does it on a connection in a transaction of its own; returns how many rows it concerned.
    """

    name: str
    do: Callable[[Connection], int]


class Keeper:
    """Does every duty in turn until told to stop.

    Args:
        engine: Of the database.
        bell: Rung for jobs whose ticket was lost.
        every_seconds: How often each duty is done.
    """

    def __init__(self, engine: Engine, bell: Bell, *, every_seconds: float) -> None:
        self._engine = engine
        self._bell = bell
        self._every_seconds = every_seconds
        self._stop = threading.Event()

    @property
    def duties(self) -> Sequence[Duty]:
        """Everything the keeper does, in order."""
        return (
            Duty("promote", _locked("promote", sweeps.promote)),
            Duty("expire", _locked("expire", sweeps.expire)),
            Duty(
                "rescue",
                lambda connection: sweeps.rescue(connection, every_seconds=self._every_seconds),
            ),
            Duty("ring", _locked("ring", self._ring_lost_tickets)),
        )

    def run(self) -> None:
        """Keep; returns after `stop`. An outage of the database is waited out."""
        while not self._stop.is_set():
            self.once()
            self._stop.wait(self._every_seconds)

    def once(self) -> None:
        """Do every duty once."""
        for duty in self.duties:
            try:
                with self._engine.begin() as connection:
                    count = duty.do(connection)
            except DBAPIError as error:
                if not is_transient(error):
                    raise
                log.warning("database_away", duty=duty.name, error=str(error.orig))
                continue
            if count:
                log.info("kept", duty=duty.name, count=count)

    def stop(self) -> None:
        """Make `run` return soon."""
        self._stop.set()

    def _ring_lost_tickets(self, connection: Connection) -> int:
        idle = runs.count_idle(connection)
        if not idle:
            return 0
        waiting = reads.count_claimable(connection, older_than=_TICKET_LOST, most=idle)
        self._bell.ring(waiting)
        return waiting


def _locked(name: str, do: Callable[[Connection], int]) -> Callable[[Connection], int]:
    return lambda connection: do(connection) if sweeps.try_duty(connection, name) else 0
