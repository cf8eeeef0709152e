"""What is tried again, and when."""

import random
from dataclasses import dataclass
from typing import Final

from twofold_producer.client.answers import Answer

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 8.0
#: A service that asks for more is asked no more.
_LONGEST_PATIENCE: Final = 60.0
_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(slots=True)
class Tries:
    """The tries of one request. All of them have the same Idempotency-Key.

    Attributes:
        left: How many more there may be.
    """

    left: int
    _pause: float = _FIRST_PAUSE

    def pause_after(self, answer: Answer | None, *, repeatable: bool) -> float | None:
        """For how many seconds to wait before the next try; None for no other.

        Args:
            answer: Of the last one; None where there was none, as the connection was lost.
            repeatable: Whether to ask twice comes to the same as once. If not, only what was
                refused before anything was done is asked again.
        """
        may = _may_pass(answer) if repeatable else answer is not None and answer.status == 429
        if self.left <= 0 or not may:
            return None
        self.left -= 1
        stated = answer.retry_after if answer else None
        if stated is not None:
            return stated if stated <= _LONGEST_PATIENCE else None
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        # So that those who were refused together do not come back together.
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _may_pass(answer: Answer | None) -> bool:
    if answer is None or answer.status in _AGAIN:
        return True
    return answer.status == 409 and bool(answer.error().retryable)
