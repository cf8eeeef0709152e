"""Rules of the house that no linter knows."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from twofold_schema import errors
from twofold_schema.environment import PREFIX
from twofold_schema.settings import PARTS
from twofold_schema.states import TRANSITIONS

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("schema", "producer", "worker", "tests", "tools", "examples", "benchmarks")

SAYS_NOTHING = re.compile(r"(^|_)(utils?|helpers?|managers?|commons?|misc)(_|$)")


def names() -> Iterator[Path]:
    """Every Python module of the house, and every folder that holds one."""
    modules = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    yield from modules
    yield from {module.parent for module in modules}


def rendered() -> set[str]:
    """The transitions as Mermaid's `stateDiagram-v2` writes them."""
    return {
        f"{state} --> {next_state}: {cause}"
        for state, ways in TRANSITIONS.items()
        for next_state, cause in ways.items()
    }


def rows(document: str) -> dict[str, str]:
    """The codes in a document's tables, and whether they are tried again."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    found = re.findall(r"^\| `(\w+)` \| (yes|no) \| .+\. \|$", text, re.MULTILINE)
    assert len(found) == len(dict(found)), "a code stands there twice"
    return dict(found)


def test_every_module_is_named_by_what_it_is() -> None:
    assert {path for path in names() if SAYS_NOTHING.search(path.stem)} == set()


@pytest.mark.parametrize("name", ["utils", "image_utils", "job_manager", "helper", "common"])
def test_names_that_say_nothing_are_seen(name: str) -> None:
    assert SAYS_NOTHING.search(name)


def test_the_picture_of_the_states_is_the_table_of_transitions() -> None:
    page = (ROOT / "docs/02-job-states.md").read_text(encoding="utf-8")
    (drawing,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", page, re.DOTALL)
    lines = [line.strip() for line in drawing.splitlines()]

    assert set(lines) == rendered()
    assert len(lines) == len(set(lines))


def test_the_table_of_errors_has_every_code_and_its_fate() -> None:
    assert rows("03-errors.md") == {
        error.code: "yes" if error.retryable else "no"
        for error in errors.every_error()
        if error.__module__ == errors.__name__
    }


def test_settings_that_errors_and_documents_name_exist() -> None:
    known = {PREFIX + name.upper() for part in PARTS for name in part.model_fields}
    pages = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]
    texts = {str(page): page.read_text(encoding="utf-8") for page in pages}
    texts |= {error.__name__: error.__doc__ or "" for error in errors.every_error()}

    for where, text in texts.items():
        named = set(re.findall(rf"\b{PREFIX}[A-Z0-9_]*[A-Z0-9]\b", text))
        assert {name.removesuffix("_FILE") for name in named} <= known, where
