"""One storage for all places, and only for those that are open."""

from collections.abc import Mapping
from threading import Lock

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import PlaceNotAllowed, ResultDenied, SourceDenied
from twofold_schema.settings import StorageSettings
from twofold_schema.storage.directory import DirectoryStorage
from twofold_schema.storage.port import Content, Storage


class OpenPlaces:
    """`Storage` that sends each URI where it belongs.

    What the settings do not allow is refused here again, however it came into a row.
    """

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self._s3_lock = Lock()
        self._s3: Storage | None = None

    def read(self, uri: ArtifactUri, *, max_bytes: int) -> Content:
        """See `Storage.read`."""
        return self._for_reading(uri).read(uri, max_bytes=max_bytes)

    def read_head(self, uri: ArtifactUri, *, length: int) -> Content:
        """See `Storage.read_head`."""
        return self._for_reading(uri).read_head(uri, length=length)

    def write_once(
        self,
        uri: ArtifactUri,
        data: bytes,
        *,
        content_type: str,
        sha256: str,
        metadata: Mapping[str, str],
    ) -> None:
        """See `Storage.write_once`."""
        try:
            storage = self._storage(uri)
        except PlaceNotAllowed as refused:
            raise ResultDenied(refused.message) from None
        storage.write_once(uri, data, content_type=content_type, sha256=sha256, metadata=metadata)

    def _for_reading(self, uri: ArtifactUri) -> Storage:
        try:
            return self._storage(uri)
        except PlaceNotAllowed as refused:
            raise SourceDenied(refused.message) from None

    def _storage(self, uri: ArtifactUri) -> Storage:
        self._settings.places.check(uri)
        if uri.scheme == "s3":
            return self._connected_s3()
        if self._settings.file_root is None:
            raise PlaceNotAllowed
        return DirectoryStorage(self._settings.file_root)

    def _connected_s3(self) -> Storage:
        # boto3 takes a quarter of a second to import, so that only who talks to S3 pays for it;
        # its clients may be shared between threads, but not made by two at once.
        from twofold_schema.storage.s3 import S3Storage

        with self._s3_lock:
            self._s3 = self._s3 or S3Storage(self._settings)
            return self._s3
