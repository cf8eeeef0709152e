"""The settings in effect: all of them, all that is wrong with them, none of their secrets."""

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold_schema.effective import Effective, Origin, Setting
from twofold_schema.environment import PREFIX
from twofold_schema.errors import ConfigError
from twofold_schema.settings import (
    PARTS,
    BrokerSettings,
    DatabaseSettings,
    LimitSettings,
    StorageSettings,
)

COMPLETE = {
    "TWOFOLD_DATABASE_URL": "postgresql://user:hunter2hunter2@host:5432/name",
    "TWOFOLD_BROKER_URL": "rediss://:hunter2hunter2@host:6379/0",
}
VARIABLES = sorted(PREFIX + name.upper() for part in PARTS for name in part.model_fields)


def of(**changes: str) -> dict[str, Setting]:
    effective = Effective.of(COMPLETE | {PREFIX + name: text for name, text in changes.items()})
    return {one.variable.removeprefix(PREFIX): one for one in effective.settings}


def test_every_setting_is_there_with_its_default() -> None:
    settings = of()

    assert sorted(PREFIX + name for name in settings) == VARIABLES
    assert settings["MAX_SIDE"].value == LimitSettings().max_side
    assert settings["MAX_SIDE"].origin is Origin.DEFAULT
    assert not any(one.fault for one in settings.values())


def test_a_value_says_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "side").write_text("64\n", encoding="utf-8")
    settings = of(MAX_SIDE_FILE=str(tmp_path / "side"), MAX_PIXELS="4096")

    assert (settings["MAX_SIDE"].value, settings["MAX_SIDE"].origin) == (64, Origin.FILE)
    assert settings["MAX_SIDE"].file == str(tmp_path / "side")
    assert (settings["MAX_PIXELS"].value, settings["MAX_PIXELS"].origin) == (
        4096,
        Origin.ENVIRONMENT,
    )


def test_a_secret_keeps_the_shape_that_it_was_given() -> None:
    assert of()["DATABASE_URL"].value == "postgresql://user:***@host:5432/name"
    assert of()["BROKER_URL"].value == "rediss://:***@host:6379/0"


@pytest.mark.parametrize("results", ["s3://results/here", "nowhere"])
def test_an_optional_secret_is_one_whatever_else_is_wrong(results: str) -> None:
    environment = {
        "TWOFOLD_FILE_URL": "http://127.0.0.1/files",
        "TWOFOLD_FILE_URL_SECRET": "hunter2hunter2hunter2",
        "TWOFOLD_RESULTS": results,
    }
    effective = Effective.of(COMPLETE | environment)

    values = {one.variable: one.value for one in effective.settings}
    assert values["TWOFOLD_FILE_URL_SECRET"] == "***"
    assert "hunter2hunter2hunter2" in effective.secrets
    assert of(FILE_URL_SECRET="short")["FILE_URL_SECRET"].value == "***"
    assert of()["FILE_URL_SECRET"].value is None


def test_every_fault_is_said_at_once() -> None:
    effective = Effective.of(
        {
            "TWOFOLD_BROKER_URL": "amqp://user:hunter2@host",
            "TWOFOLD_MAX_SIDE": "0",
            "TWOFOLD_KEY_DAYS": "never",
            "TWOFOLD_RESULTS": "here",
            "TWOFOLD_LOG_LEVEL": "info",
            "TWOFOLD_LOG_LEVEL_FILE": "/run/level",
            "TWOFOLD_UPLOADS_FILE": "/no/such/file",
            "TWOFOLD_MAX_SIDES": "1",
        }
    )

    said = "\n".join(effective.faults)
    for variable in (
        "TWOFOLD_DATABASE_URL is not set.",
        "TWOFOLD_BROKER_URL is wrong: write redis://",
        "TWOFOLD_MAX_SIDE is wrong",
        "TWOFOLD_KEY_DAYS is wrong",
        "TWOFOLD_RESULTS is wrong",
        "TWOFOLD_LOG_LEVEL_FILE are both set",
        "TWOFOLD_UPLOADS_FILE names a file that cannot be read",
        "Do you mean TWOFOLD_MAX_SIDE?",
    ):
        assert variable in said
    assert len(effective.faults) == 8
    assert "hunter2" not in repr(effective.settings)


def test_what_is_wrong_with_one_part_hides_no_other() -> None:
    effective = Effective.of(COMPLETE | {"TWOFOLD_RESULTS": "here", "TWOFOLD_TYPO": "1"})

    assert effective.part(DatabaseSettings).database_pool_size == 5
    assert effective.part(BrokerSettings).is_redis
    with pytest.raises(ConfigError, match="TWOFOLD_RESULTS is wrong"):
        effective.part(StorageSettings)


@given(
    secret=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=6),
    variable=st.sampled_from([*VARIABLES, "TWOFOLD_DATABASE_UR"]),
)
def test_no_secret_is_in_what_people_are_shown(secret: str, variable: str) -> None:
    """Wherever it was put: also a URL that landed in another variable, and a mistyped name."""
    shapes = (f"redis://:{quote(secret)}@host/0", f"postgresql://u:{secret}@host/d")
    for url in shapes:
        effective = Effective.of(COMPLETE | {variable: url})
        values = [str(one.value) for one in effective.settings]
        shown = "\n".join([*values, *effective.faults])

        if secret not in "\n".join(map(str, Effective.of(COMPLETE).settings)):
            assert url not in shown
            assert f":{secret}@" not in shown
            assert f":{quote(secret)}@" not in shown
