"""What every store promises to who writes and deletes."""

import base64
import hashlib
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from tempfile import SpooledTemporaryFile
from typing import IO

import pytest
from botocore.exceptions import ClientError
from tests.conformance.stores import Case, put
from tests.servers.certificates import Certificates
from tests.servers.moto import Moto
from tests.servers.swift import Swift

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import ResultConflict, SourceNotFound
from twofold_schema.storage.directory import DirectoryStorage
from twofold_schema.storage.port import Storage

WRITERS = 8
#: How many names are raced for until a store that lets several win has shown it.
RACES = 30


def race(storage: Storage, uri: ArtifactUri) -> list[bytes]:
    """Who of many writers of one name, each with other content, believes to have won."""
    ready = threading.Barrier(WRITERS)

    def write(content: bytes) -> bytes | None:
        ready.wait()
        try:
            put(storage, uri, content)
        except ResultConflict:
            return None
        return content

    with ThreadPoolExecutor(WRITERS) as pool:
        answers = list(pool.map(write, (b"%d" % number for number in range(WRITERS))))
    winners = [answer for answer in answers if answer is not None]
    assert storage.read(uri, max_bytes=10).data in winners
    return winners


def put_file(storage: Storage, uri: ArtifactUri, file: IO[bytes], content: bytes) -> None:
    """Write an object as the keeper does."""
    digest = hashlib.sha256(content).hexdigest()
    storage.write_once(uri, file, content_type="application/jsonl", sha256=digest, metadata={})


class TestCreating:
    def test_the_same_content_again_is_success(self, case: Case) -> None:
        uri = case.put("object", b"mine")
        case.put("object", b"mine")

        assert case.get(uri) == b"mine"

    @pytest.mark.parametrize("other", [b"other", b"", b"mine "])
    def test_other_content_is_a_conflict_and_changes_nothing(
        self, case: Case, other: bytes
    ) -> None:
        uri = case.put("object", b"mine")

        with pytest.raises(ResultConflict):
            case.put("object", other, job="2")
        assert case.get(uri) == b"mine"
        assert (case.storage.read_metadata(uri) or {})["job"] == "1"
        case.observed("conflict")

    def test_over_a_copy_only_its_bytes_count(self, case: Case) -> None:
        """A copy has the metadata that its maker gave it, and need not know its digest."""
        copied = case.prefix.child("copied")
        case.storage.copy(
            case.put("object", b"mine"), copied, content_type="image/png", metadata={}
        )

        case.put("copied", b"mine")
        with pytest.raises(ResultConflict):
            case.put("copied", b"else")

    def test_of_many_writers_at_once_one_wins_and_all_others_know(self, case: Case) -> None:
        """Where the store lets several win, Twofold says so and names must be unique."""
        assert case.storage.capabilities.atomic_create == case.abilities.creates_atomically
        races = (len(race(case.storage, case.prefix.child(f"{n}"))) for n in range(RACES))

        if case.abilities.creates_atomically:
            assert [next(races) for _ in range(3)] == [1, 1, 1]
        else:
            assert any(winners > 1 for winners in races)
        case.observed(
            "race",
            kept=case.abilities.creates_atomically,
            instead="no: several may; Twofold looks first, and its names are unique",
        )

    def test_of_many_writers_of_the_same_content_all_win(self, case: Case) -> None:
        ready = threading.Barrier(WRITERS)

        def write(_: int) -> ArtifactUri:
            ready.wait()
            return case.put("object", b"ours")

        with ThreadPoolExecutor(WRITERS) as pool:
            (uri,) = set(pool.map(write, range(WRITERS)))

        assert case.get(uri) == b"ours"

    @pytest.mark.parametrize("conditional", [True, False])
    def test_by_one_after_another_is_safe_either_way(
        self, s3_case: Case, *, conditional: bool
    ) -> None:
        """Both with the server's own refusal and by looking first."""
        assert s3_case.server
        storage = s3_case.server.open(s3_conditional_writes=conditional)
        uri = s3_case.prefix.child("object")
        put(storage, uri, b"mine")
        put(storage, uri, b"mine")

        with pytest.raises(ResultConflict):
            put(storage, uri, b"other")
        assert storage.capabilities.atomic_create is conditional
        assert s3_case.get(uri) == b"mine"

    def test_conditionally_is_not_atomic_in_swift(self, swift_case: Case) -> None:
        """Why its settings here say that it cannot: it answers 412 to those who come later only."""
        assert swift_case.server
        storage = swift_case.server.open(s3_conditional_writes=True)
        races = (len(race(storage, swift_case.prefix.child(f"{n}"))) for n in range(RACES))

        assert any(winners > 1 for winners in races)


class TestFiles:
    """Data that is not held in memory."""

    def test_are_stored_from_their_start_wherever_they_stand(self, case: Case) -> None:
        data = b"line of a manifest\n" * 100_000
        uri = case.prefix.child("object")
        with SpooledTemporaryFile(1000) as file:
            file.write(data)
            put_file(case.storage, uri, file, data)
            put_file(case.storage, uri, file, data)
            case.storage.delete(uri)
            put_file(case.storage, uri, file, data)

        assert case.storage.read(uri, max_bytes=10**7).data == data

    def test_of_other_content_are_a_conflict(self, case: Case) -> None:
        uri = case.put("object", b"mine")
        with SpooledTemporaryFile() as file:
            file.write(b"else")
            with pytest.raises(ResultConflict):
                put_file(case.storage, uri, file, b"else")

    def test_of_the_content_of_a_copy_are_success(self, case: Case) -> None:
        uri = case.prefix.child("copied")
        case.storage.copy(case.put("object", b"mine"), uri, content_type="image/png", metadata={})
        with SpooledTemporaryFile() as file:
            file.write(b"mine")
            put_file(case.storage, uri, file, b"mine")


class TestUploads:
    def test_carry_their_checksum_as_the_way_demands(self, s3_case: Case) -> None:
        """Over TLS it follows the bytes, so that only a server behind TLS shows it."""
        assert s3_case.server
        storage = s3_case.server.open()
        seen: list[Mapping[str, object]] = []

        def look(request: object, **_: object) -> None:
            seen.append({n.lower(): v for n, v in request.headers.items()})  # type: ignore[attr-defined]

        storage._client.meta.events.register_first("before-send.s3.PutObject", look)
        put(storage, s3_case.prefix.child("object"), b"mine")

        (headers,) = seen
        sent_as = "header" if "x-amz-checksum-crc32" in headers else None
        if headers.get("x-amz-trailer", b"") == b"x-amz-checksum-crc32":
            sent_as = "trailer"
        assert sent_as == s3_case.abilities.checksum
        assert s3_case.get(s3_case.prefix.child("object")) == b"mine"
        s3_case.observed("checksum", kept=False, instead=sent_as or "none")

    def test_need_no_checksum_where_servers_refuse_it(self, s3_case: Case) -> None:
        assert s3_case.server
        storage = s3_case.server.open(s3_checksums="when_required")
        seen: list[str] = []

        def look(request: object, **_: object) -> None:
            seen.extend(name.lower() for name in request.headers)  # type: ignore[attr-defined]

        storage._client.meta.events.register_first("before-send.s3", look)
        source, target = s3_case.prefix.child("object"), s3_case.prefix.child("copied")
        put(storage, source, b"mine")
        storage.copy(source, target, content_type="image/png", metadata={"a": "1"})

        assert storage.read(target, max_bytes=10).data == b"mine"
        assert storage.read_head(target, length=2).data == b"mi"
        assert storage.read_metadata(target) == {"a": "1"}
        assert [name for name in seen if "checksum" in name or "trailer" in name] == []
        s3_case.observed("required")

    def test_that_are_damaged_are_refused_where_the_store_can(self, s3_case: Case) -> None:
        assert s3_case.server
        client, uri = s3_case.server.storage._client, s3_case.prefix.child("object")

        def write() -> None:
            client.put_object(
                Bucket=uri.bucket,
                Key=uri.key,
                Body=b"damaged",
                ChecksumSHA256=base64.b64encode(bytes(32)).decode(),
            )

        if s3_case.abilities.checks_digests:
            with pytest.raises(ClientError, match="BadDigest"):
                write()
            with pytest.raises(SourceNotFound):
                s3_case.get(uri)
        else:
            write()
            assert s3_case.get(uri) == b"damaged"
        s3_case.observed(
            "digest",
            kept=bool(s3_case.abilities.checks_digests),
            instead="no: stored; Twofold keeps the SHA-256 with the object",
        )


class TestDeleting:
    def test_removes_bytes_and_metadata(self, case: Case) -> None:
        uri, other = case.put("a/object", b"mine"), case.put("a/other", b"mine")

        case.storage.delete(uri)

        with pytest.raises(SourceNotFound):
            case.get(uri)
        assert case.storage.read_metadata(uri) is None
        assert [entry.uri for entry in case.storage.list(case.prefix)] == [other]

    def test_what_is_not_there_is_success(self, case: Case) -> None:
        uri = case.put("object", b"mine")

        for _ in range(2):
            case.storage.delete(uri)
        case.storage.delete(case.prefix.child("never/was"))
        case.observed("delete")

    def test_a_prefix_removes_nothing(self, case: Case) -> None:
        uri = case.put("folder/object", b"mine")

        case.storage.delete(case.prefix.child("folder"))

        assert case.get(uri) == b"mine"

    def test_makes_the_name_free(self, case: Case) -> None:
        uri = case.put("object", b"mine", job="1")
        case.storage.delete(uri)

        case.put("object", b"other", job="2")

        assert case.get(uri) == b"other"
        assert (case.storage.read_metadata(uri) or {})["job"] == "2"


def test_objects_outlive_a_restart_where_the_store_keeps_them(
    case: Case, certificates: Certificates, request: pytest.FixtureRequest
) -> None:
    uri = case.prefix.child("object")
    if case.server is None:
        case.put("object", b"mine")
        assert isinstance(case.storage, DirectoryStorage)
        again: Storage = DirectoryStorage(case.storage.root)
        assert again.read(uri, max_bytes=10).data == b"mine"
        assert (again.read_metadata(uri) or {})["job"] == "1"
    elif case.abilities.keeps_data:
        case.put("object", b"mine")
        swift: Swift = request.getfixturevalue("swift")
        swift.restart()
        assert case.get(uri) == b"mine"
        assert (case.storage.read_metadata(uri) or {})["job"] == "1"
    else:
        with Moto(certificates if case.server.url.startswith("https") else None) as moto:
            server = case.server.at(moto.url)
            server.create_bucket(uri.bucket)
            put(server.storage, uri, b"mine")
            moto.restart()
            with pytest.raises(SourceNotFound):
                server.storage.read(uri, max_bytes=10)
    case.observed(
        "restart", kept=case.abilities.keeps_data, instead="no: for tests only, all in memory"
    )
