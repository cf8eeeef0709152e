"""The memory of this machine, or of the container that the process is in."""

import os
from pathlib import Path
from typing import Final

_MEMINFO: Final = Path("/proc/meminfo")
_OWN: Final = Path("/proc/self/statm")
_CGROUP: Final = Path("/sys/fs/cgroup")


def total_bytes() -> int:
    """All that the process could ever have."""
    machine = _page_bytes() * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup_limit()
    return machine if limit is None else min(machine, limit)


def free_bytes() -> int | None:
    """What is free now; None where nobody says."""
    free = [size for size in (_available(), _left_in_cgroup()) if size is not None]
    return min(free, default=None)


def held_bytes() -> int:
    """What the process has, shared libraries and all; 0 where nobody says."""
    if not _OWN.is_file():
        return 0
    return int(_OWN.read_text().split()[1]) * _page_bytes()


def _page_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE")


def _available() -> int | None:
    if not _MEMINFO.is_file():
        return None
    entries = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    return int(entries["MemAvailable"].split()[0]) * 1024


def _left_in_cgroup() -> int | None:
    limit, used = _cgroup_limit(), _CGROUP / "memory.current"
    if limit is None or not used.is_file():
        return None
    return min(limit, max(0, limit - int(used.read_text()) + _unused_cache()))


def _unused_cache() -> int:
    """What the kernel keeps of files that nobody reads now: it counts as used, and is free."""
    statistics = _CGROUP / "memory.stat"
    if not statistics.is_file():
        return 0
    entries = dict(line.split() for line in statistics.read_text().splitlines())
    return int(entries.get("inactive_file", 0))


def _cgroup_limit() -> int | None:
    limit = _CGROUP / "memory.max"
    if not limit.is_file() or (most := limit.read_text().strip()) == "max":
        return None
    return int(most)
