"""One thing after the other, for ever, through outages."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from twofold_schema.database import is_transient
from twofold_schema.errors import JobError
from twofold_schema.ledger import sweeps

log = structlog.get_logger(__name__)

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

    @classmethod
    def of_rows(
        cls, engine: Engine, name: str, do: Callable[[Connection], int], *, always: bool = False
    ) -> Self:
        """One in a transaction of its own, left out while another keeper is at it."""

        def in_a_transaction() -> int:
            with engine.begin() as connection:
                return do(connection) if sweeps.try_duty(connection, name) else 0

        return cls(name, in_a_transaction, always)


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
