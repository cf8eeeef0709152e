"""Pictures of how a training goes: its loss curve, and samples side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_WIDTH, _HEIGHT, _MARGIN = 900, 420, 60
_CROP, _UP, _GAP, _CAPTION = 288, 80, 12, 30
_INK, _LINE, _PAPER = (32, 32, 36), (40, 90, 200), (250, 250, 248)


def curve(points: Sequence[tuple[int, float, float]], path: Path) -> None:
    """Draw the loss, on a logarithmic scale, over the steps.

    Args:
        points: Step, seconds and loss.
        path: Where to.
    """
    if len(points) < 2:
        return
    sheet = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    pen = ImageDraw.Draw(sheet)
    steps = np.array([point[0] for point in points])
    losses = np.log10([point[2] for point in points])
    low, high = losses.min(), losses.max() + 1e-9
    right = _MARGIN + (steps / steps[-1]) * (_WIDTH - 2 * _MARGIN)
    down = _HEIGHT - _MARGIN - (losses - low) / (high - low) * (_HEIGHT - 2 * _MARGIN)
    pen.line(list(zip(right.tolist(), down.tolist(), strict=True)), fill=_LINE, width=2)
    frame = (_MARGIN, _MARGIN, _WIDTH - _MARGIN, _HEIGHT - _MARGIN)
    pen.rectangle(frame, outline=_INK)
    pen.text((8, _MARGIN), f"{10**high:.3g}", fill=_INK)
    pen.text((8, _HEIGHT - _MARGIN - 10), f"{10**low:.3g}", fill=_INK)
    last = f"{points[-1][0]} steps, {points[-1][1] / 60:.0f} minutes"
    pen.text((_MARGIN, _HEIGHT - _MARGIN + 8), f"loss, mean of the last seconds; {last}", fill=_INK)
    sheet.save(path)


def samples(columns: Sequence[Tensor], path: Path) -> None:
    """Lay pictures in [-1, 1] side by side: one column for each kind, one row for each picture."""
    wide = [column.clamp(-1, 1).add(1).mul(127.5).round().byte().cpu() for column in columns]
    kinds = [np.concatenate(list(column.permute(0, 2, 3, 1).numpy())) for column in wide]
    Image.fromarray(np.concatenate(kinds, axis=1)).save(path)


def photographs(rows: Sequence[Mapping[str, NDArray[np.uint8]]], path: Path) -> None:
    """Lay the middles of pictures side by side: one row for each, one captioned column a kind.

    Args:
        rows: Pictures, uint8 [side, side, 3], 288 pixels a side or more, by what to call them.
        path: Where to.
    """
    font = ImageFont.load_default(16)
    kinds = list(rows[0])
    width = _GAP + len(kinds) * (_CROP + _GAP)
    height = _GAP + len(rows) * (_CROP + _CAPTION + _GAP)
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for row, pictures in enumerate(rows):
        for column, (kind, pixels) in enumerate(pictures.items()):
            left = _GAP + column * (_CROP + _GAP)
            top = _GAP + row * (_CROP + _CAPTION + _GAP)
            start = (pixels.shape[0] - _CROP) // 2
            high = max(0, start - _UP)
            crop = pixels[high : high + _CROP, start : start + _CROP]
            sheet.paste(Image.fromarray(crop), (left, top))
            pen.text((left, top + _CROP + 4), kind, fill=_INK, font=font)
    sheet.save(path)
