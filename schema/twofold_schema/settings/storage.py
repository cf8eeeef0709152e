"""Object storage."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from twofold_schema.artifacts import ArtifactUri, Places
from twofold_schema.environment import Settings
from twofold_schema.errors import InvalidUri
from twofold_schema.settings.reading import Seconds
from twofold_schema.tenant_places import OwnPlaces

_MIN_SECRET_LENGTH = 16


class StorageSettings(Settings):
    """Object storage, and the places in it that are open to jobs.

    Attributes:
        results: The prefix under which results are stored.
        uploads: The prefix under which pictures given as files or bytes are stored.
        buckets: Comma-separated S3 buckets that jobs may read from and write to, besides those of
            `results` and `uploads`.
        file_root: A folder that serves as object store; `file:///…` is refused elsewhere.
        file_url: Where the route that serves signed URLs of files begins; empty for no such URLs.
        file_url_secret: What those URLs are signed with; 16 characters or more.
        s3_endpoint_url: Of an S3-compatible server; empty for AWS.
        s3_public_endpoint_url: Where those who are given signed URLs reach the same server; empty
            for `s3_endpoint_url`.
        s3_timeout_seconds: How long S3 may be silent in one try of a request.
        s3_attempts: How often a request to S3 is tried, with growing random pauses in between.
        s3_connections: Requests to S3 that a process has open at once.
        s3_checksums: `when_supported` sends and checks a checksum of every object, `when_required`
            only where S3 demands one; for servers that refuse the first.
        s3_conditional_writes: Whether the server refuses to create a key twice; if not, Twofold
            looks before it writes.
    """

    results: str = "s3://twofold/results"
    uploads: str = "s3://twofold/uploads"
    buckets: str = ""
    file_root: Path | None = None
    file_url: str | None = None
    file_url_secret: Annotated[SecretStr | None, Field(validate_default=True)] = None
    s3_endpoint_url: str | None = None
    s3_public_endpoint_url: str | None = None
    s3_timeout_seconds: Seconds = 20.0
    s3_attempts: Annotated[int, Field(ge=1, le=20)] = 5
    s3_connections: Annotated[int, Field(ge=1, le=1000)] = 64
    s3_checksums: Literal["when_supported", "when_required"] = "when_supported"
    s3_conditional_writes: bool = True

    @field_validator("results", "uploads")
    @classmethod
    def _is_uri(cls, text: str) -> str:
        try:
            return str(ArtifactUri.parse(text))
        except InvalidUri as invalid:
            raise ValueError(invalid.message) from None

    @field_validator("file_url", "s3_endpoint_url", "s3_public_endpoint_url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is not None and not re.match(r"https?://[^/]", url):
            raise ValueError("write http://host:port or https://host")
        return url

    @field_validator("file_url_secret")
    @classmethod
    def _is_long(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is None and info.data.get("file_url") is not None:
            raise ValueError("is needed where TWOFOLD_FILE_URL is set; set it to a random text")
        if secret is not None and len(secret.get_secret_value()) < _MIN_SECRET_LENGTH:
            raise ValueError(f"write {_MIN_SECRET_LENGTH} random characters or more")
        return secret

    @field_validator("file_root")
    @classmethod
    def _is_folder(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{folder} is not a folder")
        return folder and folder.resolve()

    @property
    def results_uri(self) -> ArtifactUri:
        """Where results go unless a job says otherwise."""
        return ArtifactUri.parse(self.results)

    @property
    def uploads_uri(self) -> ArtifactUri:
        """Where the producer puts pictures that it was handed."""
        return ArtifactUri.parse(self.uploads)

    @property
    def own(self) -> OwnPlaces:
        """The places that Twofold itself chooses."""
        return OwnPlaces(uploads=self.uploads_uri, results=self.results_uri)

    @property
    def places(self) -> Places:
        """The places open to jobs."""
        named = {bucket.strip() for bucket in self.buckets.split(",")}
        own = {self.results_uri.bucket, self.uploads_uri.bucket}
        return Places(buckets=frozenset((named | own) - {""}), file_root=self.file_root)
