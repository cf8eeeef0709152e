"""Manifests: JSONL, one job's request a line, read as they are submitted."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from twofold_producer.submit.request import JobRequest, JsonRequest, is_uri
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import InvalidParameter, SourceUnreadable
from twofold_schema.storage.port import Storage
from twofold_schema.storage.ranges import blocks

#: The longest line, in bytes: a request has 20,000 at most, and every character may be escaped.
_LONGEST_LINE = 2**18
_BLOCK_BYTES = 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a manifest.

    Attributes:
        number: From 1.
        text: Of it; its first `_LONGEST_LINE` bytes and one more where it is too long.
        key: Of a job that states none.
    """

    number: int
    text: bytes
    key: str | None = None

    def request(self) -> JobRequest:
        """What it asks for.

        Raises:
            InvalidParameter: It is no JSON object, or no request.
        """
        fields = self.fields()
        if fields is None:
            raise InvalidParameter(
                f"Line {self.number} is no JSON object of at most {_LONGEST_LINE} bytes; write "
                '{"source": "s3://bucket/key"} and the fields that you need.'
            )
        # A manifest may be a stranger's: it must not make us read our own files.
        if not is_uri(fields.get("source")):
            raise InvalidParameter(
                f"Line {self.number}: source: a manifest's source is a URI, s3://bucket/key or "
                "file:///path."
            )
        try:
            return JsonRequest.of_fields(fields)
        except InvalidParameter as invalid:
            raise InvalidParameter(f"Line {self.number}: {invalid.message}") from None

    def fields(self) -> Mapping[str, Any] | None:
        """Its JSON object; None for anything else."""
        if len(self.text) > _LONGEST_LINE:
            return None
        try:
            fields = json.loads(self.text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(fields, dict):
            return None
        if self.key is not None and fields.get("key") is None:
            fields["key"] = self.key
        return fields


def read_manifest(place: str | PathLike[str], storage: Storage) -> Iterator[Line]:
    """The lines of a manifest, but for empty ones.

    Args:
        place: A URI in storage, or the path of a local file.
        storage: Read a block at a time.

    Raises:
        InvalidUri: The URI is none.
        SourceUnreadable: The local file cannot be read.
        JobError: Storage does not have it, or is away.
    """
    if is_uri(place):
        return lines(blocks(storage, ArtifactUri.parse(place), length=_BLOCK_BYTES))
    return lines(_read(Path(place)))


def _read(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from iter(partial(file.read, _BLOCK_BYTES), b"")
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise SourceUnreadable(f"{str(path)!r} cannot be read: {error}.") from None


def lines(data: Iterable[bytes]) -> Iterator[Line]:
    """The lines of a manifest that comes in blocks, but for empty ones."""
    number, begun = 0, b""
    for block in data:
        *ends, rest = block.split(b"\n")
        for end in ends:
            number += 1
            yield from _line(number, begun + end)
            begun = b""
        # What is too long is known to be so by its first bytes.
        begun = (begun + rest)[: _LONGEST_LINE + 1]
    yield from _line(number + 1, begun)


def _line(number: int, text: bytes) -> Iterator[Line]:
    text = text.removeprefix(_BYTE_ORDER_MARK) if number == 1 else text
    if text.strip():
        yield Line(number, text[: _LONGEST_LINE + 1])
