"""What only a directory can do wrong."""

import io
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from tests.conformance.stores import put
from tests.conformance.table import Observations

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import ResultConflict, ResultDenied, SourceDenied, SourceNotFound
from twofold_schema.storage.directory import DirectoryStorage
from twofold_schema.storage.port import Storage

MINUTE = timedelta(minutes=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def storage(root: Path) -> DirectoryStorage:
    return DirectoryStorage(root)


def at(path: Path) -> ArtifactUri:
    return ArtifactUri.of_file(path)


def listed(storage: Storage, root: Path) -> list[str]:
    return [entry.uri.path.relative_to(root).as_posix() for entry in storage.list(at(root))]


def visible(folder: Path) -> list[str]:
    """What people see who look into the folder."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def sidecars(root: Path) -> list[Path]:
    return [path for path in (root / ".metadata").rglob("*") if path.is_file()]


class TestFiles:
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

        assert visible(tmp_path) == ["object"]
        assert len(sidecars(tmp_path)) == 1
        assert not list(tmp_path.rglob(".part-*"))


class TestLinks:
    def test_that_lead_out_are_denied_to_every_verb(
        self, root: Path, storage: DirectoryStorage
    ) -> None:
        outside = root.parent / "outside"
        outside.mkdir()
        (outside / "secret").write_bytes(b"secret")
        (root / "folder").symlink_to(outside)
        (root / "file").symlink_to(outside / "secret")
        put(storage, at(root / "mine"), b"mine")

        for name in ("folder/secret", "file"):
            uri = at(root / name)
            with pytest.raises(SourceDenied):
                storage.read_metadata(uri)
            with pytest.raises(SourceDenied):
                storage.copy(uri, at(root / "new"), content_type="", metadata={})
            with pytest.raises(ResultDenied):
                storage.copy(at(root / "mine"), uri, content_type="", metadata={})
            with pytest.raises(ResultDenied):
                storage.delete(uri)
        with pytest.raises(SourceDenied):
            list(storage.list(at(root / "folder")))
        assert listed(storage, root) == ["mine"]
        assert (outside / "secret").read_bytes() == b"secret"

    def test_that_stay_inside_are_listed_and_go_alone(
        self, root: Path, storage: DirectoryStorage
    ) -> None:
        put(storage, at(root / "mine"), b"mine")
        (root / "link").symlink_to("mine")
        (root / "gone").symlink_to("nothing")
        (root / "again").symlink_to(".")

        assert listed(storage, root) == ["link", "mine"]
        assert storage.read_metadata(at(root / "link")) == storage.read_metadata(at(root / "mine"))
        storage.delete(at(root / "link"))
        assert listed(storage, root) == ["mine"]
        assert storage.read_metadata(at(root / "mine"))

    @pytest.mark.parametrize("depth", [0, 1, 2])
    def test_in_place_of_sidecars_are_refused(
        self, root: Path, storage: DirectoryStorage, depth: int
    ) -> None:
        """Whoever may write into the folder must not have Twofold write elsewhere."""
        put(storage, at(root / "mine"), b"mine")
        (sidecar,) = sidecars(root)
        planted = [root / ".metadata", sidecar.parent, sidecar][depth]
        outside = root.parent / "outside"
        planted.rename(outside)
        planted.symlink_to(outside)

        with pytest.raises(SourceDenied):
            storage.read_metadata(at(root / "mine"))
        with pytest.raises(ResultDenied):
            storage.copy(at(root / "mine"), at(root / "mine"), content_type="", metadata={})
        with pytest.raises(ResultDenied):
            storage.delete(at(root / "mine"))
        assert outside.exists()


class TestSidecars:
    def test_cannot_be_named_or_listed(self, root: Path, storage: DirectoryStorage) -> None:
        put(storage, at(root / "mine"), b"mine")
        (root / ".part-123").write_bytes(b"half")
        (sidecar,) = sidecars(root)

        for path in (sidecar, root / ".metadata" / "new", root / ".part-123"):
            with pytest.raises(SourceDenied):
                storage.read(at(path), max_bytes=10**6)
            with pytest.raises(ResultDenied):
                put(storage, at(path), b"mine")
            with pytest.raises(ResultDenied):
                storage.delete(at(path))
        assert listed(storage, root) == ["mine"]
        with pytest.raises(SourceDenied):
            list(storage.list(at(root / ".metadata")))

    def test_are_missing_from_files_made_by_hand(
        self, root: Path, storage: DirectoryStorage
    ) -> None:
        (root / "picture.png").write_bytes(b"mine")

        assert storage.read_metadata(at(root / "picture.png")) == {}
        assert listed(storage, root) == ["picture.png"]

    def test_of_an_older_file_count_for_nothing(
        self, root: Path, storage: DirectoryStorage
    ) -> None:
        """After an edit by hand, or a crash before the new sidecar was written."""
        put(storage, at(root / "picture.png"), b"mine")
        (root / "picture.png").write_bytes(b"edited")

        assert storage.read_metadata(at(root / "picture.png")) == {}

    @pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"version": 1}', b"\xff"])
    def test_that_are_damaged_count_for_nothing(
        self, root: Path, storage: DirectoryStorage, damage: bytes
    ) -> None:
        put(storage, at(root / "mine"), b"mine")
        (sidecar,) = sidecars(root)
        sidecar.write_bytes(damage)

        assert storage.read_metadata(at(root / "mine")) == {}

    def test_that_a_crash_left_out_are_written_by_the_next_try(
        self, root: Path, storage: DirectoryStorage
    ) -> None:
        put(storage, at(root / "mine"), b"mine", job="1")
        (sidecar,) = sidecars(root)
        sidecar.unlink()
        assert storage.read_metadata(at(root / "mine")) == {}

        put(storage, at(root / "mine"), b"mine", job="1")

        assert (storage.read_metadata(at(root / "mine")) or {})["job"] == "1"

    def test_go_with_their_file(self, root: Path, storage: DirectoryStorage) -> None:
        put(storage, at(root / "mine"), b"mine")
        storage.delete(at(root / "mine"))

        assert sidecars(root) == []

    def test_bear_the_longest_names(self, root: Path, storage: DirectoryStorage) -> None:
        path = root / ("n" * 240) / ("m" * 255)

        put(storage, at(path), b"mine", job="1")

        assert (storage.read_metadata(at(path)) or {})["job"] == "1"

    def test_survive_a_copy_of_the_whole_folder(
        self, root: Path, storage: DirectoryStorage
    ) -> None:
        put(storage, at(root / "a/mine"), b"mine", job="1")
        moved = root.rename(root.parent / "moved")

        again = DirectoryStorage(moved).read_metadata(at(moved / "a/mine"))

        assert (again or {})["job"] == "1"


class TestFolders:
    def test_that_are_empty_go_and_come_back(self, root: Path, storage: DirectoryStorage) -> None:
        put(storage, at(root / "a/b/c/mine"), b"mine")
        put(storage, at(root / "a/other"), b"mine")

        storage.delete(at(root / "a/b/c/mine"))
        assert visible(root / "a") == ["other"]
        storage.delete(at(root / "a/other"))
        assert visible(root) == []
        put(storage, at(root / "a/b/c/mine"), b"mine")
        assert listed(storage, root) == ["a/b/c/mine"]

    def test_may_go_as_soon_as_a_writer_finds_them(
        self, root: Path, storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def found_then_gone(path: Path, mode: int) -> None:
            monkeypatch.undo()
            raise FileExistsError(path)

        monkeypatch.setattr(os, "mkdir", found_then_gone)

        put(storage, at(root / "a/mine"), b"mine")

        assert os.mkdir is not found_then_gone
        assert listed(storage, root) == ["a/mine"]

    def test_may_be_emptied_under_writers_and_listers(
        self, root: Path, storage: DirectoryStorage
    ) -> None:
        stop = threading.Event()

        def write_and_delete(number: int) -> int:
            uri, rounds = at(root / f"a/b/{number}"), 0
            while not stop.is_set() and rounds < 300:
                put(storage, uri, b"mine")
                storage.delete(uri)
                rounds += 1
            return rounds

        def look() -> None:
            for _ in range(300):
                for entry in storage.list(at(root)):
                    assert entry.size == 4
            stop.set()

        with ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(write_and_delete, number) for number in range(3)]
            pool.submit(look).result()
            assert all(writer.result() for writer in writers)
        assert listed(storage, root) == []
        assert visible(root) == []

    @pytest.mark.parametrize("name", ["folder", "file/below"])
    def test_or_files_in_the_way_of_a_copy_are_denied(
        self, root: Path, storage: DirectoryStorage, name: str
    ) -> None:
        (root / "folder").mkdir()
        (root / "file").write_bytes(b"mine")

        with pytest.raises(ResultDenied, match="another name"):
            storage.copy(at(root / "file"), at(root / name), content_type="", metadata={})
        assert visible(root) == ["file", "folder"]


class TestCopies:
    def test_are_seen_whole_or_not_at_all(self, root: Path, storage: DirectoryStorage) -> None:
        """With a version each, though they have one size and follow at once."""
        for name in "ab":
            put(storage, at(root / name), name.encode() * 100_000)
        target, stop = at(root / "target"), threading.Event()
        storage.copy(at(root / "a"), target, content_type="", metadata={})

        def copies() -> Iterator[str]:
            while not stop.is_set():
                for name in "ab":
                    storage.copy(at(root / name), target, content_type="", metadata={})
                    yield storage.read_head(target, length=1).version

        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(lambda: list(copies()))
            try:
                seen = {storage.read(target, max_bytes=10**6).data for _ in range(200)}
            finally:
                stop.set()
            versions = writer.result()

        assert seen <= {b"a" * 100_000, b"b" * 100_000}
        assert len(set(versions)) == len(versions)

    def test_of_a_folder_are_not_found(self, root: Path, storage: DirectoryStorage) -> None:
        (root / "folder").mkdir()

        with pytest.raises(SourceNotFound):
            storage.copy(at(root / "folder"), at(root / "new"), content_type="", metadata={})


class TestSigning:
    def test_needs_a_route(self, root: Path, storage: DirectoryStorage) -> None:
        assert not storage.capabilities.signed_urls
        with pytest.raises(SourceDenied, match="TWOFOLD_FILE_URL"):
            storage.sign_read(at(root / "mine"), expires=MINUTE)
        with pytest.raises(ResultDenied, match="TWOFOLD_FILE_URL"):
            storage.sign_write(at(root / "mine"), content_type="image/png", expires=MINUTE)

    def test_of_what_lies_outside_is_denied(self, files: DirectoryStorage) -> None:
        for path in (files.root.parent / "outside", files.root / ".metadata/00"):
            with pytest.raises(SourceDenied):
                files.sign_read(at(path), expires=MINUTE)
            with pytest.raises(ResultDenied):
                files.sign_write(at(path), content_type="image/png", expires=MINUTE)


def test_names_that_no_uri_can_have_are_not_listed(root: Path, storage: DirectoryStorage) -> None:
    for name in (b"bad\xff", b"new\nline"):
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(b"mine")
    storage.replace(at(root / "mine"), io.BytesIO(b"mine"), content_type="", metadata={})

    assert listed(storage, root) == ["mine"]


def test_nothing_lies_between_a_process_and_its_files(observations: Observations) -> None:
    """No credentials, no way on which bytes could be damaged: the table says so."""
    for promise in ("credentials", "digest", "checksum", "required"):
        observations.note(promise, "directory", "has none")
