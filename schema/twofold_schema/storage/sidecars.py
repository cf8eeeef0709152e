"""What a directory store knows of its files besides their bytes.

Each file has a sidecar: JSON, in a hidden folder of the store, under the digest of the file's
path, so that no name is too long for it and none meets another. A sidecar names the version of
the file that it was written for. One that belongs to an older file, after a crash between the two
or an edit by hand, therefore counts for nothing.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

#: In the root of the store; shown by no listing, named by no URI.
FOLDER = ".metadata"


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What is known of one file.

    Attributes:
        content_type: What the file's writer said that it is.
        metadata: What the writer kept with it.
    """

    content_type: str = "application/octet-stream"
    metadata: Mapping[str, str] = field(default_factory=dict)


class Sidecars:
    """Those of one store.

    A link in their folder that leads out of the store is refused with a PermissionError.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, path: Path, version: str) -> Sidecar:
        """The sidecar of this version of a file; an empty one for none."""
        with suppress(FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            kept = json.loads(self._place(path).read_bytes())
            if kept["version"] == version:
                return Sidecar(kept["content_type"], dict(kept["metadata"]))
        return Sidecar()

    def keep(self, path: Path, version: str, sidecar: Sidecar) -> None:
        """Write a file's sidecar, over an older one."""
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        kept = {
            "path": path.relative_to(self._root).as_posix(),  # for people who look
            "version": version,
            "content_type": sidecar.content_type,
            "metadata": dict(sidecar.metadata),
        }
        descriptor, part = tempfile.mkstemp(dir=place.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
                json.dump(kept, file)
                os.fchmod(file.fileno(), 0o644)
            Path(part).replace(place)
        except BaseException:
            Path(part).unlink()
            raise

    def remove(self, path: Path) -> None:
        """Remove a file's sidecar, if there is one."""
        with suppress(FileNotFoundError, NotADirectoryError):
            self._place(path).unlink()

    def _place(self, path: Path) -> Path:
        digest = hashlib.sha256(os.fsencode(path.relative_to(self._root))).hexdigest()
        place = self._root / FOLDER / digest[:2] / f"{digest}.json"
        if not Path(os.path.realpath(place)).is_relative_to(self._root / FOLDER):
            raise PermissionError(f"{place} leads out of the store; remove that link")
        return place
