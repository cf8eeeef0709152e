"""The check of the settings, and what every other check needs of them."""

from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

from twofold_producer.doctor.examination import Blocked
from twofold_schema import findings
from twofold_schema.effective import Effective, Origin
from twofold_schema.environment import Settings
from twofold_schema.errors import ConfigError
from twofold_schema.findings import Finding

NAME = "settings"

Part = TypeVar("Part", bound=Settings)

_MEND = "`twofold config show` lists every setting, docs/04-settings.md says what each may be."


def check(settings: Effective) -> Iterator[Finding]:
    """Everything that is wrong with the settings, not just the first."""
    for fault in settings.faults:
        yield findings.failed(NAME, fault, _MEND)
    if not settings.faults:
        by = Counter(one.origin for one in settings.settings)
        yield findings.ok(
            NAME,
            f"{by.total()} settings: {by[Origin.ENVIRONMENT]} from the environment, "
            f"{by[Origin.FILE]} from files, {by[Origin.DEFAULT]} by default.",
        )


def needed(settings: Effective, kind: type[Part]) -> Part:
    """The settings of a part, for the check of what they lead to.

    Raises:
        Blocked: Something of this part is wrong.
    """
    try:
        return settings.part(kind)
    except ConfigError as error:
        raise Blocked(NAME, error.message, _MEND) from None
