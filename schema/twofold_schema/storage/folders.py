"""The files below a folder of a directory store, as a listing of S3 would give them."""

import os
from collections.abc import Iterator
from pathlib import Path

from twofold_schema.storage.parts import PART
from twofold_schema.storage.sidecars import FOLDER


def real(path: Path) -> Path:
    """Where a path leads once every link on it is followed, whether or not something lies there."""
    # Not Path.resolve: before Python 3.13 it raises RuntimeError on a loop of links.
    return Path(os.path.realpath(path))


def is_hidden(path: Path, root: Path) -> bool:
    """Whether a path below the root is the store's own: of sidecars, or a file in the making."""
    parts = path.relative_to(root).parts
    return parts[:1] == (FOLDER,) or any(part.startswith(PART) for part in parts)


def files_below(
    folder: Path, *, root: Path, key: str, after: str = ""
) -> Iterator[tuple[str, os.stat_result]]:
    """The files below a folder with their keys, in the order of the keys' bytes.

    Links to folders are not followed, and links that lead out of the root not shown. Files may
    come and go meanwhile.

    Args:
        folder: Where.
        root: Of the store, resolved.
        key: Of the folder, ending in a slash.
        after: Begin behind this key.

    Raises:
        PermissionError: A folder may not be read.
    """
    waiting = _begin(folder, root, key, after)
    while waiting:
        name, path = waiting.pop()
        if name.endswith("/"):
            waiting += _begin(path, root, name, after)
        elif found := _stat(path, root):
            yield name, found


def _begin(folder: Path, root: Path, key: str, after: str) -> list[tuple[str, Path]]:
    """What lies in a folder, the last key first; folders' names end in a slash, as in keys."""
    try:
        with os.scandir(folder) as entries:
            found = [
                (f"{key}{entry.name}{'/' if entry.is_dir(follow_symlinks=False) else ''}", entry)
                for entry in entries
                if not is_hidden(Path(entry.path), root) and _has_uri(entry.name)
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    kept = [(name, Path(entry.path)) for name, entry in found if _is_behind(name, after)]
    return sorted(kept, key=lambda pair: pair[0].encode(), reverse=True)


def _has_uri(name: str) -> bool:
    """Whether a URI could name it: no control characters, and valid Unicode."""
    return not any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in name)


def _is_behind(name: str, after: str) -> bool:
    """Whether a file, or something in a folder, comes behind a key."""
    if name.endswith("/") and after.startswith(name):
        return True
    return name.encode() > after.encode()


def _stat(path: Path, root: Path) -> os.stat_result | None:
    """What is known of a file; None for one that is gone, no file, or not of this store."""
    try:
        target = real(path)
        if not target.is_file() or not target.is_relative_to(root) or is_hidden(target, root):
            return None
        return target.stat()
    except OSError:
        return None
