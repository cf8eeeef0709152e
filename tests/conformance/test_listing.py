"""What every store promises to who lists."""

from datetime import UTC, datetime, timedelta

from tests.conformance.stores import PAGE_SIZE, Case

#: In the order of their bytes, which is not that of folders: `-` and `.` come before `/`.
NAMES = [
    "a",
    "a b",
    "a%20b",
    "a+b",
    "a-b",
    "a.b",
    "a/0",
    "a/b/c",
    "a/b0",
    "aB",
    "ab",
    "größe/猫 🐈.png",
    "z",
    "é",
]


def names(case: Case, prefix: str = "", after: str = "") -> list[str]:
    """What is listed, without the test's own prefix."""
    below = case.prefix.child(prefix) if prefix else case.prefix
    behind = case.prefix.child(after) if after else None
    found = [entry.uri.key for entry in case.storage.list(below, after=behind)]
    assert all(key.startswith(f"{case.prefix.key}/") for key in found)
    return [key.removeprefix(f"{case.prefix.key}/") for key in found]


class TestListings:
    def test_have_the_order_of_keys_over_many_pages(self, case: Case) -> None:
        for name in reversed(fitting(case)):
            case.put(name, b"mine")

        assert names(case) == fitting(case)
        assert len(fitting(case)) > 3 * PAGE_SIZE
        for position in (0, 3, 6, len(fitting(case)) - 1):
            after = fitting(case)[position]
            assert names(case, after=after) == fitting(case)[position + 1 :]
        case.observed("list")

    def test_begin_behind_what_need_not_exist(self, case: Case) -> None:
        for name in ("a/1", "a/3", "b/1", "c"):
            case.put(name, b"mine")

        assert names(case, after="a/2") == ["a/3", "b/1", "c"]
        assert names(case, after="a/4") == ["b/1", "c"]
        assert names(case, after="a0") == ["b/1", "c"]
        assert names(case, after="b/1/2") == ["c"]
        assert names(case, "b", after="a/1") == ["b/1"]
        assert names(case, "b", after="c") == []

    def test_of_a_prefix_are_those_of_a_folder(self, case: Case) -> None:
        for name in ("a/b/1", "a/bc", "a/b.png", "a/b c/1"):
            case.put(name, b"mine")

        assert names(case, "a/b") == ["a/b/1"]
        assert names(case, "a/b/1") == []
        assert names(case, "a/nothing") == []

    def test_say_size_and_time(self, case: Case) -> None:
        before = datetime.now(UTC) - timedelta(seconds=2)
        uri = case.put("object", b"12345")

        (entry,) = case.storage.list(case.prefix)

        assert (entry.uri, entry.size) == (uri, 5)
        assert before <= entry.modified_at <= datetime.now(UTC) + timedelta(seconds=2)

    def test_bear_that_what_they_list_is_deleted(self, case: Case) -> None:
        """As the keeper does it."""
        for number in range(2 * PAGE_SIZE):
            case.put(f"{number}/object", b"mine")

        for entry in case.storage.list(case.prefix):
            case.storage.delete(entry.uri)

        assert names(case) == []


def fitting(case: Case) -> list[str]:
    """The names that can be together: in a directory nothing is both file and folder."""
    return [name for name in NAMES if case.server or name != "a"]
