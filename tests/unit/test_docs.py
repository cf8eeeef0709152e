"""Documents that must say what the code says. `python -m tests.unit.test_docs` writes them anew."""

import inspect
import re
from pathlib import Path

from twofold_schema.environment import Settings, describe
from twofold_schema.settings import PARTS

SETTINGS = Path(__file__).parents[2] / "docs" / "04-settings.md"

_HEAD = """# Settings

Every process reads its settings from the environment, and refuses to start over a wrong one or
over a `TWOFOLD_` name that it does not know. Any value may be kept in a file instead: `NAME_FILE`
is its path.
"""


def _meanings(part: type[Settings]) -> dict[str, str]:
    attributes = inspect.cleandoc(part.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.split(r"\n(?=    \w+: )", attributes)
    pairs = (" ".join(entry.split()).partition(": ") for entry in entries)
    return {name: meaning for name, _, meaning in pairs}


def _settings_page() -> str:
    page = [_HEAD]
    for part in PARTS:
        title = inspect.cleandoc(part.__doc__ or "").partition("\n")[0].removesuffix(".")
        page += [f"## {title}", "", "| variable | default | meaning |", "| --- | --- | --- |"]
        meanings = _meanings(part)
        for (variable, default), name in zip(describe(part), part.model_fields, strict=True):
            required = part.model_fields[name].is_required()
            shown = "**required**" if required else f"`{default}`"
            shown = "" if default in {None, ""} and not required else shown
            page.append(f"| `{variable}` | {shown} | {meanings[name]} |")
        page.append("")
    return "\n".join(page)


def test_the_settings_page_names_every_setting_with_its_default() -> None:
    assert SETTINGS.read_text(encoding="utf-8") == _settings_page()


if __name__ == "__main__":
    SETTINGS.write_text(_settings_page(), encoding="utf-8")
