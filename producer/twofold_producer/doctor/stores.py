"""The stores behind the settings, as the doctor asks them: soon or not at all."""

import threading
from typing import TYPE_CHECKING

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import PlaceNotAllowed
from twofold_schema.settings import StorageSettings
from twofold_schema.storage.directory import DirectoryStorage
from twofold_schema.storage.port import Storage

if TYPE_CHECKING:
    from twofold_schema.storage.s3 import S3Storage

#: How long S3 may be silent, and how often it is asked: both stay within a check's bound.
_SILENT_SECONDS, _ATTEMPTS = 2.0, 2


class Stores:
    """The stores behind the settings, made when first asked for; may be shared by threads."""

    def __init__(self, settings: StorageSettings) -> None:
        self.settings = settings.model_copy(
            update={
                "s3_timeout_seconds": min(settings.s3_timeout_seconds, _SILENT_SECONDS),
                "s3_attempts": min(settings.s3_attempts, _ATTEMPTS),
            }
        )
        self._lock = threading.Lock()
        self._s3: S3Storage | None = None

    def s3(self) -> "S3Storage":
        """S3, without regard to what is open to jobs."""
        # boto3 takes a quarter of a second to import, and no two clients may be made at once.
        with self._lock:
            if self._s3 is None:
                from twofold_schema.storage.s3 import S3Storage

                self._s3 = S3Storage(self.settings)
            return self._s3

    def of(self, place: ArtifactUri) -> Storage:
        """The store of a place.

        Raises:
            PlaceNotAllowed: It is open to no job.
        """
        self.settings.places.check(place)
        if place.scheme == "s3":
            return self.s3()
        if self.settings.file_root is None:
            raise PlaceNotAllowed
        return DirectoryStorage(self.settings.file_root)
