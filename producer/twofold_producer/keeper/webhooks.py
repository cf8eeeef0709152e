"""The outbox is emptied: messages are leased, sent by threads, and what came of them recorded.

Only one thread uses the database, in short transactions; nothing is sent inside one. A keeper that
is killed after it has sent a message and before it has recorded that leaves a lease: the message is
sent once more when that ends, under the same id.
"""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from twofold_schema.database import is_transient
from twofold_schema.ledger import sending
from twofold_schema.ledger.sending import Leased, Outcome

log = structlog.get_logger(__name__)

#: After so long the keeper looks whether it shall stop, and at its other duties.
_TURN_SECONDS = 5.0


class Outbox:
    """Sends what is due, several messages at a time.

    Args:
        engine: Of the database.
        send: Tries once, and says what came of it; called by several threads.
        threads: How many. An endpoint has a quarter of them at most; those that fail have half of
            them together.
        turn_seconds: How long one turn lasts while there is something to send.
    """

    def __init__(
        self,
        engine: Engine,
        send: Callable[[Leased], Outcome],
        *,
        threads: int,
        turn_seconds: float = _TURN_SECONDS,
    ) -> None:
        self._engine = engine
        self._send = send
        self._most = threads
        self._turn_seconds = turn_seconds
        self._threads = ThreadPoolExecutor(threads, "webhooks")
        self._under_way: dict[Future[Outcome], Leased] = {}
        self._unrecorded: list[tuple[Leased, Outcome]] = []

    def deliver(self) -> int:
        """Send what is due, for a turn at most; returns how many tries have come to an end."""
        ended, until = 0, time.monotonic() + self._turn_seconds
        while True:
            ended += self._record()
            self._begin()
            rest = until - time.monotonic()
            if not self._under_way or rest <= 0:
                return ended
            wait(self._under_way, timeout=rest, return_when=FIRST_COMPLETED)

    def close(self) -> None:
        """Wait for the tries that are under way, and record what came of them if that is possible.

        What is not recorded is sent once more.
        """
        self._threads.shutdown(wait=True, cancel_futures=True)
        try:
            self._record()
        except DBAPIError as error:
            if not is_transient(error):
                raise
            log.warning("tries_not_recorded", count=len(self._unrecorded))

    def _begin(self) -> None:
        free = self._most - len(self._under_way)
        if not free:
            return
        failing = sum(one.failing for one in self._under_way.values())
        with self._engine.begin() as connection:
            leased = sending.lease(
                connection,
                rows=free,
                failing_rows=max(0, self._most // 2 - failing),
                each=max(1, self._most // 4),
                busy=Counter(one.webhook_id for one in self._under_way.values()),
            )
        for one in leased:
            self._under_way[self._threads.submit(self._send, one)] = one

    def _record(self) -> int:
        for future in [one for one in self._under_way if one.done()]:
            message = self._under_way.pop(future)
            if not future.cancelled():
                self._unrecorded.append((message, future.result()))
        if not self._unrecorded:
            return 0
        with self._engine.begin() as connection:
            disabled = sending.record(connection, self._unrecorded)
        for webhook_id, reason in disabled.items():
            log.warning("webhook_disabled", webhook_id=str(webhook_id), reason=reason)
        ended, self._unrecorded = len(self._unrecorded), []
        return ended
