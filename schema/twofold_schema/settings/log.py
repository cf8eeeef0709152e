"""The log."""

from typing import Literal

from twofold_schema.environment import Settings


class LogSettings(Settings):
    """What a process writes to standard error.

    Attributes:
        log_level: The least level written; unless it is set, commands that serve nothing write no
            less than `warning`.
        log_format: `json` for machines, `text` for people, `auto` for text on a terminal.
    """

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"
