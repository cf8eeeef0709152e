"""Whose turn it is to submit many jobs at once: it has a thread for as long as that takes."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, TypeVar
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread

from twofold_schema.errors import ApiBusy

#: Of all tenants; and of one, so that none can keep all others from theirs.
_TURNS: Final = 4
_TURNS_OF_A_TENANT: Final = 2
#: So long a turn is waited for: less than a client takes to give up, whose body nobody reads yet.
_PATIENCE_SECONDS: Final = 20.0

Value = TypeVar("Value")


class Bulks:
    """Gives turns to those who submit many jobs at once; lives in one event loop."""

    def __init__(self) -> None:
        self._turns = anyio.Semaphore(_TURNS)
        # One for each turn, so that none is waited for.
        self._threads = anyio.CapacityLimiter(_TURNS)
        # Kept for as long as somebody of the tenant has a turn, or waits for one.
        self._turns_of = WeakValueDictionary[str, anyio.Semaphore]()

    async def run(self, tenant: str, work: Callable[[], Value]) -> Value:
        """Do some work in a thread, once it is the tenant's turn.

        Raises:
            ApiBusy: It was not for too long; nothing was done.
        """
        async with self._turn(tenant):
            return await anyio.to_thread.run_sync(work, limiter=self._threads)

    @asynccontextmanager
    async def _turn(self, tenant: str) -> AsyncIterator[None]:
        own = self._turns_of.get(tenant)
        if own is None:
            own = self._turns_of[tenant] = anyio.Semaphore(_TURNS_OF_A_TENANT)
        async with AsyncExitStack() as held:
            try:
                with anyio.fail_after(_PATIENCE_SECONDS):
                    # First its own: whoever waits for that keeps nobody else from a turn.
                    await held.enter_async_context(own)
                    await held.enter_async_context(self._turns)
            except TimeoutError:
                raise ApiBusy from None
            yield
