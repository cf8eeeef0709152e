"""How checks are run: side by side, each within its bound, heard in a fixed order."""

import queue
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from twofold_schema import findings
from twofold_schema.findings import Finding, Status
from twofold_schema.masking import scrub

#: What a check may take, in seconds, unless it says otherwise.
BOUND_SECONDS = 10.0

_UNFORESEEN = (
    "Report it with this line; `twofold doctor --only` with the other names goes on without it."
)


class Blocked(Exception):
    """A thing cannot be looked at, because of another one that has a check of its own.

    Attributes:
        by: The name of that check.
        what: What is wrong there, should nobody else have said so.
        mend: What to do about it.
    """

    def __init__(self, by: str, what: str, mend: str) -> None:
        super().__init__(what)
        self.by = by
        self.what = what
        self.mend = mend


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look at.

    Attributes:
        name: What its findings are filed under. Several checks may share a name.
        probe: Looks, and gives what it finds; may raise `Blocked`.
        bound_seconds: What it may take.
    """

    name: str
    probe: Callable[[], Iterable[Finding]]
    bound_seconds: float = BOUND_SECONDS


def examine(
    checks: Sequence[Check], *, asked: Collection[str] = (), secrets: Collection[str] = ()
) -> Iterator[Finding]:
    """Run checks; gives their findings as they come, in the order of the checks.

    Args:
        checks: All are begun at once.
        asked: Names of checks that somebody asked for one by one. What these skip is a failure.
        secrets: What no finding may quote.
    """
    failed: set[str] = set()
    for examination in [_Examination(check) for check in checks]:
        for heard in examination.listen():
            finding = _settle(heard, examination.name, failed, asked)
            if finding.status is Status.FAILED:
                failed.add(finding.check)
            yield replace(
                finding, what=scrub(finding.what, secrets), mend=scrub(finding.mend, secrets)
            )


_Heard: TypeAlias = Finding | Blocked


class _Examination:
    """One check under way, in a thread that nobody waits for when its bound is over."""

    def __init__(self, check: Check) -> None:
        self.name = check.name
        self._check = check
        self._heard: queue.SimpleQueue[_Heard | None] = queue.SimpleQueue()
        self._deadline = time.monotonic() + check.bound_seconds
        threading.Thread(target=self._look, name=f"check-{check.name}", daemon=True).start()

    def listen(self) -> Iterator[_Heard]:
        """What the check has to say, until it ends or its bound is over."""
        while True:
            try:
                heard = self._heard.get(timeout=max(0.0, self._deadline - time.monotonic()))
            except queue.Empty:
                yield self._silent()
                return
            if heard is None:
                return
            yield heard

    def _look(self) -> None:
        began = time.monotonic()
        try:
            for finding in self._check.probe():
                ended = time.monotonic()
                self._heard.put(replace(finding, seconds=finding.seconds or ended - began))
                began = ended
        except Blocked as blocked:
            self._heard.put(blocked)
        except Exception as error:  # noqa: BLE001 - the other checks go on
            self._heard.put(replace(self._unforeseen(error), seconds=time.monotonic() - began))
        self._heard.put(None)

    def _silent(self) -> Finding:
        bound = self._check.bound_seconds
        silent = findings.failed(
            self.name,
            f"There was no answer within {bound:.0f} s.",
            "Look at what lies between this host and the server: names, firewalls, proxies, load.",
        )
        return replace(silent, seconds=bound)

    def _unforeseen(self, error: Exception) -> Finding:
        # Without its message, which may quote what it was given.
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = "/".join(Path(last.filename).parts[-2:])
        return findings.failed(
            self.name, f"{type(error).__name__} in {place}, line {last.lineno}.", _UNFORESEEN
        )


def _settle(heard: _Heard, name: str, failed: Collection[str], asked: Collection[str]) -> Finding:
    if isinstance(heard, Blocked):
        if heard.by in failed:
            return findings.skipped(name, f"Not looked at: see {heard.by}.", f"Mend {heard.by}.")
        return findings.failed(name, heard.what, heard.mend)
    if heard.status is Status.SKIPPED and heard.check in asked:
        return replace(heard, status=Status.FAILED)
    return heard
