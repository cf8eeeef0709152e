"""Who killed the worker: a pure rule over the jobs that a lost run left behind.

Jobs at work in the process when it died are suspects. Several suspects go back in two halves that
share no process with other work, and so on until the guilty one crashes alone; only that uses an
attempt. Jobs that the process never touched are not suspects and are charged nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Orphan:
    """A job that a lost run left `running`.

    Attributes:
        started: Whether it had been marked as at work.
        isolation: Its mark from an earlier crash, if any.
    """

    job_id: UUID
    started: bool
    isolation: UUID | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a job goes back.

    Attributes:
        suspect: Whether it was at work when the process died: counted in `crashes`.
        charged: Whether it was alone: an attempt is used.
        isolation: Its new mark: only jobs with the same one may share a process with it.
    """

    job_id: UUID
    suspect: bool
    charged: bool
    isolation: UUID | None


def judge(orphans: Sequence[Orphan], new_mark: Callable[[], UUID]) -> list[Verdict]:
    """Decide how the jobs of one lost run go back.

    Args:
        orphans: Everything that the run held.
        new_mark: Gives marks that were never used before.
    """
    suspects = [orphan for orphan in orphans if orphan.started]
    verdicts = [
        Verdict(orphan.job_id, suspect=False, charged=False, isolation=orphan.isolation)
        for orphan in orphans
        if not orphan.started
    ]
    alone = len(orphans) == 1
    middle = (len(suspects) + 1) // 2
    for half in (suspects[:middle], suspects[middle:]):
        mark = new_mark()
        verdicts += [
            Verdict(orphan.job_id, suspect=True, charged=alone, isolation=mark) for orphan in half
        ]
    return verdicts
