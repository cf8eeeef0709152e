"""A finding: what `twofold doctor` saw of one thing, and how to mend it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self


class Status(StrEnum):
    """How a thing is."""

    #: As it should be.
    OK = "ok"
    #: Twofold works, though not as well as it could, or not for long.
    WARNING = "warning"
    #: Twofold, or a part of it, does not work.
    FAILED = "failed"
    #: It was not looked at; the finding says why.
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        check: The check's name.
        status: How it is.
        what: What was seen, a sentence for people.
        mend: What to do: which variable, command or permission. Empty where all is well.
        seconds: How long it took to see.
    """

    check: str
    status: Status
    what: str
    mend: str = ""
    seconds: float = 0.0

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """What `to_json` gave.

        Raises:
            ValueError, TypeError: It is something else.
        """
        return cls(**{**plain, "status": Status(plain.get("status", ""))})

    def to_json(self) -> dict[str, Any]:
        """As plain values, in the order of the attributes."""
        return {**asdict(self), "status": str(self.status), "seconds": round(self.seconds, 3)}


def ok(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check=check, status=Status.OK, what=what)


def warning(check: str, what: str, mend: str) -> Finding:
    """Twofold works, though not as well as it could."""
    return Finding(check=check, status=Status.WARNING, what=what, mend=mend)


def failed(check: str, what: str, mend: str) -> Finding:
    """Twofold, or a part of it, does not work."""
    return Finding(check=check, status=Status.FAILED, what=what, mend=mend)


def skipped(check: str, what: str, mend: str) -> Finding:
    """It was not looked at; `mend` says how it could be."""
    return Finding(check=check, status=Status.SKIPPED, what=what, mend=mend)
