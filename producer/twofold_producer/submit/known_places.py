"""What tenants' jobs may name, asked of the database once in a while rather than for each job."""

import time
from collections.abc import Callable

from twofold_schema.tenant_places import PlacesOf, TenantPlaces

#: How long an answer is believed, in seconds. Whoever fetches and stores looks again.
KNOWN_SECONDS = 5.0
_MOST_TENANTS = 10_000


class KnownPlaces:
    """Remembers answers for a few seconds. Threads may share one.

    Args:
        ask: Tells what a tenant's jobs may name now.
        clock: In seconds.
    """

    def __init__(self, ask: PlacesOf, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._known: dict[str, tuple[float, TenantPlaces]] = {}

    def of(self, tenant: str) -> TenantPlaces:
        """What a tenant's jobs may name, or might a few seconds ago; raises as `ask`."""
        until, places = self._known.get(tenant, (0.0, None))
        now = self._clock()
        if places is None or now >= until:
            places = self._ask(tenant)
            if len(self._known) >= _MOST_TENANTS:
                self._known.clear()
            self._known[tenant] = (now + KNOWN_SECONDS, places)
        return places
