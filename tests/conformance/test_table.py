"""The table in docs/06-storage.md says what the tests before this one saw."""

from tests.conformance.table import COLUMNS, PAGE, PROMISES, Observations, block, heads

AGAIN = "write it anew: python -m tests.conformance.table"


def test_the_table_says_what_was_observed(observations: Observations) -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert observations.differing(page) == [], AGAIN
    assert heads(page) == ["promise", *COLUMNS.values(), *PROMISES.values()], AGAIN
    if not observations.missing():
        assert block(page) == observations.render(), AGAIN
