"""Every kind of file that people send, within a limit on memory and without a device."""

import pickle
import subprocess
import sys

import pytest
from tests.house import ROOT
from tests.inputs import profiles
from tests.inputs.catalogue import CATALOGUE, Input
from tests.inputs.files import faded, latents, npy, saved, scene, turned

from twofold_schema.errors import TwofoldError
from twofold_schema.lanes import SizeLimits
from twofold_worker.codec.source import decode, read_header

LIMITS = SizeLimits(max_pixels=2048 * 2048, max_side=4096)

#: What a file may add to a process at rest, in bytes: one that is refused, or small; and the
#: largest that the limits allow, 17 MB as Pillow keeps it, of which it and libwebp make copies.
ROOM, ROOM_OF_LARGEST = 64 * 2**20, 160 * 2**20

every_input = pytest.mark.parametrize("one", CATALOGUE, ids=[one.name for one in CATALOGUE])


@every_input
def test_each_comes_to_what_the_catalogue_says(one: Input) -> None:
    data = one.make()
    if one.comes_to != "succeeded":
        with pytest.raises(TwofoldError) as refused:
            decode(data, LIMITS)
        assert refused.value.code == one.comes_to
        assert refused.value.message
        return
    header = read_header(data, complete=True)
    assert header is not None
    assert (header.width, header.height) == decode(data, LIMITS).size == one.size


def test_names_are_unique() -> None:
    assert len({one.name for one in CATALOGUE}) == len(CATALOGUE)


# A process of its own: a limit on memory cannot be taken back, and what one file leaves behind
# must not hide what the next one takes.
_LIMITED = """
import pickle, resource, sys
from pathlib import Path
from twofold_schema.errors import TwofoldError
from twofold_schema.lanes import SizeLimits
from twofold_worker.codec.source import decode, read_header
room, limits, files = pickle.load(sys.stdin.buffer)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))
for name, data in files:
    for act in (lambda: read_header(data, complete=True), lambda: decode(data, limits)):
        try:
            act()
        except TwofoldError:
            pass
        except MemoryError:
            print(name)
"""


def over_the_limit(files: list[tuple[str, bytes]], room: int) -> list[str]:
    """The names of files that take more memory than that."""
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED],
        input=pickle.dumps((room, LIMITS, files)),
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return sorted(set(done.stdout.decode().split()))


def test_no_file_takes_more_memory_than_it_may() -> None:
    assert over_the_limit([(one.name, one.make()) for one in CATALOGUE], ROOM) == []


def test_nor_do_the_largest_that_the_limits_allow() -> None:
    largest, ink = scene(2048, 2048), profiles.inks()
    files = [
        ("png", saved(faded(largest), "PNG", compress_level=1)),
        ("webp", saved(faded(largest), "WEBP", method=0, exif=turned(6))),
        ("jpeg", saved(largest.convert("CMYK"), "JPEG", icc_profile=ink, exif=turned(6))),
        ("npy", npy(latents(256, 256).astype(">f8"))),
    ]
    assert over_the_limit(files, ROOM_OF_LARGEST) == []


def test_the_limit_on_memory_would_be_seen() -> None:
    tall = next(one for one in CATALOGUE if one.name == "64x2000").make()
    assert over_the_limit([("tall", tall)], 2**12) == ["tall"]
