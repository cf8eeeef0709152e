"""One storage for all places, and only for those that are open."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from threading import Lock
from typing import IO

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import PlaceNotAllowed, ResultDenied, SourceDenied
from twofold_schema.settings import StorageSettings
from twofold_schema.storage.directory import DirectoryStorage
from twofold_schema.storage.port import Capabilities, Content, Entry, Storage
from twofold_schema.storage.signing import SignedRoute


class OpenPlaces:
    """`Storage` that sends each URI where it belongs.

    What the settings do not allow is refused here again, however it came into a row.
    """

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self._s3_lock = Lock()
        self._s3: Storage | None = None

    @cached_property
    def capabilities(self) -> Capabilities:
        """What every open place can do."""
        stores: list[Storage] = []
        if self._settings.places.buckets:
            stores.append(self._connected_s3())
        if self._settings.file_root is not None:
            stores.append(self._directory())
        return Capabilities(
            atomic_create=all(store.capabilities.atomic_create for store in stores),
            signed_urls=all(store.capabilities.signed_urls for store in stores),
            silence_seconds=max(
                (store.capabilities.silence_seconds for store in stores), default=0
            ),
        )

    def read(self, uri: ArtifactUri, *, max_bytes: int) -> Content:
        """See `Storage.read`."""
        return self._for_reading(uri).read(uri, max_bytes=max_bytes)

    def read_head(self, uri: ArtifactUri, *, length: int) -> Content:
        """See `Storage.read_head`."""
        return self._for_reading(uri).read_head(uri, length=length)

    def read_range(self, uri: ArtifactUri, *, start: int, length: int, version: str) -> bytes:
        """See `Storage.read_range`."""
        return self._for_reading(uri).read_range(uri, start=start, length=length, version=version)

    def read_metadata(self, uri: ArtifactUri) -> Mapping[str, str] | None:
        """See `Storage.read_metadata`."""
        return self._for_reading(uri).read_metadata(uri)

    def write_once(
        self,
        uri: ArtifactUri,
        data: bytes | IO[bytes],
        *,
        content_type: str,
        sha256: str,
        metadata: Mapping[str, str],
    ) -> None:
        """See `Storage.write_once`."""
        self._for_writing(uri).write_once(
            uri, data, content_type=content_type, sha256=sha256, metadata=metadata
        )

    def copy(
        self,
        source: ArtifactUri,
        target: ArtifactUri,
        *,
        content_type: str,
        metadata: Mapping[str, str],
    ) -> None:
        """See `Storage.copy`. A target in another store than the source is denied."""
        storage = self._for_reading(source)
        self._for_writing(target)
        if source.scheme != target.scheme:
            raise ResultDenied(
                f"{target} lies in another store than {source}; copy within one store."
            )
        storage.copy(source, target, content_type=content_type, metadata=metadata)

    def list(self, prefix: ArtifactUri, *, after: ArtifactUri | None = None) -> Iterator[Entry]:
        """See `Storage.list`."""
        return self._for_reading(prefix).list(prefix, after=after)

    def delete(self, uri: ArtifactUri) -> None:
        """See `Storage.delete`."""
        self._for_writing(uri).delete(uri)

    def sign_read(self, uri: ArtifactUri, *, expires: timedelta) -> str:
        """See `Storage.sign_read`."""
        return self._for_reading(uri).sign_read(uri, expires=expires)

    def sign_write(self, uri: ArtifactUri, *, content_type: str, expires: timedelta) -> str:
        """See `Storage.sign_write`."""
        return self._for_writing(uri).sign_write(uri, content_type=content_type, expires=expires)

    def _for_reading(self, uri: ArtifactUri) -> Storage:
        try:
            return self._storage(uri)
        except PlaceNotAllowed as refused:
            raise SourceDenied(refused.message) from None

    def _for_writing(self, uri: ArtifactUri) -> Storage:
        try:
            return self._storage(uri)
        except PlaceNotAllowed as refused:
            raise ResultDenied(refused.message) from None

    def _storage(self, uri: ArtifactUri) -> Storage:
        self._settings.places.check(uri)
        return self._connected_s3() if uri.scheme == "s3" else self._directory()

    def _directory(self) -> Storage:
        root, url = self._settings.file_root, self._settings.file_url
        secret = self._settings.file_url_secret
        if root is None:
            raise PlaceNotAllowed
        route = SignedRoute(url=url, secret=secret.get_secret_value()) if url and secret else None
        return DirectoryStorage(root, route)

    def _connected_s3(self) -> Storage:
        # boto3 takes a quarter of a second to import, so that only who talks to S3 pays for it;
        # its clients may be shared between threads, but not made by two at once.
        from twofold_schema.storage.s3 import S3Storage

        with self._s3_lock:
            self._s3 = self._s3 or S3Storage(self._settings)
            return self._s3
