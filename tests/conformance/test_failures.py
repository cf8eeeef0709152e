"""What only a server far away can do wrong, and what Twofold makes of it."""

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.conformance.stores import put
from tests.servers.certificates import Certificates
from tests.servers.scripted import Asked, Reply, Script, error, scripted

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import (
    CredentialsRefused,
    ResultDenied,
    SourceDenied,
    SourceNotFound,
    StorageUnavailable,
)
from twofold_schema.settings import StorageSettings
from twofold_schema.storage.port import Storage
from twofold_schema.storage.s3 import S3Storage
from twofold_schema.storage.s3_client import longest_seconds

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

URI = ArtifactUri("s3", "bucket", "object")
MINUTE = timedelta(minutes=1)

#: How much later than promised a busy machine may notice, in seconds.
SLACK = 2.0

pytestmark = pytest.mark.usefixtures("s3_endpoint")  # for its credentials


def at(endpoint: str, **changes: object) -> StorageSettings:
    """Settings for an S3 server that answers fast or not at all."""
    given = {"s3_endpoint_url": endpoint, "s3_timeout_seconds": 0.4, "s3_attempts": 2}
    return StorageSettings.model_validate(given | changes)


def first(replies: list[Reply], then: Reply) -> Script:
    """Some answers, and another one ever after."""
    waiting, lock = list(replies), threading.Lock()

    def script(_: Asked) -> Reply:
        with lock:
            return waiting.pop(0) if waiting else then

    return script


FOUND = Reply(200, b"mine", {"ETag": '"1"'})
SLOW_DOWN = error(503, "SlowDown")


class TestRefusals:
    def test_of_a_missing_bucket_are_told_apart_by_who_asks(self, s3_endpoint: str) -> None:
        storage = S3Storage(at(s3_endpoint, s3_timeout_seconds=20))
        uri = ArtifactUri("s3", f"twofold-missing-{secrets.token_hex(6)}", "object")

        with pytest.raises(SourceNotFound):
            storage.read(uri, max_bytes=10)
        with pytest.raises(SourceNotFound):
            storage.read_head(uri, length=10)
        with pytest.raises(SourceDenied, match="create its bucket"):
            list(storage.list(uri))
        with pytest.raises(ResultDenied, match="create its bucket"):
            put(storage, uri, b"mine")
        with pytest.raises(ResultDenied, match="create its bucket"):
            storage.delete(uri)

    def test_of_access_are_told_apart_by_who_asks(
        self, s3_endpoint: str, s3: "S3Client", bucket: str
    ) -> None:
        storage = S3Storage(at(s3_endpoint, s3_timeout_seconds=20))
        uri, new = (ArtifactUri("s3", bucket, name) for name in ("object", "new"))
        put(storage, uri, b"mine")
        deny(s3, bucket, "s3:GetObject", "s3:PutObject")

        with pytest.raises(SourceDenied, match="grant"):
            storage.read(uri, max_bytes=10)
        with pytest.raises(SourceDenied, match="grant"):
            storage.read_head(uri, length=10)
        with pytest.raises(ResultDenied, match="grant"):
            put(storage, new, b"mine")

    def test_of_a_copy_name_the_side_that_is_refused(
        self, s3_endpoint: str, s3: "S3Client", bucket: str
    ) -> None:
        storage = S3Storage(at(s3_endpoint, s3_timeout_seconds=20))
        uri = ArtifactUri("s3", bucket, "object")
        put(storage, uri, b"mine")
        nowhere = ArtifactUri("s3", f"twofold-missing-{secrets.token_hex(6)}", "object")

        with pytest.raises(ResultDenied, match="create its bucket"):
            storage.copy(uri, nowhere, content_type="image/png", metadata={})
        with pytest.raises(SourceNotFound):
            storage.copy(nowhere, uri, content_type="image/png", metadata={})
        deny(s3, bucket, "s3:PutObject")
        with pytest.raises(ResultDenied, match="grant"):
            storage.copy(
                uri, ArtifactUri("s3", bucket, "new"), content_type="image/png", metadata={}
            )

    def test_that_hit_everything_are_the_sources_first(self) -> None:
        with scripted(lambda _: error(403, "AccessDenied")) as server:
            storage = S3Storage(at(server.url))
            with pytest.raises(SourceDenied, match="grant"):
                storage.copy(URI, URI, content_type="image/png", metadata={})
            with pytest.raises(SourceDenied, match="grant"):
                storage.read_metadata(URI)
            with pytest.raises(SourceDenied, match="grant"):
                list(storage.list(URI))
            with pytest.raises(ResultDenied, match="grant"):
                storage.delete(URI)


class TestCredentials:
    @pytest.fixture(autouse=True)
    def no_credentials(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def test_that_are_missing_are_named(self) -> None:
        with gone() as url:
            storage = S3Storage(at(url))

        with pytest.raises(CredentialsRefused, match="AWS_ACCESS_KEY_ID"):
            storage.read(URI, max_bytes=10)
        with pytest.raises(CredentialsRefused, match="AWS_ACCESS_KEY_ID"):
            list(storage.list(URI))
        with pytest.raises(CredentialsRefused, match="AWS_ACCESS_KEY_ID"):
            put(storage, URI, b"mine")
        with pytest.raises(CredentialsRefused, match="AWS_ACCESS_KEY_ID"):
            storage.sign_read(URI, expires=MINUTE)
        with pytest.raises(CredentialsRefused, match="AWS_ACCESS_KEY_ID"):
            storage.sign_write(URI, content_type="image/png", expires=MINUTE)

    def test_of_a_profile_that_is_not_there_are_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nobody")

        with gone() as url, pytest.raises(CredentialsRefused, match="AWS_PROFILE"):
            S3Storage(at(url))

    @pytest.mark.parametrize(
        "code", ["ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"]
    )
    def test_that_s3_does_not_take_are_told_from_an_objects_refusal(
        self, code: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        with scripted(lambda _: error(403, code)) as server:
            storage = S3Storage(at(server.url))
            with pytest.raises(CredentialsRefused, match=code):
                storage.read(URI, max_bytes=10)
            with pytest.raises(CredentialsRefused, match=code):
                put(storage, URI, b"mine")
            assert len(server.asked) == 2


class TestSigning:
    def test_names_the_public_endpoint_and_asks_nobody(self) -> None:
        with gone() as url:
            inside = S3Storage(at(url))
            public = S3Storage(at(url, s3_public_endpoint_url="https://s3.example.com"))

        signed = public.sign_read(URI, expires=MINUTE)
        assert signed.startswith("https://s3.example.com/bucket/object?X-Amz-Algorithm=AWS4-")
        assert "X-Amz-Expires=60&" in signed
        assert inside.sign_read(URI, expires=MINUTE).startswith(f"{url}/bucket/object?")
        put_url = public.sign_write(URI, content_type="image/png", expires=MINUTE)
        assert "X-Amz-SignedHeaders=content-type%3Bhost" in put_url

    def test_for_aws_names_the_region(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The endpoint without a region answers with a redirect that the signature forbids."""
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")

        signed = S3Storage(StorageSettings()).sign_read(URI, expires=MINUTE)

        assert signed.startswith("https://bucket.s3.eu-central-1.amazonaws.com/object?")


class TestOutages:
    def test_end_in_the_stated_time(self) -> None:
        def seconds(storage: Storage, act: Callable[[Storage], object]) -> float:
            began = time.monotonic()
            with pytest.raises(StorageUnavailable):
                act(storage)
            return time.monotonic() - began

        verbs: list[Callable[[Storage], object]] = [
            lambda storage: storage.read(URI, max_bytes=10),
            lambda storage: storage.read_range(URI, start=1, length=10, version="1"),
            lambda storage: storage.read_metadata(URI),
            lambda storage: put(storage, URI, b"mine"),
            lambda storage: storage.copy(URI, URI, content_type="", metadata={}),
            lambda storage: list(storage.list(URI)),
            lambda storage: storage.delete(URI),
        ]
        with silent() as silent_url, gone() as gone_url, ThreadPoolExecutor(14) as pool:
            storages = [S3Storage(at(url)) for url in (silent_url, gone_url)]
            waits = [pool.submit(seconds, one, verb) for one in storages for verb in verbs]
            assert max(wait.result() for wait in waits) < longest_seconds(at("http://x")) + SLACK

    @pytest.mark.parametrize("status", [500, 503])
    def test_after_a_write_was_refused_are_unavailable(self, status: int) -> None:
        def script(asked: Asked) -> Reply:
            return Reply(412 if asked.method == "PUT" else status)

        with scripted(script) as server, pytest.raises(StorageUnavailable):
            put(S3Storage(at(server.url)), URI, b"mine")

    @pytest.mark.parametrize("stall", [False, True])
    def test_within_an_answer_are_unavailable(self, *, stall: bool) -> None:
        cut = Reply(200, b"", {"ETag": '"1"'}, promised=100, stall=stall)
        with scripted(lambda _: cut) as server:
            storage = S3Storage(at(server.url))

            with pytest.raises(StorageUnavailable):
                storage.read(URI, max_bytes=100)
            with pytest.raises(StorageUnavailable):
                storage.read_head(URI, length=100)

    @pytest.mark.parametrize(
        "read",
        [
            lambda storage: storage.read(URI, max_bytes=2**41),
            lambda storage: storage.read_head(URI, length=2**40),
            lambda storage: storage.read_range(URI, start=0, length=2**40, version='"1"'),
        ],
        ids=["whole", "head", "range"],
    )
    def test_of_an_answer_that_trickles_in_end_in_time(
        self, read: Callable[[Storage], object]
    ) -> None:
        """It is never silent, so that nothing else would end it."""
        drop = Reply(200, bytes(2**20), {"ETag": '"1"'}, promised=2**40, trickle=True)
        with scripted(lambda _: drop) as server:
            settings = at(server.url, s3_attempts=1)
            began = time.monotonic()
            with pytest.raises(StorageUnavailable, match="bytes came in"):
                read(S3Storage(settings))
        assert time.monotonic() - began < longest_seconds(settings) + SLACK

    def test_of_trust_are_unavailable(
        self, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """AWS_CA_BUNDLE names whom to trust beside the well-known ones."""
        with scripted(lambda _: FOUND, certificates) as server:
            monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
            with pytest.raises(StorageUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                S3Storage(at(server.url)).read(URI, max_bytes=10)
            monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.authority))
            assert S3Storage(at(server.url)).read(URI, max_bytes=10).data == b"mine"


class TestRaces:
    def test_for_a_name_are_asked_again_until_somebody_has_won(self) -> None:
        """409: two at once. 412 and nothing there: it was deleted meanwhile."""
        digest = sha256(b"mine").hexdigest()
        replies = [error(409, "ConditionalRequestConflict"), Reply(404), Reply(412), Reply(404)]
        with scripted(first(replies, Reply(200))) as server:
            put(S3Storage(at(server.url)), URI, b"mine")
            assert [asked.method for asked in server.asked] == ["PUT", "HEAD", "PUT", "HEAD", "PUT"]

        ours = Reply(200, headers={"x-amz-meta-sha256": digest})
        with scripted(first([Reply(412)], ours)) as server:
            put(S3Storage(at(server.url)), URI, b"mine")

    def test_without_end_are_unavailable(self) -> None:
        def script(asked: Asked) -> Reply:
            return Reply(409 if asked.method == "PUT" else 404)

        with scripted(script) as server, pytest.raises(StorageUnavailable, match="by others"):
            put(S3Storage(at(server.url)), URI, b"mine")


class TestRetries:
    def test_end_with_success_when_the_server_recovers(self) -> None:
        refusals = [
            (503, "SlowDown"),
            (503, ""),
            (429, "TooManyRequests"),
            (429, ""),
            (500, "InternalError"),
            (400, "RequestTimeout"),
        ]

        def read(refusal: tuple[int, str]) -> tuple[bytes, int]:
            refused = error(*refusal)
            with scripted(first([refused, refused], FOUND)) as server:
                storage = S3Storage(at(server.url, s3_attempts=3, s3_timeout_seconds=20))
                return storage.read(URI, max_bytes=10).data, len(server.asked)

        with ThreadPoolExecutor(len(refusals)) as pool:
            answers = dict(zip(refusals, pool.map(read, refusals), strict=True))
        assert answers == dict.fromkeys(refusals, (b"mine", 3))

    @pytest.mark.parametrize("attempts", [1, 3])
    def test_are_counted_and_bounded(self, attempts: int) -> None:
        with scripted(lambda _: SLOW_DOWN) as server:
            settings = at(server.url, s3_attempts=attempts)
            storage = S3Storage(settings)
            # The driver's first client reads what S3 is: on a busy machine that takes long.
            with pytest.raises(StorageUnavailable, match="SlowDown"):
                put(storage, URI, b"mine")
            server.asked.clear()
            began = time.monotonic()

            with pytest.raises(StorageUnavailable, match="SlowDown"):
                put(storage, URI, b"mine")

            assert time.monotonic() - began < longest_seconds(settings)
            assert len(server.asked) == attempts

    def test_come_after_random_pauses(self) -> None:
        """Or all who were told to slow down would come back together."""
        places = [ArtifactUri("s3", "bucket", f"{number}") for number in range(12)]
        with scripted(lambda _: SLOW_DOWN) as server, ThreadPoolExecutor(len(places)) as pool:
            storage = S3Storage(at(server.url))

            def read(uri: ArtifactUri) -> None:
                with pytest.raises(StorageUnavailable):
                    storage.read(uri, max_bytes=10)

            list(pool.map(read, places))
            pauses = [
                later.at - earlier.at
                for uri in places
                for earlier, later in pairwise(
                    asked for asked in server.asked if asked.path.endswith(f"/{uri.key}")
                )
            ]

        assert len(pauses) == len(places)
        assert max(pauses) - min(pauses) > 0.2
        assert max(pauses) < 1 + SLACK

    @pytest.mark.parametrize("code", ["AccessDenied", "NoSuchKey", "SignatureDoesNotMatch"])
    def test_are_spared_where_they_cannot_help(self, code: str) -> None:
        with scripted(lambda _: error(404 if code == "NoSuchKey" else 403, code)) as server:
            with pytest.raises((SourceDenied, SourceNotFound, CredentialsRefused)):
                S3Storage(at(server.url)).read(URI, max_bytes=10)
            assert len(server.asked) == 1


class TestConnections:
    def test_are_never_more_than_allowed(self) -> None:
        limit, readers = 3, 12
        together = threading.Barrier(limit)

        def script(_: Asked) -> Reply:
            together.wait(timeout=20)  # only as many as are allowed come together
            return FOUND

        with scripted(script) as server, ThreadPoolExecutor(readers) as pool:
            settings = at(server.url, s3_connections=limit, s3_timeout_seconds=20)
            storage = S3Storage(settings)
            contents = list(pool.map(lambda _: storage.read(URI, max_bytes=10), range(readers)))

            assert [content.data for content in contents] == [b"mine"] * readers
            assert server.most_open == limit
            assert len(server.asked) == readers

    def test_that_are_all_busy_are_waited_for_in_bounds(self) -> None:
        with gone() as url:
            storage = S3Storage(at(url, s3_connections=1, s3_timeout_seconds=0.1, s3_attempts=1))

        with storage._connections.one(URI):
            with pytest.raises(StorageUnavailable, match="TWOFOLD_S3_CONNECTIONS"):
                storage.read(URI, max_bytes=10)
            with pytest.raises(StorageUnavailable, match="TWOFOLD_S3_CONNECTIONS"):
                list(storage.list(URI))


class TestChecksums:
    def test_go_as_a_trailer_over_tls_unless_required(
        self, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.authority))
        with scripted(lambda _: Reply(200), certificates) as server:
            for checksums in ("when_supported", "when_required"):
                put(S3Storage(at(server.url, s3_checksums=checksums)), URI, b"mine")
            supported, required = (asked.headers for asked in server.asked)

        assert supported["x-amz-trailer"] == "x-amz-checksum-crc32"
        assert supported["content-encoding"] == "aws-chunked"
        assert supported["x-amz-content-sha256"] == "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
        assert not {"x-amz-trailer", "content-encoding", "x-amz-sdk-checksum-algorithm"} & {
            *required
        }

    def test_that_do_not_fit_are_unavailable_unless_required_only(self) -> None:
        """What was damaged on its way is read again."""
        damaged = Reply(200, b"mine", {"ETag": '"1"', "x-amz-checksum-crc32": "AAAAAA=="})
        with scripted(lambda _: damaged) as server:
            with pytest.raises(StorageUnavailable, match="checksum"):
                S3Storage(at(server.url)).read(URI, max_bytes=10)
            lenient = S3Storage(at(server.url, s3_checksums="when_required"))
            assert lenient.read(URI, max_bytes=10).data == b"mine"


def deny(s3: "S3Client", bucket: str, *actions: str) -> None:
    """Forbid everybody some actions on a bucket's objects."""
    everything = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": list(actions),
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }
    policy = {"Version": "2012-10-17", "Statement": [everything]}
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


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
