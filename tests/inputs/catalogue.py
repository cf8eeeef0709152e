"""The catalogue: each kind of file that people send, by name, and what becomes of it.

The table in docs/08-sources-and-results.md is made of it, each row from a job that really ran.
"""

import io
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from tests.inputs import files, profiles
from tests.inputs.files import faded, latents, saved, scene, turned


@dataclass(frozen=True, slots=True)
class Input:
    """A file that somebody sends.

    Attributes:
        name: Short, unique.
        what: For people who know no codec.
        make: Its bytes.
        comes_to: `succeeded`, or the code of the error.
        size: Of a good one, width and height in pixels as the job must see them.
        note: What a person should know about the result.
        suffix: Of the object's name, right or wrong.
    """

    name: str
    what: str
    make: Callable[[], bytes]
    comes_to: str = "succeeded"
    size: tuple[int, int] | None = None
    note: str = ""
    suffix: str = ""


_W, _H = 96, 64
_SIZE = (_W, _H)


def _scene() -> Image.Image:
    return scene(_W, _H)


def _good(name: str, what: str, make: Callable[[], bytes], note: str = "", **more: Any) -> Input:
    return Input(name, what, make, note=note, **{"size": _SIZE} | more)


def _bad(name: str, what: str, make: Callable[[], bytes], code: str, note: str = "") -> Input:
    return Input(name, what, make, code, note=note)


def _few_colours() -> Image.Image:
    return _scene().quantize(8, dither=Image.Dither.NONE)


def _wide(channels: int) -> bytes:
    """A 16-bit PNG of one or three channels."""
    image = np.asarray(_scene().convert("L") if channels == 1 else _scene())
    wide = (image.astype(np.uint16) * 257 + 3).astype(">u2")
    rows = [row.tobytes() for row in wide]
    return files.png(_W, _H, depth=16, colour=0 if channels == 1 else 2, rows=rows)


def _zip(inside: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("latents.npy", inside)
    return file.getvalue()


def _moving(kind: str) -> bytes:
    more = [_scene().rotate(90)]
    return saved(_scene(), kind, save_all=True, append_images=more, duration=100)


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _with(value: float) -> bytes:
    values = latents()
    values[2, 3, 4] = value
    return files.safetensors(values, "F32", (4, 8, 8))


GOOD_PICTURES = [
    _good("png", "PNG, 8 bits", lambda: saved(_scene(), "PNG"), suffix=".png"),
    _good(
        "png-alpha",
        "PNG with transparency",
        lambda: saved(faded(_scene()), "PNG"),
        "transparency is scaled apart and kept; its four channels are never taken for latents",
    ),
    _good("png-grey", "PNG, grey", lambda: saved(_scene().convert("L"), "PNG"), "becomes RGB"),
    _good(
        "png-grey-alpha",
        "PNG, grey with transparency",
        lambda: saved(faded(_scene()).convert("LA"), "PNG"),
        "becomes RGB with transparency",
    ),
    _good("png-1-bit", "PNG, black and white", lambda: saved(_scene().convert("1"), "PNG")),
    _good("png-palette", "PNG with a palette", lambda: saved(_scene().convert("P"), "PNG")),
    _good(
        "png-palette-alpha",
        "PNG with a palette and a transparent colour",
        lambda: saved(_few_colours(), "PNG", transparency=_few_colours().getpixel((90, 32))),
        "transparency is kept",
    ),
    _good("png-16-bit-grey", "PNG, grey, 16 bits", lambda: _wide(1), "rounded to 8 bits"),
    _good("png-16-bit", "PNG, 16 bits a channel", lambda: _wide(3), "cut to 8 bits"),
    _good(
        "png-profile",
        "PNG in another colour space (Display P3)",
        lambda: saved(_scene(), "PNG", icc_profile=profiles.display_p3()),
        "converted to sRGB",
    ),
    _good(
        "png-grey-profile",
        "PNG, grey, with a profile of its own",
        lambda: saved(_scene().convert("L"), "PNG", icc_profile=profiles.linear_grey()),
        "converted to sRGB",
    ),
    _good(
        "png-broken-profile",
        "PNG with a damaged profile",
        lambda: saved(_scene(), "PNG", icc_profile=b"x" * 300),
        "the profile is passed over",
    ),
    _good("jpeg", "JPEG", lambda: saved(_scene(), "JPEG", quality=92), suffix=".jpg"),
    _good(
        "jpeg-progressive", "JPEG, progressive", lambda: saved(_scene(), "JPEG", progressive=True)
    ),
    _good("jpeg-grey", "JPEG, grey", lambda: saved(_scene().convert("L"), "JPEG"), "becomes RGB"),
    _good(
        "jpeg-turned",
        "JPEG of a camera held upright (EXIF orientation 6)",
        lambda: saved(_scene(), "JPEG", exif=turned(6), quality=92),
        "turned upright",
        size=(_H, _W),
    ),
    _good(
        "jpeg-cmyk",
        "JPEG for print (CMYK)",
        lambda: saved(_scene().convert("CMYK"), "JPEG", quality=92),
        "converted to RGB",
    ),
    _good(
        "jpeg-cmyk-profile",
        "JPEG for print with its press's profile",
        lambda: saved(_scene().convert("CMYK"), "JPEG", icc_profile=profiles.inks(), quality=92),
        "converted to sRGB by the profile",
    ),
    _good(
        "jpeg-several",
        "JPEG with more pictures behind it (MPO)",
        lambda: saved(_scene(), "MPO", save_all=True, append_images=[_scene()]),
        "the first counts",
    ),
    _good("webp", "WebP, lossy", lambda: saved(_scene(), "WEBP", quality=90), suffix=".webp"),
    _good("webp-lossless", "WebP, lossless", lambda: saved(_scene(), "WEBP", lossless=True)),
    _good(
        "webp-alpha",
        "WebP with transparency",
        lambda: saved(faded(_scene()), "WEBP", lossless=True),
        "transparency is kept",
    ),
    _good(
        "webp-turned",
        "WebP with EXIF orientation 8",
        lambda: saved(_scene(), "WEBP", exif=turned(8), quality=90),
        "turned upright",
        size=(_H, _W),
    ),
    _good(
        "wrong-name",
        "JPEG that is named and declared as PNG",
        lambda: saved(_scene(), "JPEG", quality=92),
        "what it is, its first bytes say",
        suffix=".png",
    ),
    _good(
        "65x64",
        "a side just over the lattice",
        lambda: saved(scene(65, 64), "PNG"),
        "padded to 128x64, cut to 130x128",
        size=(65, 64),
    ),
    _good("64x2000", "very tall", lambda: saved(scene(64, 2000), "PNG"), size=(64, 2000)),
    _good("1x1", "one pixel", lambda: saved(scene(16, 16).crop((8, 8, 9, 9)), "PNG"), size=(1, 1)),
]

_TALL = latents(8, 12)
_SHAPE = (4, 8, 12)

GOOD_LATENTS = [
    _good(
        "safetensors-f32",
        "safetensors, float32 [4, h, w]",
        lambda: files.safetensors(_TALL, "F32", _SHAPE),
        suffix=".safetensors",
    ),
    _good(
        "safetensors-batch",
        "safetensors, [1, 4, h, w]",
        lambda: files.safetensors(_TALL, "F32", (1, *_SHAPE)),
    ),
    _good(
        "safetensors-f16",
        "safetensors, float16",
        lambda: files.safetensors(_TALL.astype(np.float16), "F16", _SHAPE),
    ),
    _good(
        "safetensors-bf16",
        "safetensors, bfloat16",
        lambda: files.safetensors(files.bfloat16(_TALL), "BF16", _SHAPE),
    ),
    _good("npy-f32", ".npy, float32", lambda: files.npy(_TALL), suffix=".npy"),
    _good(
        "npy-f64", ".npy, float64", lambda: files.npy(_TALL.astype(np.float64)), "becomes float32"
    ),
    _good("npy-big-endian", ".npy, big-endian", lambda: files.npy(_TALL.astype(">f4"))),
    _good(
        "npy-fortran",
        ".npy, columns first (Fortran order)",
        lambda: files.npy(np.asfortranarray(_TALL)),
    ),
    _good(
        "latents-9x8",
        "latents of odd sides",
        lambda: files.npy(latents(8, 9)),
        "padded to 16x8 latents, cut to 144x128 pixels",
        size=(72, 64),
    ),
]

BAD = [
    _bad("empty", "nothing", lambda: b"", "corrupt_source"),
    _bad("text", "a letter", lambda: b"Dear Sir or Madam,", "unsupported_format"),
    _bad("gif", "GIF", lambda: saved(_scene(), "GIF"), "unsupported_format"),
    _bad("tiff", "TIFF", lambda: saved(_scene(), "TIFF"), "unsupported_format"),
    _bad("svg", "SVG", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
    _bad("png-moving", "animated PNG", lambda: _moving("PNG"), "unsupported_format"),
    _bad("webp-moving", "animated WebP", lambda: _moving("WEBP"), "unsupported_format"),
    _bad("png-cut", "PNG cut short", lambda: _cut(saved(_scene(), "PNG")), "corrupt_source"),
    _bad("jpeg-cut", "JPEG cut short", lambda: _cut(saved(_scene(), "JPEG")), "corrupt_source"),
    _bad("webp-cut", "WebP cut short", lambda: _cut(saved(_scene(), "WEBP")), "corrupt_source"),
    _bad("png-bomb", "a PNG of 20 KB that unpacks to half a gigabyte",
         lambda: saved(Image.new("RGB", (13_000, 13_000)), "PNG"), "too_large",
         "refused from its header"),
    _bad("webp-bomb", "a WebP of 30 bytes that says it is 16384x16384",
         lambda: files.webp_canvas(16_384, 16_384), "too_large"),
    _bad("png-text-bomb", "PNG with a text that unpacks to 50 MB",
         lambda: files.png(1, 1, depth=8, colour=0, rows=[b"\0"],
                           before=files.text_chunk(50_000_000)), "corrupt_source"),
    _bad("png-no-palette", "palette PNG without its palette",
         lambda: files.png(2, 1, depth=8, colour=3, rows=[b"\0\1"]), "corrupt_source"),
    _bad("latents-nan", "latents with a NaN", lambda: _with(float("nan")), "invalid_latents"),
    _bad("latents-inf", "latents with an infinite value", lambda: _with(float("inf")),
         "invalid_latents"),
    _bad("latents-wild", "latents with a value of 100,000", lambda: _with(1e5), "invalid_latents"),
    _bad("latents-16", "latents of 16 channels (SD 3, FLUX)",
         lambda: files.npy(np.zeros((16, 8, 8), np.float32)), "invalid_latents"),
    _bad("latents-last", "latents with channels last [h, w, 4]",
         lambda: files.npy(np.zeros((8, 8, 4), np.float32)), "invalid_latents"),
    _bad("latents-several", "latents of two pictures [2, 4, h, w]",
         lambda: files.npy(np.zeros((2, 4, 8, 8), np.float32)), "invalid_latents"),
    _bad("latents-small", "latents of 4x4", lambda: files.npy(np.zeros((4, 4, 4), np.float32)),
         "invalid_latents", "a picture of 32 pixels: submit the picture"),
    _bad("latents-large", "latents that stand for 8192x8192 pixels",
         lambda: files.npy_header(
             "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 1024, 1024), }"),
         "too_large"),
    _bad("latents-integers", "integers", lambda: files.npy(np.zeros((4, 8, 8), np.int64)),
         "invalid_latents"),
    _bad("npy-pixels", ".npy of a picture's pixels, uint8",
         lambda: files.npy(np.zeros((64, 64, 3), np.uint8)), "invalid_latents"),
    _bad("npy-pickled", ".npy with pickled objects",
         lambda: files.npy(np.array([{"a": 1}], dtype=object), allow_pickle=True),
         "invalid_latents"),
    _bad("npy-lying", "a .npy of 128 bytes that says it holds 53 GiB",
         lambda: files.npy_header(
             "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4, 60000, 60000), }"),
         "too_large"),
    _bad("npy-short", ".npy with fewer values than it says",
         lambda: files.npy(latents())[:-4], "corrupt_source"),
    _bad("safetensors-two", "safetensors with two tensors",
         lambda: files.safetensors(
             latents(), "F32", (4, 8, 8),
             mask={"dtype": "F32", "shape": [0], "data_offsets": [1024, 1024]}),
         "invalid_latents"),
    _bad("safetensors-lying", "safetensors whose shape and length differ",
         lambda: files.safetensors(latents(), "F32", (4, 16, 16)), "corrupt_source"),
    _bad("safetensors-header", "safetensors with a header of 2^39 bytes",
         lambda: (2**39).to_bytes(8, "little") + b'{"a":1}' + bytes(64), "invalid_latents"),
    _bad("npz", "NumPy archive (.npz)", lambda: _zip(files.npy(latents())), "unsupported_format",
         "save one array with numpy.save"),
    _bad("pt", "PyTorch file (.pt), a zip of pickles", lambda: _zip(pickle.dumps([1.0])),
         "unsupported_format", "use safetensors: a pickle can run code"),
    _bad("pickle", "pickle", lambda: pickle.dumps({"latents": [1.0] * 64}), "unsupported_format",
         "never loaded: a pickle can run code"),
]  # fmt: skip

CATALOGUE = [*GOOD_PICTURES, *GOOD_LATENTS, *BAD]
