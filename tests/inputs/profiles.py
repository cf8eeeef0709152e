"""Colour profiles made by hand (ICC.1:2001-04): small ones whose effect can be told by eye."""

import struct

#: CIE XYZ of the ICC's D50 white.
_D50 = (0.9642, 1.0, 0.8249)


def display_p3() -> bytes:
    """A matrix profile of wide primaries (Apple's Display P3, adapted to D50), gamma 2.2."""
    red, green, blue = (
        (0.51512, 0.24120, -0.00105),
        (0.29198, 0.69225, 0.04189),
        (0.15710, 0.06657, 0.78407),
    )
    curve = _curve(2.2)
    return _profile(
        b"mntr",
        b"RGB ",
        b"XYZ ",
        {
            b"rXYZ": _xyz(red),
            b"gXYZ": _xyz(green),
            b"bXYZ": _xyz(blue),
            b"rTRC": curve,
            b"gTRC": curve,
            b"bTRC": curve,
        },
    )


def linear_grey() -> bytes:
    """Grey whose numbers are light itself, so that 128 is a light grey."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(1.0)})


def inks() -> bytes:
    """CMYK of a press whose cyan ink is green and whose black ink is weak."""
    table = bytearray()
    for number in range(16):  # the first ink varies slowest
        cyan, magenta, yellow, black = ((number >> bit) & 1 for bit in (3, 2, 1, 0))
        lightness = 255 - 60 * cyan - 70 * magenta - 10 * yellow - 80 * black
        a = 128 - 60 * cyan + 60 * magenta
        b = 128 + 30 * cyan - 10 * magenta + 70 * yellow
        table += bytes((max(lightness, 0), max(0, min(a, 255)), max(0, min(b, 255))))
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 if place % 4 == 0 else 0 for place in range(9)))
    header = b"mft1" + bytes(4) + bytes((4, 3, 2, 0))
    lut = header + matrix + identity * 4 + bytes(table) + identity * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut})


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"wtpt": _xyz(_D50), b"desc": _description(), b"cprt": _copyright()} | tags
    index, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        index += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    whole = start + len(body)
    header = (
        struct.pack(">I4sI4s4s4s", whole, b"lcms", 0x02100000, kind, space, connection)
        + struct.pack(">6H", 2026, 11, 24, 0, 0, 0)
        + b"acsp"
        + bytes(28)
        + struct.pack(">3i", *(round(value * 65536) for value in _D50))
    )
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + index + body


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _description() -> bytes:
    text = b"Made for a test\0"
    return b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(8 + 2 + 1 + 67)


def _copyright() -> bytes:
    return b"text" + bytes(4) + b"None\0"
