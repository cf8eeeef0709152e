"""What became of every input, for people to look at. `python -m tests.inputs.page` does it anew.

Runs the whole catalogue as jobs and writes the table in docs/08-sources-and-results.md, and a
sheet of the odd ones with their results, docs/pictures/odd-inputs.png. The tests run the same jobs
and compare each with its row.
"""

import io
import re
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tests.conftest import settings_for
from tests.house import ROOT
from tests.inputs.catalogue import CATALOGUE, Input
from tests.workshop import Workshop

from twofold_producer.dev.postgres import Postgres
from twofold_schema import database
from twofold_schema.job import Job
from twofold_schema.states import JobState

PAGE = ROOT / "docs" / "08-sources-and-results.md"
SHEET = ROOT / "docs" / "pictures" / "odd-inputs.png"

_BEGIN, _END = "<!-- inputs: begin -->\n", "<!-- inputs: end -->\n"
_HEAD = "| what is sent | what comes of it | |\n| --- | --- | --- |\n"

#: The rows of the sheet, and what there is to see.
_ODD = {
    "png-alpha": "fades to the right",
    "webp-alpha": "fades to the right",
    "png-palette-alpha": "one colour of the palette is transparent",
    "jpeg-turned": "a camera held upright",
    "webp-turned": "turned the other way",
    "jpeg-cmyk": "four inks, no profile",
    "jpeg-cmyk-profile": "four inks of a press whose cyan is green",
    "png-profile": "colours of a wider space",
    "png-16-bit": "16 bits a channel",
    "png-16-bit-grey": "16 bits of grey",
    "png-1-bit": "black and white",
    "65x64": "a side just over the lattice",
    "64x2000": "very tall, padded in one direction",
    "1x1": "one pixel",
}
_CELL, _MARGIN, _CAPTION = 176, 12, 34
_COLUMNS = 3
_INK, _PAPER = (32, 32, 36), (250, 250, 248)


def row(one: Input, job: Job) -> str:
    """The line of the table that says what a job came to."""
    if job.state is JobState.SUCCEEDED and job.result is not None:
        came_to = f"{job.result.width}x{job.result.height}"
    else:
        came_to = ", ".join(f"`{error.code}`" for error in job.errors)
    # Without what a library said, which changes with its version.
    message = re.sub(r" \(.*\)", "", job.error.message) if job.error else ""
    return f"| {one.what} | {came_to} | {one.note or message} |\n"


def block(page: str) -> str:
    """The rows as they stand in the page."""
    return page.partition(_BEGIN)[2].partition(_END)[0].removeprefix(_HEAD)


def write() -> None:
    """Run every input, then write the table and the sheet."""
    with Postgres.start() as server, tempfile.TemporaryDirectory() as folder:
        settings = settings_for(server.url, "twofold")
        database.migrate(settings)
        shop = Workshop(database.connect(settings), Path(folder), preview_side=0)
        with shop:
            jobs = {
                one.name: shop.wait_settled(shop.submit(one.make(), suffix=one.suffix))[0]
                for one in CATALOGUE
            }
        page = PAGE.read_text(encoding="utf-8")
        rows = "".join(row(one, jobs[one.name]) for one in CATALOGUE)
        between = re.compile(f"{_BEGIN}.*{_END}", re.DOTALL)
        table = f"{_BEGIN}{_HEAD}{rows}{_END}"
        PAGE.write_text(between.sub(lambda _: table, page), encoding="utf-8")
        SHEET.parent.mkdir(exist_ok=True)
        files = {name: shop.file(jobs[name]) for name in _ODD}
        _sheet(files).save(SHEET, optimize=True)
        shop.engine.dispose()


def _sheet(results: dict[str, bytes]) -> Image.Image:
    inputs = {one.name: one for one in CATALOGUE}
    width = _COLUMNS * (2 * _CELL + 3 * _MARGIN)
    lines = -(-len(results) // _COLUMNS)
    sheet = Image.new("RGB", (width, lines * (_CELL + _CAPTION + _MARGIN) + _MARGIN), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (name, data) in enumerate(results.items()):
        left = number % _COLUMNS * (2 * _CELL + 3 * _MARGIN) + _MARGIN
        top = number // _COLUMNS * (_CELL + _CAPTION + _MARGIN) + _MARGIN
        with Image.open(io.BytesIO(inputs[name].make())) as stored:
            size = f"{stored.width}x{stored.height}, {stored.mode}"
            before = _careless(stored)
        with Image.open(io.BytesIO(data)) as after:
            _put(sheet, before, left, top)
            _put(sheet, after, left + _CELL + _MARGIN, top)
            caption = f"{name}: {_ODD[name]}\n{size}"
            draw.text((left, top + _CELL + 3), caption, fill=_INK, font=font)
            became = f"\n{after.width}x{after.height}, {after.mode}"
            at = (left + _CELL + _MARGIN, top + _CELL + 3)
            draw.text(at, became, fill=_INK, font=font)
    return sheet


def _careless(image: Image.Image) -> Image.Image:
    """The stored numbers as a program shows them that heeds no orientation and no profile."""
    if image.mode == "I;16":
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _put(sheet: Image.Image, image: Image.Image, left: int, top: int) -> None:
    """A picture within a cell, on a chequered ground where it is transparent."""
    scale = _CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = image.convert("RGBA").resize(size, Image.Resampling.NEAREST)
    rows, columns = np.indices((size[1], size[0])) // 8
    ground = np.where((rows + columns) % 2, 235, 200).astype(np.uint8)
    sheet.paste(Image.fromarray(ground).convert("RGB"), (left, top))
    sheet.paste(shown, (left, top), shown)


if __name__ == "__main__":
    write()
