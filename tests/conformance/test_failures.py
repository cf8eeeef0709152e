"""One promise of storage, kept by S3 and by a directory alike."""

import hashlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import (
    ResultConflict,
    ResultDenied,
    SourceDenied,
    SourceNotFound,
    SourceTooLarge,
    StorageUnavailable,
)
from twofold_schema.settings import StorageSettings
from twofold_schema.storage.directory import DirectoryStorage
from twofold_schema.storage.places import OpenPlaces
from twofold_schema.storage.port import Storage
from twofold_schema.storage.s3 import S3Storage

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: What one request may take in these tests, in seconds; three are tried.
TIMEOUT = 0.5
#: Tries, and the pauses between them.
PATIENCE = 3 * TIMEOUT + 4.0


class Case:
    """A storage under test, and the prefix in it that is this test's own."""

    def __init__(self, storage: Storage, prefix: ArtifactUri) -> None:
        self.storage = storage
        self.prefix = prefix

    def put(self, name: str, data: bytes) -> ArtifactUri:
        """Store an object; gives its URI."""
        uri = self.prefix.child(name)
        put(self.storage, uri, data)
        return uri


@pytest.fixture(params=["s3", "directory"])
def case(request: pytest.FixtureRequest) -> Case:
    if request.param == "directory":
        root: Path = request.getfixturevalue("tmp_path")
        return Case(DirectoryStorage(root), ArtifactUri.of_file(root / "prefix"))
    endpoint: str = request.getfixturevalue("s3_endpoint")
    bucket: str = request.getfixturevalue("bucket")
    return Case(S3Storage(at(endpoint)), ArtifactUri("s3", bucket, "prefix"))


def at(endpoint: str, **changes: object) -> StorageSettings:
    """Settings for an S3 server that answers fast or not at all."""
    return StorageSettings.model_validate(
        {"s3_endpoint_url": endpoint, "s3_timeout_seconds": TIMEOUT} | changes
    )


def put(storage: Storage, uri: ArtifactUri, data: bytes) -> None:
    """Write an object as workers and producers do."""
    storage.write_once(
        uri,
        data,
        content_type="image/png",
        sha256=hashlib.sha256(data).hexdigest(),
        metadata={"job": "1"},
    )


class TestReading:
    @pytest.mark.parametrize("data", [b"", b"\x00", b"picture" * 10_000])
    def test_gives_what_was_written(self, case: Case, data: bytes) -> None:
        uri = case.put("object", data)

        assert case.storage.read(uri, max_bytes=max(len(data), 1)).data == data

    def test_refuses_an_object_that_is_longer_than_allowed(self, case: Case) -> None:
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
    def test_a_head_has_the_first_bytes_and_the_whole_size(
        self, case: Case, data: bytes, length: int, expected: bytes
    ) -> None:
        uri = case.put("object", data)

        head = case.storage.read_head(uri, length=length)

        assert (head.data, head.size) == (expected, len(data))
        assert head.complete == (length >= len(data))
        assert head.version == case.storage.read(uri, max_bytes=10).version

    def test_an_object_that_is_not_there_is_not_found(self, case: Case) -> None:
        case.put("object", b"12345")

        for name in ("nothing", "object/below"):
            with pytest.raises(SourceNotFound):
                case.storage.read(case.prefix.child(name), max_bytes=10)
            with pytest.raises(SourceNotFound):
                case.storage.read_head(case.prefix.child(name), length=10)

    def test_a_prefix_is_no_object(self, case: Case) -> None:
        case.put("folder/object", b"12345")

        with pytest.raises(SourceNotFound):
            case.storage.read(case.prefix.child("folder"), max_bytes=10)


class TestWriting:
    def test_the_same_content_again_is_success(self, case: Case) -> None:
        uri = case.put("object", b"mine")
        case.put("object", b"mine")

        assert case.storage.read(uri, max_bytes=10).data == b"mine"

    @pytest.mark.parametrize("other", [b"other", b"", b"mine "])
    def test_other_content_is_a_conflict_and_changes_nothing(
        self, case: Case, other: bytes
    ) -> None:
        uri = case.put("object", b"mine")

        with pytest.raises(ResultConflict):
            case.put("object", other)
        assert case.storage.read(uri, max_bytes=10).data == b"mine"

    def test_of_many_writers_at_once_one_wins_and_all_others_know(self, case: Case) -> None:
        ready = threading.Barrier(8)

        def write(content: bytes) -> bytes | None:
            ready.wait()
            try:
                case.put("object", content)
            except ResultConflict:
                return None
            return content

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(write, (b"%d" % number for number in range(8))))

        (winner,) = (answer for answer in answers if answer is not None)
        assert case.storage.read(case.prefix.child("object"), max_bytes=10).data == winner

    def test_of_many_writers_of_the_same_content_all_win(self, case: Case) -> None:
        ready = threading.Barrier(8)

        def write(_: int) -> ArtifactUri:
            ready.wait()
            return case.put("object", b"ours")

        with ThreadPoolExecutor(8) as pool:
            (uri,) = set(pool.map(write, range(8)))

        assert case.storage.read(uri, max_bytes=10).data == b"ours"

    @pytest.mark.parametrize(
        "name", ["größe/猫 🐈.png", "a b+c&d=e#f?g%2fh.png", "[x]/{y}:z;@!$'(),~", "e\u0301"]
    )
    def test_any_name_is_kept_as_it_is(self, case: Case, name: str) -> None:
        uri = case.put(name, b"mine")

        assert case.storage.read(ArtifactUri.parse(str(uri)), max_bytes=10).data == b"mine"


class TestDirectory:
    """What only a directory can do wrong."""

    def test_a_link_that_leads_out_is_denied(self, tmp_path: Path) -> None:
        root, outside = tmp_path / "root", tmp_path / "outside"
        root.mkdir()
        outside.mkdir()
        (outside / "secret").write_bytes(b"secret")
        (root / "folder").symlink_to(outside)
        (root / "file").symlink_to(outside / "secret")
        (root / "new").symlink_to(outside / "new")
        storage = DirectoryStorage(root)

        for name in ("folder/secret", "file"):
            with pytest.raises(SourceDenied):
                storage.read(ArtifactUri.of_file(root / name), max_bytes=10)
        for name in ("folder/new", "new"):
            with pytest.raises(ResultDenied):
                put(storage, ArtifactUri.of_file(root / name), b"mine")
        assert [path.name for path in outside.iterdir()] == ["secret"]

    def test_a_link_that_stays_inside_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"mine")
        (tmp_path / "link").symlink_to("file")

        uri = ArtifactUri.of_file(tmp_path / "link")

        assert DirectoryStorage(tmp_path).read(uri, max_bytes=10).data == b"mine"

    def test_its_root_may_be_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        storage = DirectoryStorage(tmp_path / "link")

        put(storage, ArtifactUri.of_file(tmp_path / "link/object"), b"mine")

        assert (tmp_path / "real/object").read_bytes() == b"mine"

    def test_what_is_no_file_is_not_found_and_holds_nobody_up(self, tmp_path: Path) -> None:
        """A pipe would hold its reader until somebody writes; a loop of links ends nowhere."""
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "loop").symlink_to("loop")

        for name in ("pipe", "loop"):
            with pytest.raises(SourceNotFound):
                DirectoryStorage(tmp_path).read(ArtifactUri.of_file(tmp_path / name), max_bytes=10)

    def test_a_folder_or_a_file_in_the_way_is_a_conflict(self, tmp_path: Path) -> None:
        storage = DirectoryStorage(tmp_path)
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").write_bytes(b"other")

        for name in ("folder", "file/below", "file/far/below"):
            with pytest.raises(ResultConflict):
                put(storage, ArtifactUri.of_file(tmp_path / name), b"mine")

    def test_nothing_but_the_object_is_left(self, tmp_path: Path) -> None:
        storage = DirectoryStorage(tmp_path)
        uri = ArtifactUri.of_file(tmp_path / "object")
        put(storage, uri, b"mine")
        with pytest.raises(ResultConflict):
            put(storage, uri, b"other")

        assert [path.name for path in tmp_path.iterdir()] == ["object"]


class TestS3:
    """What only a server far away can do wrong."""

    def test_a_missing_bucket_is_told_apart_by_who_asks(self, s3_endpoint: str) -> None:
        storage = S3Storage(at(s3_endpoint))
        uri = ArtifactUri("s3", f"twofold-missing-{secrets.token_hex(6)}", "object")

        with pytest.raises(SourceNotFound):
            storage.read(uri, max_bytes=10)
        with pytest.raises(SourceNotFound):
            storage.read_head(uri, length=10)
        with pytest.raises(ResultDenied, match="create its bucket"):
            put(storage, uri, b"mine")

    def test_a_refusal_is_told_apart_by_who_asks(
        self, s3_endpoint: str, s3: "S3Client", bucket: str
    ) -> None:
        storage = S3Storage(at(s3_endpoint))
        uri = ArtifactUri("s3", bucket, "object")
        put(storage, uri, b"mine")
        everything = {
            "Effect": "Deny",
            "Principal": "*",
            "Action": ["s3:GetObject", "s3:PutObject"],
            "Resource": f"arn:aws:s3:::{bucket}/*",
        }
        policy = {"Version": "2012-10-17", "Statement": [everything]}
        s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))

        with pytest.raises(SourceDenied, match="grant"):
            storage.read(uri, max_bytes=10)
        with pytest.raises(SourceDenied, match="grant"):
            storage.read_head(uri, length=10)
        with pytest.raises(ResultDenied, match="grant"):
            put(storage, ArtifactUri("s3", bucket, "new"), b"mine")

    def test_a_result_says_what_it_is(self, s3_endpoint: str, s3: "S3Client", bucket: str) -> None:
        put(S3Storage(at(s3_endpoint)), ArtifactUri("s3", bucket, "object"), b"mine")

        head = s3.head_object(Bucket=bucket, Key="object")

        assert head["ContentType"] == "image/png"
        assert head["Metadata"] == {"job": "1", "sha256": hashlib.sha256(b"mine").hexdigest()}

    def test_a_server_that_is_gone_or_never_answers_is_unavailable_in_time(
        self, s3_endpoint: str
    ) -> None:
        uri = ArtifactUri("s3", "bucket", "object")

        def seconds(url: str, act: Callable[[Storage], object]) -> float:
            storage = S3Storage(at(url))
            began = time.monotonic()
            with pytest.raises(StorageUnavailable):
                act(storage)
            return time.monotonic() - began

        with silent() as silent_url, gone() as gone_url, ThreadPoolExecutor(4) as pool:
            waits = [
                pool.submit(seconds, url, act)
                for url in (silent_url, gone_url)
                for act in (
                    lambda storage: storage.read(uri, max_bytes=10),
                    lambda storage: put(storage, uri, b"mine"),
                )
            ]
            assert max(wait.result() for wait in waits) < PATIENCE

    @pytest.mark.parametrize("status", [500, 503])
    def test_a_server_that_fails_when_asked_who_won_is_unavailable(
        self, s3_endpoint: str, status: int
    ) -> None:
        with answering({"PUT": 412, "HEAD": status}) as url, pytest.raises(StorageUnavailable):
            put(S3Storage(at(url)), ArtifactUri("s3", "bucket", "object"), b"mine")

    @pytest.mark.parametrize("stall", [False, True])
    def test_an_answer_that_is_cut_short_or_stalls_is_unavailable(
        self, s3_endpoint: str, *, stall: bool
    ) -> None:
        uri = ArtifactUri("s3", "bucket", "object")
        with answering({"GET": 200}, promised=100, stall=stall) as url:
            storage = S3Storage(at(url))

            with pytest.raises(StorageUnavailable):
                storage.read(uri, max_bytes=100)
            with pytest.raises(StorageUnavailable):
                storage.read_head(uri, length=100)


class TestOpenPlaces:
    def test_sends_each_uri_where_it_belongs(
        self, s3_endpoint: str, bucket: str, tmp_path: Path
    ) -> None:
        places = OpenPlaces(at(s3_endpoint, buckets=bucket, file_root=tmp_path))

        for uri in (ArtifactUri("s3", bucket, "a"), ArtifactUri.of_file(tmp_path / "a")):
            put(places, uri, b"mine")
            assert places.read(uri, max_bytes=10).data == b"mine"
            assert places.read_head(uri, length=2).data == b"mi"
        assert (tmp_path / "a").read_bytes() == b"mine"

    def test_refuses_every_other_place_to_read_and_to_write(
        self, s3_endpoint: str, bucket: str, tmp_path: Path
    ) -> None:
        """Also objects that are there, and that the process may read."""
        root = tmp_path / "root"
        root.mkdir()
        S3Storage(at(s3_endpoint)).write_once(
            ArtifactUri("s3", bucket, "object"),
            b"mine",
            content_type="image/png",
            sha256="",
            metadata={},
        )
        (tmp_path / "object").write_bytes(b"mine")
        places = OpenPlaces(at(s3_endpoint, file_root=root))

        for uri in (ArtifactUri("s3", bucket, "object"), ArtifactUri.of_file(tmp_path / "object")):
            with pytest.raises(SourceDenied, match="TWOFOLD_"):
                places.read(uri, max_bytes=10)
            with pytest.raises(SourceDenied, match="TWOFOLD_"):
                places.read_head(uri, length=10)
            with pytest.raises(ResultDenied, match="TWOFOLD_"):
                put(places, uri, b"mine")

    def test_files_are_closed_where_no_folder_is_named(
        self, s3_endpoint: str, tmp_path: Path
    ) -> None:
        (tmp_path / "object").write_bytes(b"mine")

        with pytest.raises(SourceDenied, match="TWOFOLD_FILE_ROOT"):
            OpenPlaces(at(s3_endpoint)).read(ArtifactUri.of_file(tmp_path / "object"), max_bytes=9)


@contextmanager
def silent() -> Iterator[str]:
    """The URL of a server that takes calls and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def gone() -> Iterator[str]:
    """The URL of a server that refuses calls: its port is taken, and nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def answering(statuses: dict[str, int], *, promised: int = 0, stall: bool = False) -> Iterator[str]:
    """The URL of a server that gives each method a status, and no byte of what it promises.

    It hangs up then, or with `stall` waits until its client does.
    """

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_response(statuses[self.command])
            self.send_header("Content-Length", str(promised))
            self.send_header("Connection", "close")
            self.end_headers()
            if stall:
                self.rfile.read(1)

        do_GET = do_PUT = do_HEAD = answer  # noqa: N815 - named by the library

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
