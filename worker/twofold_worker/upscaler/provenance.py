"""Which files a model is made of, and whether they are those that the hub gave out.

Needs no torch.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from twofold_schema.errors import ConfigError

#: What a revision begins with that names a folder by its files.
DIGEST: Final = "sha256:"
_DIGITS: Final = 16

#: Where the hub's client keeps its records in a folder that it filled: other ones on every host.
_RECORDS: Final = Path(".cache")
_DOWNLOADS: Final = _RECORDS / "huggingface" / "download"
#: What the hub names a large file by; small ones go by git's own, shorter hash.
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def hashes(folder: Path) -> dict[str, str]:
    """The sha256 of each file, in hex, by its name relative to the folder, in order."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        path.as_posix(): _sha256(folder / path)
        for path in sorted(paths)
        if path.parts[0] != _RECORDS.name
    }


def digest(hashed: Mapping[str, str]) -> str:
    """`sha256:` and 16 hex digits over each file's relative name and content, in order."""
    total = hashlib.sha256()
    for name, content in hashed.items():
        total.update(name.encode() + b"\0" + bytes.fromhex(content))
    return f"{DIGEST}{total.hexdigest()[:_DIGITS]}"


def check(folder: Path, found: str, revision: str | None) -> None:
    """Compare a folder's digest with the one in the settings, if there is one.

    Args:
        folder: Of the model.
        found: Its digest.
        revision: TWOFOLD_MODEL_REVISION; a commit says nothing about a folder.

    Raises:
        ConfigError: They differ.
    """
    if revision is not None and revision.startswith(DIGEST) and revision != found:
        raise ConfigError(
            f"TWOFOLD_MODEL: the files of {folder} are {found}, but TWOFOLD_MODEL_REVISION is "
            f"{revision}; fetch the model again, or correct either setting."
        )


def recorded(folder: Path, name: str) -> str | None:
    """The sha256 that the hub recorded of a file when it was fetched; None for no record.

    In the hub's cache a file is a link to a blob that is named by it. In a folder that
    `hf download --local-dir` filled, the second line of the file's record is.
    """
    path = folder / name
    if path.is_symlink():
        named = path.resolve().name
        return named if _SHA256.fullmatch(named) else None
    record = folder / _DOWNLOADS / f"{name}.metadata"
    if not record.is_file():
        return None
    lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[1] if len(lines) > 1 and _SHA256.fullmatch(lines[1]) else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
