"""A directory as object store, for one machine: development, tests, or a shared disk."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import (
    ResultConflict,
    ResultDenied,
    SourceDenied,
    SourceNotFound,
    SourceTooLarge,
    StorageUnavailable,
)
from twofold_schema.storage.port import Content


class DirectoryStorage:
    """`Storage` over the files below one folder. Links that lead out of it are refused.

    Attributes:
        root: The folder, resolved.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

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
        try:
            with self._file(uri).open("rb") as file:
                found = os.fstat(file.fileno())
                version = f"{found.st_mtime_ns}-{found.st_size}"
                return Content(file.read(length), found.st_size, version)
        except FileNotFoundError:
            raise SourceNotFound(f"{uri} does not exist; store it, then retry the job.") from None
        except PermissionError:
            raise SourceDenied(f"The worker may not read {uri}; grant it read access.") from None
        except OSError as error:
            raise StorageUnavailable(f"{uri} cannot be read now: {error.strerror}.") from error

    def write_once(
        self,
        uri: ArtifactUri,
        data: bytes,
        *,
        content_type: str,  # noqa: ARG002 - a file has a name for that
        sha256: str,
        metadata: Mapping[str, str],  # noqa: ARG002 - files carry none
    ) -> None:
        """Store a file where none is; see `Storage.write_once`."""
        try:
            path = self._inside(uri)
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-") as part:
                part.write(data)
                part.flush()
                os.fsync(part.fileno())
                os.fchmod(part.fileno(), 0o644)
                # A link, unlike a rename, fails where a file is: whole, or not at all.
                os.link(part.name, path)
        except (FileExistsError, NotADirectoryError):
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                raise ResultConflict(f"Another file lies at {uri}.") from None
        except PermissionError:
            raise ResultDenied(f"The worker may not write {uri}; grant it write access.") from None
        except OSError as error:
            raise StorageUnavailable(f"{uri} cannot be written now: {error.strerror}.") from error

    def delete(self, uri: ArtifactUri) -> None:
        """Remove a file; see `Storage.delete`."""
        try:
            self._inside(uri).unlink(missing_ok=True)
        except PermissionError:
            raise ResultDenied(f"The worker may not remove {uri}; grant it write access.") from None
        except OSError as error:
            raise StorageUnavailable(f"{uri} cannot be removed now: {error.strerror}.") from error

    def _file(self, uri: ArtifactUri) -> Path:
        path = self._inside(uri)
        if not path.is_file():
            # Opening a pipe would wait for its writer.
            raise FileNotFoundError
        return path

    def _inside(self, uri: ArtifactUri) -> Path:
        # Not Path.resolve: before Python 3.13 it raises RuntimeError on a loop of links.
        path = Path(os.path.realpath(uri.path))
        if not path.is_relative_to(self.root):
            raise PermissionError
        return path
