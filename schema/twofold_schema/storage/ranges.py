"""Objects that are too large to be held: read block by block."""

from collections.abc import Iterator

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.storage.port import Storage


def blocks(storage: Storage, uri: ArtifactUri, *, length: int) -> Iterator[bytes]:
    """The bytes of an object, `length` at a time, each in a request of its own.

    Whoever takes his time between them keeps no connection from others.

    Raises:
        SourceNotFound: There is none.
        SourceDenied: It may not be read.
        SourceChanged: It was overwritten meanwhile.
        StorageUnavailable: Storage did not answer in time.
    """
    head = storage.read_head(uri, length=length)
    yield head.data
    start = len(head.data)
    while start < head.size:
        part = storage.read_range(uri, start=start, length=length, version=head.version)
        yield part
        start += len(part)
