"""Pictures drawn by code: "dead leaves" scenes, whose statistics are close to photographs'.

Shapes of power-law sizes hide one another (Lee, Mumford, Huang: "Occlusion models for natural
images", 2001), so edges, smooth regions and textures occur at all scales. Colours come in
clusters, surfaces have gradients, shading and textures, what lies far away is blurred, and thin
lines, strokes and letters lie on top. No picture of anybody else's is used.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Floats: TypeAlias = NDArray[Any]  # float32, but for what is drawn at random
Random: TypeAlias = np.random.Generator

SIDE = 512
_DRAWN = 2 * SIDE  # drawn twice as large, then made smaller: smooth edges
_MOST_LEAVES = 500


def draw(seed: int, number: int) -> NDArray[np.uint8]:
    """One picture of `SIDE` pixels, RGB; the same for the same seed and number."""
    random = np.random.default_rng((seed, number))
    palette = _palette(random)
    canvas = np.empty((_DRAWN, _DRAWN, 3), np.float32)
    canvas[:] = _colour(random, palette)
    ground = _slope(random, _DRAWN, _DRAWN, 0.25) + _texture(random, _DRAWN, _DRAWN)
    canvas += ground[..., None]
    layers = int(random.integers(1, 4))
    for layer in range(layers):
        _leaves(random, canvas, palette, share=random.uniform(0.8, 3.5) / layers)
        if layer < layers - 1 and random.random() < 0.6:
            canvas = _blurred(canvas, 10 ** random.uniform(0, 1.1))
    if random.random() < 0.5:
        _strokes(random, canvas, palette)
    if random.random() < 0.15:
        _letters(random, canvas, palette)
    canvas *= 1 + _slope(random, _DRAWN, _DRAWN, 0.3)[..., None]
    return _photographed(random, canvas)


def draw_all(folder: Path, seed: int, count: int) -> NDArray[np.uint8]:
    """Draw pictures into a file, or map the file where they were drawn before."""
    path = folder / f"pictures-{seed}-{count}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        half_done = path.with_suffix(".half")
        drawn = np.lib.format.open_memmap(
            half_done, mode="w+", dtype=np.uint8, shape=(count, SIDE, SIDE, 3)
        )
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            pictures = pool.map(draw, [seed] * count, range(count), chunksize=8)
            for number, picture in enumerate(pictures):
                drawn[number] = picture
        drawn.flush()
        half_done.replace(path)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def _palette(random: Random) -> Floats:
    """A few clusters of colours around greys and earths, some strong ones."""
    count = int(random.integers(3, 9))
    grey = random.uniform(0.02, 0.98, (count, 1))
    spread = random.choice([0.02, 0.06, 0.14, 0.35], (count, 1), p=[0.35, 0.35, 0.2, 0.1])
    tint = random.normal(0, 1, (count, 3)) + random.normal(0, 0.7, (1, 3))
    palette: Floats = np.clip(grey + spread * tint, 0, 1).astype(np.float32)
    return palette


def _colour(random: Random, palette: Floats) -> Floats:
    base = palette[random.integers(len(palette))]
    change = random.normal(0, 0.06) + random.normal(0, 0.02, 3)
    colour: Floats = np.clip(base + change, 0, 1).astype(np.float32)
    return colour


def _slope(random: Random, height: int, width: int, strength: float) -> Floats:
    """A gradient along one direction, now and then bent."""
    angle, bend = random.uniform(0, 2 * np.pi), random.choice([0.0, random.normal(0, 1)])
    down = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    right = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
    along = np.cos(angle) * down + np.sin(angle) * right
    slope: Floats = random.normal(0, strength) * (along + bend * along**2)
    return slope.astype(np.float32)


def _noise(random: Random, height: int, width: int, *, power: float) -> Floats:
    """Noise whose amplitude falls with the frequency's power, of unit deviation."""
    rows = np.fft.fftfreq(height)[:, None]
    columns = np.fft.rfftfreq(width)[None, :]
    stretch = 10 ** random.uniform(-0.7, 0.7) if random.random() < 0.4 else 1.0
    angle = random.uniform(0, np.pi)
    first = (np.cos(angle) * rows + np.sin(angle) * columns) * stretch
    second = (np.cos(angle) * columns - np.sin(angle) * rows) / stretch
    frequency = np.sqrt(first**2 + second**2)
    amplitude = 1 / np.maximum(frequency, 2 / max(height, width)) ** power
    white = np.fft.rfft2(random.normal(0, 1, (height, width)))
    noise: Floats = np.fft.irfft2(white * amplitude, (height, width))
    noise = (noise - noise.mean()) / (noise.std() + 1e-6)
    return noise.astype(np.float32)


def _texture(random: Random, height: int, width: int) -> Floats:
    """What a surface adds to its colour, one channel."""
    kind = random.random()
    strength = 10 ** random.uniform(-1.9, -0.75)
    if kind < 0.3:
        return np.zeros((height, width), np.float32)
    if kind < 0.75:
        return strength * _noise(random, height, width, power=random.uniform(0.4, 2.0))
    down, right = np.mgrid[:height, :width].astype(np.float32)
    angle, period = random.uniform(0, np.pi), 10 ** random.uniform(0.7, 1.9)
    along = (np.cos(angle) * down + np.sin(angle) * right) / period
    if random.random() < 0.5:
        along = along + 0.3 * _noise(random, height, width, power=2.0)
    wave: Floats = np.sin(2 * np.pi * along)
    if kind < 0.82:
        across = (np.cos(angle) * right - np.sin(angle) * down) / period
        wave = wave * np.sin(2 * np.pi * across)
    if random.random() < 0.5:
        wave = np.tanh(4 * wave)
    wave = 2 * strength * wave
    return wave.astype(np.float32)


def _outline(random: Random, height: int, width: int) -> Floats:
    """A shape that fills its box, as a mask."""
    box = Image.new("L", (width, height))
    pen = ImageDraw.Draw(box)
    kind = random.random()
    if kind < 0.3:
        pen.ellipse((0, 0, width - 1, height - 1), fill=255)
    elif kind < 0.45:
        pen.rectangle((0, 0, width, height), fill=255)
    else:
        if kind < 0.75:
            corners = int(random.integers(3, 8))
            angles = np.sort(random.uniform(0, 2 * np.pi, corners))
            radii = random.uniform(0.6, 1.0, corners)
        else:
            angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
            radii = np.full(48, 0.75)
            for wave in range(2, 7):
                shift = random.uniform(0, 2 * np.pi)
                radii += random.normal(0, 0.25 / wave) * np.cos(wave * angles + shift)
        points = [
            (width * (0.5 + 0.5 * r * np.cos(a)), height * (0.5 + 0.5 * r * np.sin(a)))
            for a, r in zip(angles, radii, strict=True)
        ]
        pen.polygon(points, fill=255)
    if random.random() < 0.6:
        box = box.rotate(random.uniform(0, 180), resample=Image.Resampling.BILINEAR)
    if random.random() < 0.2:
        box = box.filter(ImageFilter.GaussianBlur(10 ** random.uniform(0, 1)))
    return np.asarray(box, np.float32) / 255


def _leaves(random: Random, canvas: Floats, palette: Floats, *, share: float) -> None:
    """Lay shapes over the canvas, in place, until they would cover this share of it."""
    smallest, largest = 10 ** random.uniform(1.0, 2.0), _DRAWN * random.uniform(0.2, 1.0)
    # Sizes whose density falls with the third power look alike at every scale.
    power = random.uniform(1.3, 3.0)
    covered, laid = 0.0, 0
    while covered < share * _DRAWN**2 and laid < _MOST_LEAVES:
        low, high = smallest ** (1 - power), largest ** (1 - power)
        size = (low + random.random() * (high - low)) ** (1 / (1 - power))
        _leaf(random, canvas, palette, size)
        covered, laid = covered + 0.6 * size**2, laid + 1


def _leaf(random: Random, canvas: Floats, palette: Floats, size: float) -> None:
    aspect = np.exp(random.normal(0, 0.5))
    height = int(np.clip(size * aspect, 3, 1.5 * _DRAWN))
    width = int(np.clip(size / aspect, 3, 1.5 * _DRAWN))
    top, left = (int(random.uniform(-side / 2, _DRAWN - side / 2)) for side in (height, width))
    mask = _outline(random, height, width)
    fill = np.empty((height, width, 3), np.float32)
    fill[:] = _colour(random, palette)
    grain = _texture(random, height, width) + _slope(random, height, width, 0.25)
    tint = 1 + random.normal(0, 0.25, 3) if random.random() < 0.4 else np.ones(3)
    fill += grain[..., None] * tint.astype(np.float32)
    if random.random() < 0.3:  # lit like a ball
        down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] - random.uniform(-0.6, 0.6)
        right = np.linspace(-1, 1, width, dtype=np.float32)[None, :] - random.uniform(-0.6, 0.6)
        fill *= (1.1 - random.uniform(0.1, 0.6) * (down**2 + right**2))[..., None]
    if random.random() < 0.2 and size > 24:  # a shadow under it
        reach = int(size / 8) + 1
        soft = Image.fromarray((mask * 255).astype(np.uint8)).filter(
            ImageFilter.GaussianBlur(reach / 2)
        )
        shade = np.asarray(soft, np.float32)[..., None] / 255
        _lay(canvas, top + reach, left + reach, shade * random.uniform(0.2, 0.7), None)
    _lay(canvas, top, left, mask[..., None], fill)


def _lay(canvas: Floats, top: int, left: int, mask: Floats, fill: Floats | None) -> None:
    """Mix a fill, or darkness, into the canvas where the mask says."""
    height, width = mask.shape[:2]
    rows = slice(max(0, -top), min(height, canvas.shape[0] - top))
    columns = slice(max(0, -left), min(width, canvas.shape[1] - left))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    under = canvas[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop]
    share = mask[rows, columns]
    under *= 1 - share
    if fill is not None:
        under += share * fill[rows, columns]


def _blurred(canvas: Floats, radius: float) -> Floats:
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def _strokes(random: Random, canvas: Floats, palette: Floats) -> None:
    """Hairs, wires and straight lines: bundles of thin curves."""
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(int(random.integers(1, 5))):
        colour = _colour(random, palette)
        start, angle = random.uniform(0, _DRAWN, 2), random.uniform(0, 2 * np.pi)
        length, bend = _DRAWN * 10 ** random.uniform(-1.3, 0), random.normal(0, 0.7)
        spread, thick = _DRAWN * 10 ** random.uniform(-1.5, -0.4), int(random.integers(1, 6))
        for _ in range(int(10 ** random.uniform(0, 2.2))):
            turn = angle + random.normal(0, 0.15) + bend * np.linspace(0, 1, 8)
            way = np.stack([np.cos(turn), np.sin(turn)], 1) * length / 8
            points = np.cumsum(way, 0) + start + random.normal(0, spread, 2)
            shade = np.clip(colour + random.normal(0, 0.08), 0, 1)
            pen.line(
                [tuple(point) for point in points],
                fill=tuple(int(255 * channel) for channel in shade),
                width=thick,
            )
    canvas[:] = np.asarray(image, np.float32) / 255


def _letters(random: Random, canvas: Floats, palette: Floats) -> None:
    """Lines of letters without a meaning."""
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(int(random.integers(1, 5))):
        font = ImageFont.load_default(_DRAWN * 10 ** random.uniform(-1.5, -0.7))
        words = "".join(chr(int(code)) for code in random.integers(33, 123, 12))
        shade = tuple(int(255 * channel) for channel in _colour(random, palette))
        corner = random.uniform(-0.1 * _DRAWN, 0.9 * _DRAWN, 2)
        pen.multiline_text((corner[0], corner[1]), f"{words}\n{words[::-1]}", fill=shade, font=font)
    canvas[:] = np.asarray(image, np.float32) / 255


def _photographed(random: Random, canvas: Floats) -> NDArray[np.uint8]:
    """Make it smaller, out of focus now and then, and a little noisy."""
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 2.5)))
    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    pixels: Floats = np.asarray(image, np.float32)
    if random.random() < 0.5:
        grain = random.normal(0, 1, (SIDE, SIDE, 1)) + 0.3 * random.normal(0, 1, (SIDE, SIDE, 3))
        pixels = pixels + random.uniform(0, 3.5) * grain
    whole: NDArray[np.uint8] = np.clip(pixels.round(), 0, 255).astype(np.uint8)
    return whole
