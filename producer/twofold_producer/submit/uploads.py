"""Sources that the caller hands over rather than points to."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from twofold_producer.submit import latents
from twofold_producer.submit.request import Source
from twofold_schema.artifacts import ArtifactUri, upload_place
from twofold_schema.errors import SourceUnreadable, TooLarge
from twofold_schema.formats import SourceFormat, sniff
from twofold_schema.settings import LimitSettings, StorageSettings
from twofold_schema.storage.port import Storage


@dataclass(frozen=True, slots=True)
class Upload:
    """A source that lies in storage now.

    Attributes:
        size: Width and height in pixels, where known without decoding a file.
        is_latents: Whether it is latents rather than a picture.
    """

    uri: ArtifactUri
    size: tuple[int, int] | None
    is_latents: bool


@dataclass(frozen=True, slots=True)
class _File:
    data: bytes
    form: SourceFormat
    size: tuple[int, int] | None = None


def upload(
    source: Source, storage: Storage, settings: StorageSettings, limits: LimitSettings
) -> Upload:
    """Store a local file, bytes, a PIL image or latents under TWOFOLD_UPLOADS, by its content.

    Raises:
        SourceUnreadable: The file cannot be read, or is of no kind that is taken.
        InvalidLatents: The array is not one picture's latents.
        TooLarge: It is over a limit.
        JobError: Storage refuses it or is away.
    """
    file = _file_of(source, limits)
    sha256 = hashlib.sha256(file.data).hexdigest()
    place = upload_place(settings.uploads_uri, sha256)
    storage.write_once(
        place, file.data, content_type=file.form.media_type, sha256=sha256, metadata={}
    )
    return Upload(place, file.size, file.form.is_latents)


def _file_of(source: Source, limits: LimitSettings) -> _File:
    if isinstance(source, Image.Image):
        limits.check_size(*source.size)
        return _File(_png_of(source), SourceFormat.PNG, source.size)
    if isinstance(source, latents.Tensor):
        size = latents.size_of(source)
        limits.check_size(*size)
        data = latents.encode(source)
        return _File(data, sniff(data) or SourceFormat.SAFETENSORS, size)
    data = source if isinstance(source, bytes) else _read(Path(source))
    if len(data) > limits.max_source_bytes:
        raise TooLarge(
            f"The source has {len(data)} bytes; at most {limits.max_source_bytes} are allowed "
            "(TWOFOLD_MAX_SOURCE_BYTES)."
        )
    name = "These bytes are" if isinstance(source, bytes) else f"{source} is"
    form = sniff(data)
    if form is None:
        raise SourceUnreadable(
            f"{name} no PNG, JPEG or WebP picture and no safetensors or .npy latents; convert it."
        )
    # A WebP is judged by the worker: libwebp makes room for what a header says before anybody can
    # look at it, and these bytes may be a stranger's.
    if form in {SourceFormat.PNG, SourceFormat.JPEG}:
        _check_picture(data, form, limits, name)
    return _File(data, form)


def _png_of(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    try:
        # Without the source's EXIF: the pixels are what the caller sees. Its profile is kept.
        picture.save(buffer, "PNG", compress_level=1, exif=b"")
    except (OSError, SyntaxError, ValueError) as error:
        raise SourceUnreadable(
            f"A PIL image of mode {picture.mode} cannot be stored as PNG ({error}); "
            "convert it to RGB or RGBA."
        ) from None
    return buffer.getvalue()


def _check_picture(data: bytes, form: SourceFormat, limits: LimitSettings, name: str) -> None:
    try:
        with Image.open(io.BytesIO(data), formats=[form.upper()]) as image:
            limits.check_size(*image.size)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as bomb:
        raise TooLarge(f"The picture is too large: {bomb}") from None
    except (OSError, SyntaxError, ValueError):
        raise SourceUnreadable(
            f"{name} damaged, or no still {form.upper()} picture; make it anew."
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise SourceUnreadable(f"{str(path)!r} cannot be read: {error}.") from None
