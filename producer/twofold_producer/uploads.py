"""Pictures that the caller hands over rather than points to."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from twofold_producer.request import Source
from twofold_schema.artifacts import ArtifactUri, upload_place
from twofold_schema.errors import SourceUnreadable, TooLarge
from twofold_schema.settings import LimitSettings, StorageSettings
from twofold_schema.storage.port import Storage


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture that lies in storage now.

    Attributes:
        size: Width and height in pixels, where known without decoding a file.
    """

    uri: ArtifactUri
    size: tuple[int, int] | None


def upload(
    source: Source, storage: Storage, settings: StorageSettings, limits: LimitSettings
) -> Upload:
    """Store a local file, bytes or a PIL image under TWOFOLD_UPLOADS, named by its content.

    Raises:
        SourceUnreadable: The file cannot be read, or is not PNG or JPEG.
        TooLarge: It is over a limit.
        JobError: Storage refuses it or is away.
    """
    data, content_type, size = _encoded(source, limits)
    sha256 = hashlib.sha256(data).hexdigest()
    place = upload_place(settings.uploads_uri, sha256)
    storage.write_once(place, data, content_type=content_type, sha256=sha256, metadata={})
    return Upload(place, size)


def _encoded(source: Source, limits: LimitSettings) -> tuple[bytes, str, tuple[int, int] | None]:
    if isinstance(source, Image.Image):
        limits.size.check(*source.size)
        buffer = io.BytesIO()
        try:
            # Without the source's EXIF: the pixels are what the caller sees.
            source.save(buffer, "PNG", compress_level=1, exif=b"")
        except (OSError, SyntaxError, ValueError) as error:
            raise SourceUnreadable(
                f"A PIL image of mode {source.mode} cannot be stored as PNG ({error}); "
                "convert it to RGB or RGBA."
            ) from None
        return buffer.getvalue(), "image/png", source.size
    data = source if isinstance(source, bytes) else _read(Path(source))
    if len(data) > limits.max_source_bytes:
        raise TooLarge(
            f"The picture has {len(data)} bytes; at most {limits.max_source_bytes} are allowed "
            "(TWOFOLD_MAX_SOURCE_BYTES)."
        )
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            limits.size.check(*image.size)
            return data, image.get_format_mimetype() or "application/octet-stream", None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as bomb:
        raise TooLarge(f"The picture is too large: {bomb}") from None
    except (OSError, SyntaxError, ValueError):
        name = "these bytes" if isinstance(source, bytes) else str(source)
        raise SourceUnreadable(f"{name} is not a PNG or JPEG picture; convert it first.") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise SourceUnreadable(f"{str(path)!r} cannot be read: {error}.") from None
