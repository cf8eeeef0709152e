"""The demonstration: pictures in, pictures twice as large and a before/after sheet out."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps
from rich.console import Console
from rich.progress import Progress

from twofold_producer.producer import Producer
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import TwofoldError
from twofold_schema.job import Job

_CELL, _MARGIN, _CAPTION = 384, 16, 44
_INK, _PAPER = (32, 32, 36), (250, 250, 248)


def run(images: Sequence[Path], out: Path, console: Console) -> tuple[int, Path | None]:
    """Upscale pictures into a folder: `<name>-x2.png` each, and `sheet.png`.

    What is there is never written over: names that are taken get a number.

    Args:
        images: PNG or JPEG files; none for three drawn ones.
        out: The folder, made if it is missing.
        console: Gets the progress and the errors.

    Returns:
        How many pictures failed, each of which was named on the console; and the sheet, if any
        did not.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = list(images) or _draw(out / "pictures")
    failures, waiting = 0, {}
    with Producer() as producer, Progress(console=console, disable=not console.is_terminal) as bar:
        for path in paths:
            try:
                accepted = producer.submit(path, seed=0)
            except TwofoldError as error:
                failures += 1
                console.print(
                    f"{path}: {error.code}: {error.message}", markup=False, soft_wrap=True
                )
            else:
                waiting[accepted.job_id] = path
        task = bar.add_task("Upscaling", total=len(waiting))
        ended = producer.wait(
            list(waiting), on_progress=lambda done, _: bar.update(task, completed=done)
        )
        pairs = []
        for job in ended:
            path = waiting[job.id]
            if job.result is None:
                failures += 1
                reason = f"{job.error.code}: {job.error.message}" if job.error else job.state
                console.print(f"{path}: {reason}", markup=False, soft_wrap=True)
            else:
                pairs.append((path, _fetch(producer, job, out, f"{path.stem}-x2"), job))
    sheet = _store(out, "sheet", _encoded(_sheet(pairs))) if pairs else None
    return failures, sheet


def _fetch(producer: Producer, job: Job, folder: Path, stem: str) -> Path:
    if job.result is None:
        raise ValueError(f"job {job.id} has no result")
    uri = ArtifactUri.parse(job.result.uri)
    data = producer.storage.read(uri, max_bytes=job.result.size_bytes).data
    return _store(folder, stem, data)


def _store(folder: Path, stem: str, data: bytes) -> Path:
    """Write a picture under a name that is free, or find it there as it is.

    Nothing is written over: the folder may be one of the user's own, with the sources in it.
    """
    path, number = folder / f"{stem}.png", 1
    while True:
        try:
            with path.open("xb") as file:
                file.write(data)
        except FileExistsError:
            if not path.is_file() or path.read_bytes() != data:
                number += 1
                path = folder / f"{stem}-{number}.png"
                continue
        return path


def _encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _sheet(pairs: Sequence[tuple[Path, Path, Job]]) -> Image.Image:
    """One row per picture: as it was and as it became, drawn at one size."""
    rows = [(_fitted(before), _fitted(after), job) for before, after, job in pairs]
    height = sum(before[0].height + _CAPTION + _MARGIN for before, _, _ in rows)
    sheet = Image.new("RGB", (2 * _CELL + 3 * _MARGIN, height + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    top = _MARGIN
    for before, after, job in rows:
        made_by = f"made by the {job.result.model} model" if job.result else ""
        for column, ((shown, name), label) in enumerate(((before, "before"), (after, made_by))):
            left = _MARGIN + column * (_CELL + _MARGIN)
            sheet.paste(shown, (left, top), shown)
            at = (left, top + before[0].height + 4)
            draw.text(at, f"{name}\n{label}", fill=_INK, font=font)
        top += before[0].height + _CAPTION + _MARGIN
    return sheet


def _fitted(path: Path) -> tuple[Image.Image, str]:
    """A picture in the width of a cell, and its name and size."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        shown = upright.convert("RGBA")
    name = f"{path.stem}, {shown.width} x {shown.height}"
    scale = _CELL / max(shown.size)
    size = (max(1, round(shown.width * scale)), max(1, round(shown.height * scale)))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return shown.resize(size, how), name


def _draw(folder: Path) -> list[Path]:
    """Three pictures that nobody else owns: hills, rings and letters."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = (("hills", _hills()), ("rings", _rings()), ("letters", _letters()))
    return [_store(folder, name, _encoded(picture)) for name, picture in drawn]


def _hills() -> Image.Image:
    width, height = 384, 256
    picture = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    picture = ImageChops.add(picture, Image.new("RGB", picture.size, (90, 110, 40)))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((260, 28, 328, 96), fill=(255, 214, 120))
    for row, colour in enumerate(((110, 130, 160), (84, 120, 96), (52, 84, 60))):
        top, wave = 140 + 40 * row, 34 + 18 * row
        ridge = [(x, top + 24 * math.sin(x / wave + row)) for x in range(width)]
        draw.polygon([(0, height), *ridge, (width, height)], fill=colour)
    return picture.filter(ImageFilter.SMOOTH)


def _rings() -> Image.Image:
    picture = Image.new("RGB", (256, 256), (244, 240, 232))
    draw = ImageDraw.Draw(picture)
    for ring in range(7, 0, -1):
        shade = (30 + 28 * ring, 90, 250 - 28 * ring) if ring % 2 else (244, 240, 232)
        reach = 16 * ring
        draw.ellipse((128 - reach, 128 - reach, 128 + reach, 128 + reach), fill=shade)
    return picture


def _letters() -> Image.Image:
    picture = Image.new("RGB", (320, 200), (28, 40, 56))
    draw = ImageDraw.Draw(picture)
    draw.text((24, 16), "Twofold", fill=(255, 255, 255), font=ImageFont.load_default(64))
    draw.text((24, 104), "x2, x2, x2", fill=(255, 180, 90), font=ImageFont.load_default(36))
    draw.line((24, 168, 296, 168), fill=(120, 200, 255), width=2)
    return picture
