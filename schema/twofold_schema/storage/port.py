"""What everybody needs of object storage."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from twofold_schema.artifacts import ArtifactUri


@dataclass(frozen=True, slots=True)
class Head:
    """The first bytes of an object.

    Attributes:
        data: At most as many bytes as were asked for.
        size: The whole object's length in bytes.
    """

    data: bytes
    size: int

    @property
    def complete(self) -> bool:
        """Whether `data` is the whole object."""
        return len(self.data) >= self.size


class Storage(Protocol):
    """Objects are read whole or from their start, and written once."""

    def read(self, uri: ArtifactUri, *, max_bytes: int) -> bytes:
        """The bytes of an object.

        Raises:
            SourceNotFound: There is none.
            SourceDenied: It may not be read.
            SourceTooLarge: It is longer than `max_bytes`; nothing of it was kept.
            StorageUnavailable: Storage did not answer in time.
        """

    def read_head(self, uri: ArtifactUri, *, length: int) -> Head:
        """The first `length` bytes of an object; raises as `read`."""

    def write_once(
        self,
        uri: ArtifactUri,
        data: bytes,
        *,
        content_type: str,
        sha256: str,
        metadata: Mapping[str, str],
    ) -> None:
        """Store an object where none is. An object of the same content there is success.

        Args:
            uri: Where.
            data: What.
            content_type: Its media type.
            sha256: Of `data`, in hex.
            metadata: Kept with the object where the store can; ASCII.

        Raises:
            ResultDenied: It may not be written.
            ResultConflict: Another content lies there.
            StorageUnavailable: Storage did not answer in time; the object may have been stored.
        """
