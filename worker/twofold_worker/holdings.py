"""The jobs in this process's hands."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from uuid import UUID

from twofold_schema.job import Claim


class Holdings:
    """Which claims this run works on, and what the heartbeat has heard about them.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[UUID, float] = {}
        self._changed = threading.Condition()
        self._held: dict[UUID, Claim] = {}
        self._called_off: set[Claim] = set()
        self._missing: set[Claim] = set()
        self._strangers: set[Claim] = set()

    def __len__(self) -> int:
        with self._changed:
            return len(self._held)

    def take(self, claims: Iterable[Claim]) -> None:
        """Claims are in hand from now on."""
        with self._changed:
            taken = {claim.job_id: claim for claim in claims}
            self._held.update(taken)
            self._since.update(dict.fromkeys(taken, self._clock()))
            self._changed.notify_all()

    def drop(self, claims: Iterable[Claim]) -> None:
        """Claims have ended, one way or another."""
        with self._changed:
            for claim in claims:
                if self._held.get(claim.job_id) == claim:
                    self._let_go(claim)
            self._changed.notify_all()

    def goes_on(self, claim: Claim) -> bool:
        """Whether it is still in hand, and nobody wants the job cancelled."""
        with self._changed:
            return self._held.get(claim.job_id) == claim and claim not in self._called_off

    def seconds(self, claim: Claim) -> float:
        """How long it has been in hand; 0 for what is not."""
        with self._changed:
            if self._held.get(claim.job_id) != claim:
                return 0.0
            return self._clock() - self._since[claim.job_id]

    def wait_empty(self, timeout: float) -> bool:
        """Wait until nothing is in hand; False when that was not so within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._held, timeout=timeout)

    def reconcile(self, believed: Mapping[Claim, bool]) -> list[Claim]:
        """Compare what is in hand with what the ledger believes.

        One beat proves nothing: a claim or an outcome may be on its way. Two do.

        Args:
            believed: The claims that are `running` under this run, and whether each was called off.

        Returns:
            Claims that the ledger has shown for two beats and that are not in hand: the reply to
            their claim was lost, and they must be released.
        """
        with self._changed:
            held = set(self._held.values())
            self._called_off = {claim for claim, flagged in believed.items() if flagged}
            missing = held - believed.keys()
            for claim in missing & self._missing:
                self._let_go(claim)
            self._missing = missing
            strangers = believed.keys() - held
            lost_replies = sorted(strangers & self._strangers, key=lambda claim: claim.job_id)
            self._strangers = strangers
            self._changed.notify_all()
            return lost_replies

    def _let_go(self, claim: Claim) -> None:
        del self._held[claim.job_id]
        del self._since[claim.job_id]
