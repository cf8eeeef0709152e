"""Files that appear whole under their name, or not at all."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

#: What files are called until they are whole.
PART = ".part-"
#: How often an emptied folder may vanish under a writer before it gives up.
_VANISHED = 100


def version_of(found: os.stat_result) -> str:
    """What changes whenever a file is written anew."""
    return f"{found.st_mtime_ns}-{found.st_size}"


@contextmanager
def whole(folder: Path, data: IO[bytes]) -> Iterator[tuple[Path, str]]:
    """A whole file under a passing name, and its version; the name is gone after the block."""
    for tries_left in reversed(range(_VANISHED)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=folder, prefix=PART)
            break
        except (FileNotFoundError, FileExistsError):
            # `delete` removes folders that it leaves empty: after they were made, or after they
            # were found and before `mkdir` looks whether what it found is a folder.
            if not tries_left:
                raise
    part = Path(name)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            shutil.copyfileobj(data, file)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
            # The kernel's own stamps are milliseconds apart: too coarse for a version.
            now = time.time_ns()
            os.utime(file.fileno(), ns=(now, now))
            version = version_of(os.fstat(file.fileno()))
        yield part, version
    finally:
        part.unlink(missing_ok=True)
