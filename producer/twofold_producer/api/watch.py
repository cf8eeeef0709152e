"""Ends streams of events whose key is no longer in force: a request is let in once, and may last.

One look at a key serves all of its streams, and none of them waits for it.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio
import anyio.to_thread
import structlog
from sqlalchemy.exc import DBAPIError

from twofold_producer.api.caller import REMEMBER_SECONDS, Gate
from twofold_producer.api.follower import Listener
from twofold_schema.errors import InvalidApiKey

log = structlog.get_logger(__name__)

_EVERY_SECONDS: Final = 0.5
#: What is older is asked for anew: by the next look, which may come late, it would be too old.
_OLDEST_SECONDS: Final = REMEMBER_SECONDS - 2 * _EVERY_SECONDS


class Watch:
    """Looks at keys while somebody listens with them. Only its event loop may use it.

    Args:
        gate: Who knows the keys.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._listening: defaultdict[str, set[Listener]] = defaultdict(set)
        # Of its own, so that it is never behind whoever keeps all others.
        self._threads = anyio.CapacityLimiter(1)

    async def run(self) -> None:
        """Watch, for ever."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            try:
                for secret in list(self._listening):
                    await self._look(secret)
            except DBAPIError as error:
                # That nobody can be asked ends no stream.
                log.warning("database_away", error=str(error.orig))
            except Exception:
                log.exception("watch_failed")

    @contextmanager
    def watching(self, secret: str, listener: Listener) -> Iterator[None]:
        """Meanwhile the listener's end comes with its key's."""
        self._listening[secret].add(listener)
        try:
            yield
        finally:
            self._listening[secret].discard(listener)
            if not self._listening[secret]:
                del self._listening[secret]

    async def _look(self, secret: str) -> None:
        if self._gate.has_asked(secret, within=_OLDEST_SECONDS):
            return
        try:
            await anyio.to_thread.run_sync(self._gate.ask, secret, limiter=self._threads)
        except InvalidApiKey:
            for listener in self._listening.pop(secret, ()):
                listener.end()
