"""All places behind one storage, and no other place."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from tests.conformance.stores import put

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import ResultDenied, SourceDenied
from twofold_schema.settings import StorageSettings
from twofold_schema.storage.places import OpenPlaces
from twofold_schema.storage.port import Storage
from twofold_schema.storage.s3 import S3Storage

MINUTE = timedelta(minutes=1)


def at(endpoint: str, **changes: object) -> StorageSettings:
    return StorageSettings.model_validate({"s3_endpoint_url": endpoint} | changes)


def test_sends_each_uri_where_it_belongs(s3_endpoint: str, bucket: str, tmp_path: Path) -> None:
    places = OpenPlaces(at(s3_endpoint, buckets=bucket, file_root=tmp_path))

    for prefix in (ArtifactUri("s3", bucket, "p"), ArtifactUri.of_file(tmp_path / "p")):
        uri, copied = prefix.child("a"), prefix.child("b")
        put(places, uri, b"mine", job="1")
        places.copy(uri, copied, content_type="image/png", metadata={"job": "2"})

        assert places.read(uri, max_bytes=10).data == b"mine"
        assert places.read_head(uri, length=2).data == b"mi"
        assert places.read_metadata(copied) == {"job": "2"}
        assert [entry.uri for entry in places.list(prefix)] == [uri, copied]
        assert [entry.uri for entry in places.list(prefix, after=uri)] == [copied]
        places.delete(copied)
        assert places.read_metadata(copied) is None
    assert (tmp_path / "p/a").read_bytes() == b"mine"


def test_signs_with_what_the_settings_name(s3_endpoint: str, bucket: str, tmp_path: Path) -> None:
    settings = at(
        s3_endpoint,
        buckets=bucket,
        file_root=tmp_path,
        file_url="https://files.example.com/x/",
        file_url_secret="s" * 16,
        s3_public_endpoint_url="https://s3.example.com",
    )
    places = OpenPlaces(settings)

    for uri, beginning in (
        (ArtifactUri("s3", bucket, "a b"), f"https://s3.example.com/{bucket}/a%20b?"),
        (ArtifactUri.of_file(tmp_path / "a b"), "https://files.example.com/x/a%20b?"),
    ):
        assert places.sign_read(uri, expires=MINUTE).startswith(beginning)
        write = places.sign_write(uri, content_type="image/png", expires=MINUTE)
        assert write.startswith(beginning)


def verbs(uri: ArtifactUri, ours: ArtifactUri) -> dict[type, list[Callable[[Storage], object]]]:
    """Everything that can be asked of a place, and the error of who may not."""
    return {
        SourceDenied: [
            lambda storage: storage.read(uri, max_bytes=10),
            lambda storage: storage.read_head(uri, length=10),
            lambda storage: storage.read_range(uri, start=1, length=10, version="1"),
            lambda storage: storage.read_metadata(uri),
            lambda storage: storage.list(uri),
            lambda storage: storage.sign_read(uri, expires=MINUTE),
            lambda storage: storage.copy(uri, ours, content_type="", metadata={}),
        ],
        ResultDenied: [
            lambda storage: put(storage, uri, b"mine"),
            lambda storage: storage.delete(uri),
            lambda storage: storage.sign_write(uri, content_type="", expires=MINUTE),
            lambda storage: storage.copy(ours, uri, content_type="", metadata={}),
        ],
    }


def test_refuses_every_other_place_to_every_verb(
    s3_endpoint: str, bucket: str, tmp_path: Path
) -> None:
    """Also objects that are there, and that the process may read."""
    root = tmp_path / "root"
    root.mkdir()
    put(S3Storage(at(s3_endpoint)), ArtifactUri("s3", bucket, "object"), b"mine")
    (tmp_path / "object").write_bytes(b"mine")
    places = OpenPlaces(at(s3_endpoint, file_root=root))
    ours = ArtifactUri.of_file(root / "ours")
    put(places, ours, b"ours")

    for uri in (ArtifactUri("s3", bucket, "object"), ArtifactUri.of_file(tmp_path / "object")):
        for denied, asked in verbs(uri, ours).items():
            for verb in asked:
                with pytest.raises(denied, match="TWOFOLD_"):
                    verb(places)
    assert places.read(ours, max_bytes=10).data == b"ours"
    assert (tmp_path / "object").read_bytes() == b"mine"


def test_files_are_closed_where_no_folder_is_named(s3_endpoint: str, tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(b"mine")

    with pytest.raises(SourceDenied, match="TWOFOLD_FILE_ROOT"):
        OpenPlaces(at(s3_endpoint)).read(ArtifactUri.of_file(tmp_path / "object"), max_bytes=9)


def test_copies_within_one_store_only(s3_endpoint: str, bucket: str, tmp_path: Path) -> None:
    places = OpenPlaces(at(s3_endpoint, buckets=bucket, file_root=tmp_path))
    file, object_ = ArtifactUri.of_file(tmp_path / "a"), ArtifactUri("s3", bucket, "a")

    for source, target in ((file, object_), (object_, file)):
        with pytest.raises(ResultDenied, match="within one store"):
            places.copy(source, target, content_type="", metadata={})


@pytest.mark.usefixtures("s3_endpoint")
class TestCapabilities:
    def test_are_what_every_open_place_can(self, tmp_path: Path) -> None:
        files = {"results": tmp_path.as_uri(), "uploads": tmp_path.as_uri(), "file_root": tmp_path}
        signed = {"file_url": "http://127.0.0.1:1", "file_url_secret": "s" * 16}
        looking = {"s3_conditional_writes": False}

        def able(settings: Mapping[str, object]) -> tuple[bool, bool]:
            """Whether names are created atomically, and URLs can be signed."""
            found = OpenPlaces(StorageSettings.model_validate(settings)).capabilities
            return found.atomic_create, found.signed_urls

        assert able({}) == (True, True)
        assert able(looking) == (False, True)
        assert able({"file_root": tmp_path}) == (True, False)
        assert able(files | looking) == (True, False)
        assert able(files | signed) == (True, True)

    def test_say_how_long_a_call_may_wait_in_vain(self, tmp_path: Path) -> None:
        quick = {"s3_timeout_seconds": 1, "s3_attempts": 1}
        files = {"results": tmp_path.as_uri(), "uploads": tmp_path.as_uri(), "file_root": tmp_path}

        def silence(settings: Mapping[str, object]) -> float:
            return OpenPlaces(StorageSettings.model_validate(settings)).capabilities.silence_seconds

        assert silence(quick) == 2 * (1 + 1)
        assert silence(quick | {"file_root": tmp_path}) == silence(quick)
        assert silence(files) == 0
        assert silence({}) > 2 * 5 * 20
