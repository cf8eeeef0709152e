"""What torch's compiler takes of a machine: it lets programs be built, and loads them."""

import os
import shutil
import tempfile
from pathlib import Path

from twofold_schema.errors import ConfigError


def check_compiler(device: str) -> None:
    """Accept a machine on which the UNet can be compiled.

    Args:
        device: The kind of device it is compiled for: `cpu` or `cuda`.

    Raises:
        ConfigError: No compiler of C, or for a CPU of C++, is found; or what it builds may not run
            where it is kept.
    """
    variable, usual = ("CXX", ["g++"]) if device == "cpu" else ("CC", ["gcc", "clang"])
    stated = os.environ.get(variable)
    wanted = [stated] if stated else usual
    if not any(shutil.which(name) for name in wanted):
        raise ConfigError(
            f"TWOFOLD_COMPILE_SIZES takes a compiler, and no {' or '.join(wanted)} is found here; "
            f"install gcc and g++, name one in {variable}, or leave the setting empty."
        )
    folder = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()).absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if os.statvfs(there).f_flag & os.ST_NOEXEC:
        raise ConfigError(
            f"TWOFOLD_COMPILE_SIZES builds programs in {folder}, which is mounted so that none may "
            "run; set TWOFOLD_CACHE_DIR to a folder where they may, or leave the setting empty."
        )
