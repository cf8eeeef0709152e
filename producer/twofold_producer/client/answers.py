"""What an answer of the service means."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from twofold_schema.errors import ApiFailed, TwofoldError, every_error

#: How the service says where a result is; its body says so, too.
_RESULT = 303


def says_done(status: int) -> bool:
    """Whether an answer of this status says that what was asked was done.

    No other redirect does: what is there is neither the service nor the object that was asked for.
    """
    return 200 <= status < 300 or status == _RESULT


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the service.

    Attributes:
        status: Of HTTP.
        headers: Names in lower case.
        body: As it came.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_good(self) -> bool:
        """Whether what was asked was done."""
        return says_done(self.status)

    @property
    def retry_after(self) -> float | None:
        """After how many seconds to ask again, as it says; None where it does not."""
        stated = self.headers.get("retry-after", "")
        return float(stated) if stated.isdecimal() else None

    def error(self) -> TwofoldError:
        """What went wrong, as the error that the ledger raises for it.

        Its `members` have the status, the request's id and what else the problem says. What is no
        problem of the service's, as a proxy's page, is `api_failed`.
        """
        problem = self._problem()
        kind = _by_code().get(str(problem.get("code")), ApiFailed)
        said = problem.get("detail")
        if not said and "location" in self.headers:
            said = (
                f"The answer was {self.status}, go to {self.headers['location']}. Name that "
                "address itself, in TWOFOLD_URL or, of storage, in the service's settings of S3."
            )
        elif not said:
            said = f"The answer was {self.status} without a word of the service's."
        error = kind(str(said))
        error.members = {"status": self.status, **problem}
        return error

    def _problem(self) -> dict[str, Any]:
        try:
            problem = json.loads(self.body)
        except ValueError:
            return {}
        return problem if isinstance(problem, dict) else {}


@cache
def _by_code() -> Mapping[str, type[TwofoldError]]:
    return {kind.code: kind for kind in reversed(every_error())}
