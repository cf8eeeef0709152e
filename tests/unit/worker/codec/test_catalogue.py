"""Every kind of file that people send, within a limit on memory and without a device."""

import pickle
import subprocess
import sys

import pytest
from PIL import Image
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
for name, data, comes_to in files:
    for act, fine in (
        (lambda: read_header(data, complete=True), {"succeeded", comes_to}),
        (lambda: decode(data, limits), {comes_to}),
    ):
        try:
            act()
            outcome = "succeeded"
        except TwofoldError as error:
            outcome = error.code
        except MemoryError:
            outcome = "out of memory"
        if outcome not in fine:
            print(name)
"""


def over_the_limit(files: list[tuple[str, bytes, str]], room: int) -> list[str]:
    """The names of files that take more memory than that, and so come to something else.

    A library that gets no memory may say that the file is damaged.
    """
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
    assert over_the_limit([(one.name, one.make(), one.comes_to) for one in CATALOGUE], ROOM) == []


def test_a_header_takes_no_room_for_the_picture_that_it_promises() -> None:
    """Not even where the orientation has to be looked for behind the pixels."""
    flat = Image.new("RGB", (12_000, 12_000))
    data = saved(flat, "WEBP", lossless=True, quality=0, method=0, exif=turned(6))
    assert over_the_limit([("flat", data, "too_large")], ROOM) == []


def test_nor_do_the_largest_that_the_limits_allow() -> None:
    largest, ink = scene(2048, 2048), profiles.inks()
    files = [
        ("png", saved(faded(largest), "PNG", compress_level=1)),
        ("webp", saved(faded(largest), "WEBP", method=0, exif=turned(6))),
        ("jpeg", saved(largest.convert("CMYK"), "JPEG", icc_profile=ink, exif=turned(6))),
        ("npy", npy(latents(256, 256).astype(">f8"))),
    ]
    good = [(name, data, "succeeded") for name, data in files]
    assert over_the_limit(good, ROOM_OF_LARGEST) == []


def test_the_limit_on_memory_would_be_seen() -> None:
    tall = next(one for one in CATALOGUE if one.name == "64x2000").make()
    assert over_the_limit([("tall", tall, "succeeded")], 2**12) == ["tall"]
