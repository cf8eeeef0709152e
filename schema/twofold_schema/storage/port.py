"""What everybody needs of object storage."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, Protocol

from twofold_schema.artifacts import ArtifactUri

#: Why the rest of an object that is read in parts is of no use.
OVERWRITTEN = "{uri} was overwritten while it was read; read it from its start again."

_LONGEST_SIGNED = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of an object, or its first ones.

    Attributes:
        data: At most as many bytes as were asked for.
        size: The whole object's length in bytes.
        version: Changes whenever the object is written with other bytes: an ETag, say.
    """

    data: bytes
    size: int
    version: str

    @property
    def complete(self) -> bool:
        """Whether `data` is the whole object."""
        return len(self.data) >= self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An object in a listing.

    Attributes:
        size: In bytes.
        modified_at: When it was last written, by the store's clock.
    """

    uri: ArtifactUri
    size: int
    modified_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a store can do beyond keeping bytes.

    Attributes:
        atomic_create: Of many writers of one new name at once exactly one wins. Where it is
            False, `write_once` looks before it writes: names that hold fence and run, or the
            content's own digest, need no more.
        signed_urls: Whether `sign_read` and `sign_write` work.
        silence_seconds: How long one call may take at most while the store is silent or refuses:
            whoever watches over its caller must not take that for a hang.
    """

    atomic_create: bool
    signed_urls: bool
    silence_seconds: float


class Storage(Protocol):
    """Objects are read whole or from their start, written once, listed, copied and deleted."""

    @property
    def capabilities(self) -> Capabilities:
        """What this store can do."""

    def read(self, uri: ArtifactUri, *, max_bytes: int) -> Content:
        """A whole object.

        Raises:
            SourceNotFound: There is none.
            SourceDenied: It may not be read.
            SourceTooLarge: It is longer than `max_bytes`; nothing of it was kept.
            StorageUnavailable: Storage did not answer in time.
        """

    def read_head(self, uri: ArtifactUri, *, length: int) -> Content:
        """The first `length` bytes of an object; raises as `read`."""

    def read_range(self, uri: ArtifactUri, *, start: int, length: int, version: str) -> bytes:
        """A part of an object, up to `length` bytes of it.

        Args:
            uri: What.
            start: Below the object's length.
            length: 1 or more.
            version: What `read_head` called its content.

        Raises:
            SourceNotFound: There is none.
            SourceDenied: It may not be read.
            SourceChanged: It has another content by now.
            StorageUnavailable: Storage did not answer in time.
        """

    def read_metadata(self, uri: ArtifactUri) -> Mapping[str, str] | None:
        """What `write_once` or `copy` kept with an object, names in lower case; None for none.

        Raises:
            SourceDenied: It may not be read.
            StorageUnavailable: Storage did not answer in time.
        """

    def write_once(
        self,
        uri: ArtifactUri,
        data: bytes | IO[bytes],
        *,
        content_type: str,
        sha256: str,
        metadata: Mapping[str, str],
    ) -> None:
        """Store an object where none is. An object of the same content there is success.

        Args:
            uri: Where.
            data: What, up to 5 GB; a file that can be sought is read from its start, and never
                held in memory.
            content_type: Its media type.
            sha256: Of `data`, in hex; kept with the metadata under that name.
            metadata: Kept with the object; ASCII, names in lower case.

        Raises:
            ResultDenied: It may not be written.
            ResultConflict: Another content lies there.
            StorageUnavailable: Storage did not answer in time; the object may have been stored.
        """

    def copy(
        self,
        source: ArtifactUri,
        target: ArtifactUri,
        *,
        content_type: str,
        metadata: Mapping[str, str],
    ) -> None:
        """Copy an object within this store, over whatever lies at `target`.

        Raises:
            SourceNotFound: There is no source.
            SourceDenied: It may not be read.
            ResultDenied: The target may not be written.
            StorageUnavailable: Storage did not answer in time; the copy may have been made.
        """

    def list(self, prefix: ArtifactUri, *, after: ArtifactUri | None = None) -> Iterator[Entry]:
        """The objects below `prefix`, in the order of their keys, read page by page.

        Args:
            prefix: What `child` makes names below; an object of just this name is not below it.
            after: Begin behind this one.

        Raises:
            SourceDenied: It may not be listed.
            StorageUnavailable: Storage did not answer in time.
        """

    def delete(self, uri: ArtifactUri) -> None:
        """Remove an object; none there is success.

        Raises:
            ResultDenied: It may not be removed.
            StorageUnavailable: Storage did not answer in time.
        """

    def sign_read(self, uri: ArtifactUri, *, expires: timedelta) -> str:
        """A URL with which anybody can GET the object for a while; it need not exist yet.

        Args:
            uri: What.
            expires: From one second to seven days.

        Raises:
            SourceDenied: There is nothing to sign with.
            ValueError: It would expire too soon or too late.
        """

    def sign_write(self, uri: ArtifactUri, *, content_type: str, expires: timedelta) -> str:
        """A URL with which anybody can PUT an object of this media type, over what lies there.

        Args:
            uri: Where.
            content_type: What the PUT must say that it brings.
            expires: From one second to seven days.

        Raises:
            ResultDenied: There is nothing to sign with.
            ValueError: It would expire too soon or too late.
        """


def whole_seconds(expires: timedelta) -> int:
    """How long a signed URL lives.

    Raises:
        ValueError: It is not from one second to seven days, which is what S3 allows.
    """
    seconds = int(expires.total_seconds())
    if not 1 <= seconds <= _LONGEST_SIGNED:
        raise ValueError("a signed URL lives from one second to seven days")
    return seconds
