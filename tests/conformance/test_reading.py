"""What every store promises to who reads."""

import hashlib
from datetime import timedelta

import pytest
from tests.conformance.stores import Case, ask

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import SourceChanged, SourceNotFound, SourceTooLarge
from twofold_schema.storage.ranges import blocks


class TestBytes:
    @pytest.mark.parametrize("data", [b"", b"\x00", b"picture" * 10_000])
    def test_are_what_was_written(self, case: Case, data: bytes) -> None:
        uri = case.put("object", data)

        assert case.storage.read(uri, max_bytes=max(len(data), 1)).data == data

    @pytest.mark.parametrize(
        "name", ["größe/猫 🐈.png", "a b+c&d=e#f?g%2fh.png", "[x]/{y}:z;@!$'(),~", "e\u0301"]
    )
    def test_are_kept_under_any_name(self, case: Case, name: str) -> None:
        uri = case.put(name, b"mine")

        assert case.get(ArtifactUri.parse(str(uri))) == b"mine"
        assert [entry.uri for entry in case.storage.list(case.prefix)] == [uri]
        case.observed("names")

    def test_of_an_object_that_is_longer_than_allowed_are_refused(self, case: Case) -> None:
        uri = case.put("object", b"12345")

        assert case.storage.read(uri, max_bytes=5).data == b"12345"
        with pytest.raises(SourceTooLarge, match="5 bytes; at most 4"):
            case.storage.read(uri, max_bytes=4)

    @pytest.mark.parametrize(
        ("data", "length", "expected"),
        [
            (b"12345", 3, b"123"),
            (b"12345", 5, b"12345"),
            (b"12345", 6, b"12345"),
            (b"12345", 1, b"1"),
            (b"", 3, b""),
        ],
    )
    def test_of_a_head_come_with_the_whole_size(
        self, case: Case, data: bytes, length: int, expected: bytes
    ) -> None:
        uri = case.put("object", data)

        head = case.storage.read_head(uri, length=length)

        assert (head.data, head.size) == (expected, len(data))
        assert head.complete == (length >= len(data))
        assert head.version == case.storage.read(uri, max_bytes=10).version
        case.observed("head")

    def test_of_an_object_that_is_not_there_are_not_found(self, case: Case) -> None:
        case.put("object", b"12345")

        for name in ("nothing", "object/below"):
            with pytest.raises(SourceNotFound):
                case.storage.read(case.prefix.child(name), max_bytes=10)
            with pytest.raises(SourceNotFound):
                case.storage.read_head(case.prefix.child(name), length=10)

    def test_of_a_prefix_are_not_found(self, case: Case) -> None:
        case.put("folder/object", b"12345")

        with pytest.raises(SourceNotFound):
            case.storage.read(case.prefix.child("folder"), max_bytes=10)


class TestRanges:
    @pytest.mark.parametrize("length", [1, 3, 4, 10, 11, 20])
    def test_make_the_whole_object_block_by_block(self, case: Case, length: int) -> None:
        uri = case.put("object", b"0123456789")

        assert b"".join(blocks(case.storage, uri, length=length)) == b"0123456789"

    def test_of_an_empty_object_are_empty(self, case: Case) -> None:
        assert b"".join(blocks(case.storage, case.put("object", b""), length=5)) == b""

    @pytest.mark.parametrize("longer", [True, False])
    def test_of_an_object_that_was_overwritten_are_refused(
        self, case: Case, *, longer: bool
    ) -> None:
        uri = case.put("object", b"0123456789")
        other = case.put("other", b"9876543210123" if longer else b"98765")
        parts = blocks(case.storage, uri, length=8)
        assert next(parts) == b"01234567"

        case.storage.copy(other, uri, content_type="image/png", metadata={})

        with pytest.raises(SourceChanged, match="overwritten"):
            next(parts)

    def test_of_an_object_that_is_gone_are_not_found(self, case: Case) -> None:
        uri = case.put("object", b"0123456789")
        parts = blocks(case.storage, uri, length=8)
        next(parts)

        case.storage.delete(uri)

        with pytest.raises(SourceNotFound):
            next(parts)


class TestVersions:
    def test_change_when_the_bytes_do_and_not_before(self, case: Case) -> None:
        uri, other = case.put("object", b"mine"), case.put("other", b"also")

        first, again = (case.storage.read(uri, max_bytes=10) for _ in range(2))
        case.storage.copy(other, uri, content_type="image/png", metadata={})
        changed = case.storage.read(uri, max_bytes=10)

        assert first == again
        assert changed.data == b"also"
        assert changed.version != first.version
        case.observed("version")


class TestMetadata:
    def test_comes_back_with_the_digest(self, case: Case) -> None:
        uri = case.put("object", b"mine", job="1", source="s3://b/k-%20+ x", twofold="0.1")

        assert case.storage.read_metadata(uri) == {
            "job": "1",
            "source": "s3://b/k-%20+ x",
            "twofold": "0.1",
            "sha256": hashlib.sha256(b"mine").hexdigest(),
        }
        case.observed("metadata")

    def test_of_nothing_is_none(self, case: Case) -> None:
        case.put("object", b"mine")

        for name in ("nothing", "object/below"):
            assert case.storage.read_metadata(case.prefix.child(name)) is None


class TestCopies:
    def test_replace_bytes_media_type_and_metadata(self, case: Case) -> None:
        source, target = (
            case.put("a b+c%2f/é", b"new", job="1"),
            case.put("target", b"old", old="1"),
        )

        case.storage.copy(source, target, content_type="image/jpeg", metadata={"published": "1"})

        assert case.get(target) == b"new"
        assert case.storage.read_metadata(target) == {"published": "1"}
        signed = case.storage.sign_read(target, expires=timedelta(minutes=1))
        assert ask(case, signed).headers["Content-Type"] == "image/jpeg"
        assert case.get(source) == b"new"
        assert (case.storage.read_metadata(source) or {})["job"] == "1"
        case.observed("copy")

    def test_may_give_an_object_other_metadata(self, case: Case) -> None:
        uri = case.put("object", b"mine", job="1")

        case.storage.copy(uri, uri, content_type="image/png", metadata={"job": "2"})

        assert case.get(uri) == b"mine"
        assert case.storage.read_metadata(uri) == {"job": "2"}

    def test_of_nothing_are_not_found_and_change_nothing(self, case: Case) -> None:
        target = case.put("target", b"old")

        with pytest.raises(SourceNotFound):
            case.storage.copy(
                case.prefix.child("nothing"), target, content_type="image/png", metadata={}
            )
        assert case.get(target) == b"old"
