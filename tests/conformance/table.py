"""What the suite saw of each store, as a table. `python -m tests.conformance.table` writes it anew.

Tests note what they observed; the last one compares that with the table in docs/06-storage.md.
"""

import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "06-storage.md"

COLUMNS = {
    "directory": "directory",
    "moto-http": f"moto {version('moto')}, http",
    "moto-https": f"moto {version('moto')}, TLS",
    "swift-http": f"Swift {version('swift')}, http",
    "swift-https": f"Swift {version('swift')}, TLS",
}

PROMISES = {
    "names": "Any name is kept as it is: Unicode, spaces, `+`, `%`",
    "head": "The first bytes come with the size of the whole",
    "version": "A version stays until the bytes change",
    "metadata": "Metadata comes back",
    "conflict": "A second writer of other content is refused",
    "race": "Of 8 writers of one name at once, one wins",
    "copy": "A copy replaces bytes, media type and metadata",
    "list": "Listings come in the order of keys, page by page",
    "delete": "Deleting twice is success",
    "sign": "A signed URL reads and writes",
    "tampered": "A signed URL for another object is refused",
    "method": "A signed URL used with another method is refused",
    "type": "A signed URL used with another media type is refused",
    "expired": "An expired URL is refused",
    "credentials": "A wrong secret is refused",
    "digest": "A damaged upload is refused",
    "checksum": "With `when_supported`, an upload's checksum is sent as",
    "required": "With `when_required`, uploads, reads and copies work",
    "restart": "Objects outlive a restart",
}

_BEGIN, _END = "<!-- conformance: begin -->\n", "<!-- conformance: end -->\n"


class Observations:
    """The cells of the table, as far as they were seen."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], str] = {}

    def note(self, promise: str, column: str, cell: str) -> None:
        """Fill a cell; whoever sees it again must see the same."""
        assert promise in PROMISES
        assert column in COLUMNS
        assert self._cells.setdefault((promise, column), cell) == cell, (promise, column)

    def differing(self, page: str) -> list[str]:
        """What the page says otherwise, in words; what was not seen now counts as it stands."""
        written = _cells(page)
        return [
            f"{promise} of {column}: seen {cell!r}, written {written.get((promise, column))!r}"
            for (promise, column), cell in self._cells.items()
            if written.get((promise, column)) != cell
        ]

    def missing(self) -> list[tuple[str, str]]:
        """The cells that nobody filled."""
        wanted = [(promise, column) for promise in PROMISES for column in COLUMNS]
        return [place for place in wanted if place not in self._cells]

    def render(self) -> str:
        """The table; every cell must have been seen."""
        lines = [
            ["promise", *COLUMNS.values()],
            ["---"] * (len(COLUMNS) + 1),
            *(
                [sentence, *(self._cells[promise, column] for column in COLUMNS)]
                for promise, sentence in PROMISES.items()
            ),
        ]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


#: Of this run.
OBSERVATIONS = pytest.StashKey[Observations]()


def block(page: str) -> str:
    """The table as it stands in the page."""
    return page.partition(_BEGIN)[2].partition(_END)[0]


def heads(page: str) -> list[str]:
    """The columns and the promises as they stand in the page."""
    first, _, *rows = [row.strip("| ").split(" | ") for row in block(page).splitlines()]
    return [*first, *(cells[0] for cells in rows)]


def _cells(page: str) -> dict[tuple[str, str], str]:
    rows = [row.strip("| ").split(" | ") for row in block(page).splitlines()[2:]]
    names = {sentence: promise for promise, sentence in PROMISES.items()}
    return {
        (names[sentence], column): cell
        for sentence, *cells in rows
        if sentence in names
        for column, cell in zip(COLUMNS, cells, strict=False)
    }


class _Writer:
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        observations = session.config.stash[OBSERVATIONS]
        if missing := observations.missing():
            print(f"Not written: {missing} were not seen.", file=sys.stderr)
            return
        page = PAGE.read_text(encoding="utf-8")
        between = re.compile(f"{_BEGIN}.*{_END}", re.DOTALL)
        table = f"{_BEGIN}{observations.render()}{_END}"
        PAGE.write_text(between.sub(lambda _: table, page), encoding="utf-8")


def write() -> int:
    """Run the suite and put what it saw into the page; the exit status of the suite."""
    ignored = [f"--ignore={FOLDER / name}" for name in ("test_table.py", "test_upscaler.py")]
    return pytest.main(["-q", *ignored, str(FOLDER)], plugins=[_Writer()])


if __name__ == "__main__":
    # By its name: the tests import this module too, and must fill the same table.
    from tests.conformance import table

    sys.exit(table.write())
