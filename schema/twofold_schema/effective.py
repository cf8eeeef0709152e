"""The settings in effect: each with its value, its origin and what is wrong with it.

A process that starts stops at the first wrong part. Whoever asks what is wrong wants all of it.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self, TypeVar, get_args

from pydantic import SecretStr, ValidationError

from twofold_schema.environment import FILE, PREFIX, UNKNOWN, Settings, explain, read, unknown
from twofold_schema.errors import ConfigError
from twofold_schema.masking import MASK, masked_url, scrub
from twofold_schema.settings import PARTS

Part = TypeVar("Part", bound=Settings)


class Origin(StrEnum):
    """Where a value comes from."""

    DEFAULT = "default"
    ENVIRONMENT = "environment"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One variable.

    Attributes:
        variable: Its name.
        value: As it is in effect, secrets masked; None for none.
        origin: Where the value comes from.
        file: The path that `NAME_FILE` gives; None for none.
        fault: What is wrong with it, to be read behind its name; None for nothing.
    """

    variable: str
    value: str | int | float | None
    origin: Origin
    file: str | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Effective:
    """All settings.

    Attributes:
        settings: Every known one in the order of the parts, then the unknown names.
        parts: The parts of which nothing is wrong.
        secrets: What must be in no text for people.
    """

    settings: tuple[Setting, ...]
    parts: Mapping[type[Settings], Settings]
    secrets: Collection[str]

    @classmethod
    def of(cls, environment: Mapping[str, str], only: Sequence[type[Settings]] = PARTS) -> Self:
        """Read everything that there is, or some parts; raises nothing over what is wrong."""
        settings: list[Setting] = []
        parts: dict[type[Settings], Settings] = {}
        secrets: set[str] = set()
        for part in only:
            reading = _Reading.of(environment, part)
            if reading.built is not None:
                parts[part] = reading.built
            secrets |= reading.secrets
            settings += [_setting(environment, reading, name) for name in part.model_fields]
        settings += [_stranger(variable) for variable in unknown(environment)]
        return cls(tuple(settings), parts, secrets)

    @property
    def faults(self) -> list[str]:
        """A sentence for everything that is wrong."""
        return [f"{one.variable} {one.fault}" for one in self.settings if one.fault]

    def part(self, kind: type[Part]) -> Part:
        """The settings of one part; unknown names are no hindrance here.

        Raises:
            ConfigError: Something of this part is wrong.
        """
        built = self.parts.get(kind)
        if not isinstance(built, kind):
            own = {PREFIX + name.upper() for name in kind.model_fields}
            wrong = [one for one in self.settings if one.fault and one.variable in own]
            raise ConfigError(" ".join(f"{one.variable} {one.fault}" for one in wrong))
        return built


@dataclass(frozen=True, slots=True)
class _Reading:
    """A part as it was read: the texts given, what is wrong by variable, and what came of it."""

    part: type[Settings]
    given: Mapping[str, str]
    faults: Mapping[str, str]
    built: Settings | None

    @classmethod
    def of(cls, environment: Mapping[str, str], part: type[Settings]) -> Self:
        given: dict[str, str] = {}
        faults: dict[str, str] = {}
        for name in part.model_fields:
            try:
                text = read(environment, PREFIX + name.upper())
            except ConfigError as error:
                faults[PREFIX + name.upper()] = f"is wrong: {error.message}"
            else:
                if text is not None:
                    given[name] = text
        try:
            built = part.model_validate(given)
        except ValidationError as invalid:
            faults = {**explain(invalid), **faults}
        return cls(part, given, faults, None if faults else built)

    @property
    def secrets(self) -> set[str]:
        return {text for name, text in self.given.items() if _is_secret(self.part, name, text)}


def _setting(environment: Mapping[str, str], reading: _Reading, name: str) -> Setting:
    variable = PREFIX + name.upper()
    file = environment.get(variable + FILE)
    fault = reading.faults.get(variable)
    if environment.get(variable):
        origin = Origin.ENVIRONMENT
    else:
        origin = Origin.DEFAULT if file is None else Origin.FILE
    return Setting(
        variable=variable,
        value=_value(reading, name, wrong=fault is not None),
        origin=origin,
        file=file,
        # A message may quote the value.
        fault=fault and scrub(fault, reading.secrets),
    )


def _value(reading: _Reading, name: str, *, wrong: bool) -> str | int | float | None:
    text = reading.given.get(name)
    if text is not None and _is_secret(reading.part, name, text):
        # A wrong one may be anything, the bare password included.
        return MASK if wrong else masked_url(text)
    if reading.built is not None:
        value: str | int | float | None = reading.built.model_dump(mode="json")[name]
        return value
    field = reading.part.model_fields[name]
    return text if text is not None or field.is_required() else field.get_default()


def _is_secret(part: type[Settings], name: str, text: str) -> bool:
    """Whether it is one by its kind, or looks like a URL with a password, wherever it stands."""
    looks = "@" in text and not text.startswith(("s3://", "file://"))
    kind = part.model_fields[name].annotation
    return SecretStr in (kind, *get_args(kind)) or looks


def _stranger(variable: str) -> Setting:
    known = [PREFIX + name.upper() for part in PARTS for name in part.model_fields]
    near = difflib.get_close_matches(variable, known, n=1, cutoff=0.8)
    hint = f" Do you mean {near[0]}?" if near else ""
    # Its value is nobody's business: the name may be that of a secret, mistyped.
    return Setting(
        variable=variable, value=MASK, origin=Origin.ENVIRONMENT, fault=f"{UNKNOWN}{hint}"
    )
