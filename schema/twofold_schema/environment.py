"""From the environment to settings: read, checked, and explained where it is wrong.

A setting `name` is read from the variable `TWOFOLD_NAME`, or from the file that `TWOFOLD_NAME_FILE`
names (for secrets). A name that no part knows is refused, so that a typo cannot pass for a
default. The environment is read nowhere else.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from twofold_schema.errors import ConfigError

PREFIX = "TWOFOLD_"
FILE = "_FILE"
#: What is wrong with a name that no part knows.
UNKNOWN = "is not a setting of Twofold; correct its name or unset it."


class Settings(BaseModel):
    """What all parts' settings share: built from the environment, frozen, nothing unknown."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        hide_input_in_errors=True,  # it may be a secret
    )

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Build the settings from the environment.

        Raises:
            ConfigError: A value is wrong or missing, or a `TWOFOLD_` name is unknown; the message
                names the variable.
        """
        environment = process_environment() if environment is None else environment
        for variable in unknown(environment):
            raise ConfigError(f"{variable} {UNKNOWN}")
        given = {
            name: text
            for name in cls.model_fields
            if (text := read(environment, PREFIX + name.upper())) is not None
        }
        try:
            return cls.model_validate(given)
        except ValidationError as invalid:
            raise ConfigError(
                " ".join(f"{variable} {fault}" for variable, fault in explain(invalid).items())
            ) from None


def process_environment() -> Mapping[str, str]:
    """The environment of this process."""
    return os.environ


def read(environment: Mapping[str, str], variable: str) -> str | None:
    """The text of a variable, or of the file that it names; None for neither.

    Raises:
        ConfigError: Both are set, or the file cannot be read.
    """
    direct, path = environment.get(variable), environment.get(variable + FILE)
    if direct is not None and path is not None:
        raise ConfigError(f"{variable} and {variable}{FILE} are both set; unset one of them.")
    if path is None:
        return direct or None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as unreadable:
        raise ConfigError(
            f"{variable}{FILE} names a file that cannot be read: {unreadable}"
        ) from None
    except UnicodeDecodeError:
        # Without the cause, which quotes the secret.
        raise ConfigError(f"{variable}{FILE} names a file that is not UTF-8 text.") from None


def unknown(environment: Mapping[str, str]) -> list[str]:
    """The `TWOFOLD_` variables that no part knows."""
    parts = Settings.__subclasses__()
    known = {PREFIX + name.upper() for part in parts for name in part.model_fields}
    known |= {name + FILE for name in known}
    return [name for name in environment if name.startswith(PREFIX) and name not in known]


def explain(invalid: ValidationError) -> dict[str, str]:
    """What is wrong with which variable."""
    faults: dict[str, str] = {}
    for fault in invalid.errors(include_input=False, include_url=False):
        variable = PREFIX + str(fault["loc"][0]).upper() if fault["loc"] else PREFIX
        reason = fault["msg"].removeprefix("Value error, ").rstrip(".")
        missing = fault["type"] == "missing"
        faults.setdefault(variable, "is not set." if missing else f"is wrong: {reason}.")
    return faults


def describe(part: type[Settings]) -> list[tuple[str, Any]]:
    """The variables of a part and their defaults, for documents."""
    return [
        (PREFIX + name.upper(), field.get_default(call_default_factory=True))
        for name, field in part.model_fields.items()
    ]
