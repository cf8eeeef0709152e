"""A directory as object store, for one machine: development, tests, or a shared disk."""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, BinaryIO

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import (
    ResultConflict,
    ResultDenied,
    SourceChanged,
    SourceDenied,
    SourceNotFound,
    SourceTooLarge,
)
from twofold_schema.storage.directory_errors import reading, writing
from twofold_schema.storage.folders import files_below, is_hidden, real
from twofold_schema.storage.parts import version_of, whole
from twofold_schema.storage.port import OVERWRITTEN, Capabilities, Content, Entry
from twofold_schema.storage.sidecars import Sidecar, Sidecars
from twofold_schema.storage.signing import SignedRoute

_NO_ROUTE = (
    "{uri} cannot be given a URL: files have none unless TWOFOLD_FILE_URL and "
    "TWOFOLD_FILE_URL_SECRET are set."
)


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file to read from.

    Attributes:
        file: At its start.
        size: In bytes.
        version: As in `Content`.
        path: Where it really lies.
    """

    file: BinaryIO
    size: int
    version: str
    path: Path


class DirectoryStorage:
    """`Storage` over the files below one folder. Links that lead out of it are refused.

    Attributes:
        root: The folder, resolved.
    """

    def __init__(self, root: Path, route: SignedRoute | None = None) -> None:
        """Serve a folder; without a route nothing can be signed."""
        self.root = root.resolve()
        self._route = route
        self._sidecars = Sidecars(self.root)

    @property
    def capabilities(self) -> Capabilities:
        """A link is made by one only; URLs need a route."""
        return Capabilities(
            atomic_create=True, signed_urls=self._route is not None, silence_seconds=0.0
        )

    def read(self, uri: ArtifactUri, *, max_bytes: int) -> Content:
        """A whole file; see `Storage.read`."""
        content = self.read_head(uri, length=max_bytes)
        if not content.complete:
            raise SourceTooLarge(
                f"{uri} has {content.size} bytes; at most {max_bytes} are allowed."
            )
        return content

    def read_head(self, uri: ArtifactUri, *, length: int) -> Content:
        """The first bytes of a file; see `Storage.read_head`."""
        with self.opened(uri) as found, reading(uri):
            return Content(found.file.read(length), found.size, found.version)

    def read_range(self, uri: ArtifactUri, *, start: int, length: int, version: str) -> bytes:
        """A part of a file; see `Storage.read_range`."""
        with self.opened(uri) as found, reading(uri):
            if found.version != version:
                raise SourceChanged(OVERWRITTEN.format(uri=uri))
            found.file.seek(start)
            return found.file.read(length)

    def read_metadata(self, uri: ArtifactUri) -> Mapping[str, str] | None:
        """What is kept with a file; see `Storage.read_metadata`. Files made by hand have none."""
        sidecar = self.read_sidecar(uri)
        return None if sidecar is None else sidecar.metadata

    def read_sidecar(self, uri: ArtifactUri) -> Sidecar | None:
        """Media type and metadata of a file; None for no file. Raises as `read_metadata`."""
        try:
            with self.opened(uri) as found, reading(uri):
                return self._sidecars.find(found.path, found.version)
        except SourceNotFound:
            return None

    @contextmanager
    def opened(self, uri: ArtifactUri) -> Iterator[OpenFile]:
        """A file, open inside the block; raises as `read` before it begins."""
        with reading(uri):
            path = self._inside(uri)
            if not path.is_file():
                # Opening a pipe would wait for its writer.
                raise FileNotFoundError
            file = path.open("rb")
        with file:
            found = os.fstat(file.fileno())
            yield OpenFile(file, found.st_size, version_of(found), path)

    def write_once(
        self,
        uri: ArtifactUri,
        data: bytes | IO[bytes],
        *,
        content_type: str,
        sha256: str,
        metadata: Mapping[str, str],
    ) -> None:
        """Store a file where none is; see `Storage.write_once`."""
        sidecar = Sidecar(content_type, {**metadata, "sha256": sha256})
        file = io.BytesIO(data) if isinstance(data, bytes) else data
        with writing(uri):
            path = self._inside(uri)
            file.seek(0)
            try:
                with whole(path.parent, file) as (part, version):
                    # A link, unlike a rename, fails where a file is: whole, or not at all.
                    os.link(part, path)
            except (FileExistsError, NotADirectoryError):
                version = _expect(uri, path, sha256)
                if self._sidecars.find(path, version).metadata:
                    return
            # After the file: a crash in between leaves one without metadata, not a lie.
            self._sidecars.keep(path, version, sidecar)

    def copy(
        self,
        source: ArtifactUri,
        target: ArtifactUri,
        *,
        content_type: str,
        metadata: Mapping[str, str],
    ) -> None:
        """Copy a file; readers of the target see the old or the new one. See `Storage.copy`."""
        with self.opened(source) as found:
            self.replace(target, found.file, content_type=content_type, metadata=metadata)

    def replace(
        self,
        uri: ArtifactUri,
        data: BinaryIO,
        *,
        content_type: str,
        metadata: Mapping[str, str],
    ) -> None:
        """Store a file over whatever lies there, as a PUT to a signed URL does.

        Raises:
            ResultDenied: It may not be written, or a folder lies there.
            StorageUnavailable: The disk is full, say.
        """
        with writing(uri):
            path = self._inside(uri)
            try:
                with whole(path.parent, data) as (part, version):
                    part.replace(path)
            except (IsADirectoryError, NotADirectoryError, FileExistsError):
                raise ResultDenied(
                    f"{uri} cannot be written: a folder lies there, or a file where a folder must "
                    "be; remove it or use another name."
                ) from None
            self._sidecars.keep(path, version, Sidecar(content_type, metadata))

    def list(self, prefix: ArtifactUri, *, after: ArtifactUri | None = None) -> Iterator[Entry]:
        """The files below a folder; see `Storage.list`."""
        key = prefix.key.rstrip("/") + "/"
        behind = after.key if after else ""
        with reading(prefix):
            folder = self._inside(prefix)
            for name, found in files_below(folder, root=self.root, key=key, after=behind):
                yield Entry(
                    uri=ArtifactUri("file", "", name),
                    size=found.st_size,
                    modified_at=datetime.fromtimestamp(found.st_mtime, UTC),
                )

    def delete(self, uri: ArtifactUri) -> None:
        """Remove a file, and the folders that it leaves empty; see `Storage.delete`.

        The sidecar goes first: what a crash in between leaves is a file, which listings show and
        the next sweep removes. A sidecar without a file would stay for ever.
        """
        with writing(uri):
            path = self._inside(uri)
            # A link goes itself; what it leads to stays, with its sidecar.
            own = real(uri.path.parent) / uri.path.name
            if own.is_dir() and not own.is_symlink():
                return
            if not own.is_symlink():
                self._sidecars.remove(path)
            with suppress(FileNotFoundError, NotADirectoryError):
                own.unlink()
            with suppress(OSError):  # the first that is not empty
                for folder in own.relative_to(self.root).parents[:-1]:
                    (self.root / folder).rmdir()

    def sign_read(self, uri: ArtifactUri, *, expires: timedelta) -> str:
        """A URL of the route; see `Storage.sign_read`."""
        if self._route is None:
            raise SourceDenied(_NO_ROUTE.format(uri=uri))
        with reading(uri):
            path = self._inside(uri).relative_to(self.root)
        return self._route.sign("GET", path.as_posix(), expires=expires)

    def sign_write(self, uri: ArtifactUri, *, content_type: str, expires: timedelta) -> str:
        """A URL of the route; see `Storage.sign_write`."""
        if self._route is None:
            raise ResultDenied(_NO_ROUTE.format(uri=uri))
        with writing(uri):
            path = self._inside(uri).relative_to(self.root)
        return self._route.sign("PUT", path.as_posix(), expires=expires, content_type=content_type)

    def _inside(self, uri: ArtifactUri) -> Path:
        path = real(uri.path)
        if not path.is_relative_to(self.root) or is_hidden(path, self.root):
            raise PermissionError
        return path


def _expect(uri: ArtifactUri, path: Path, sha256: str) -> str:
    """The version of the file that lies there, if it has this content."""
    if path.is_file():
        with path.open("rb") as file:
            version = version_of(os.fstat(file.fileno()))
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return version
    raise ResultConflict(f"Another file lies at {uri}; write under another name.")
