"""S3 and what speaks like it."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
)

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import (
    ResultConflict,
    ResultDenied,
    SourceDenied,
    SourceNotFound,
    SourceTooLarge,
    StorageUnavailable,
)
from twofold_schema.settings import StorageSettings
from twofold_schema.storage.port import Content

Answer = TypeVar("Answer")

# botocore raises its own errors, and lets some of the system's through.
_UNREACHABLE: tuple[type[Exception], ...] = (BotoCoreError, OSError)

_MISSING = {"NoSuchKey", "NoSuchBucket", "404"}
_DENIED = {
    "AccessDenied",
    "AllAccessDisabled",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "403",
}
_EXISTS = {"PreconditionFailed", "412"}
_EMPTY_OBJECT = {"InvalidRange", "416"}
#: What an empty object's ETag is: the answer that there is no such range has none.
_EMPTY_ETAG = '"d41d8cd98f00b204e9800998ecf8427e"'
#: Two writers of one key at once; whoever asks again learns who won.
_RACING = {"ConditionalRequestConflict", "409"}
_RACES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """What S3 says of a bucket.

    Attributes:
        found: Whether there is such a bucket.
        listable: Whether it may be listed. Objects may be readable all the same.
        clock: S3's, in whole seconds; None if it does not say.
    """

    found: bool
    listable: bool
    clock: datetime | None


class S3Storage:
    """`Storage` over S3. Credentials come from where boto3 looks for them; threads may share it."""

    def __init__(self, settings: StorageSettings) -> None:
        self._client = boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint_url,
            config=Config(
                connect_timeout=min(10.0, settings.s3_timeout_seconds),
                read_timeout=settings.s3_timeout_seconds,
                retries={"mode": "standard", "total_max_attempts": 3},
                max_pool_connections=64,
                # Other servers than AWS seldom have a host name for every bucket.
                s3={"addressing_style": "path" if settings.s3_endpoint_url else "auto"},
            ),
        )

    def read(self, uri: ArtifactUri, *, max_bytes: int) -> Content:
        """A whole object; see `Storage.read`."""

        def get() -> Content:
            answer = self._client.get_object(Bucket=uri.bucket, Key=uri.key)
            # Not `with answer["Body"]`: that gives urllib3's stream, whose errors are its own.
            with closing(answer["Body"]) as body:
                size = answer["ContentLength"]
                if size > max_bytes:
                    raise SourceTooLarge(
                        f"{uri} has {size} bytes; at most {max_bytes} are allowed."
                    )
                return Content(body.read(), size, answer["ETag"])

        return _reading(uri, get)

    def read_head(self, uri: ArtifactUri, *, length: int) -> Content:
        """The first bytes of an object; see `Storage.read_head`."""

        def get() -> Content:
            try:
                answer = self._client.get_object(
                    Bucket=uri.bucket, Key=uri.key, Range=f"bytes=0-{length - 1}"
                )
            except ClientError as error:
                if _code(error) in _EMPTY_OBJECT:
                    return Content(b"", 0, _EMPTY_ETAG)
                raise
            with closing(answer["Body"]) as body:
                data = body.read()
            size = answer.get("ContentRange", "").rpartition("/")[2]
            return Content(data, int(size) if size.isdigit() else len(data), answer["ETag"])

        return _reading(uri, get)

    def write_once(
        self,
        uri: ArtifactUri,
        data: bytes,
        *,
        content_type: str,
        sha256: str,
        metadata: Mapping[str, str],
    ) -> None:
        """Store an object where none is; see `Storage.write_once`."""

        def put() -> None:
            self._client.put_object(
                Bucket=uri.bucket,
                Key=uri.key,
                Body=data,
                ContentType=content_type,
                Metadata={**metadata, "sha256": sha256},
                IfNoneMatch="*",
            )

        for _ in range(_RACES):
            try:
                return _writing(uri, put)
            except ClientError as error:
                if _code(error) in _EXISTS:
                    return self._expect(uri, sha256)
        raise StorageUnavailable(f"{uri} is being written by others; try again.")

    def delete(self, uri: ArtifactUri) -> None:
        """Remove an object; see `Storage.delete`."""
        _writing(uri, lambda: self._client.delete_object(Bucket=uri.bucket, Key=uri.key))

    def ask_bucket(self, bucket: str) -> Bucket:
        """Whether a bucket is there, as far as these credentials may know.

        Raises:
            SourceDenied: There are no credentials.
            StorageUnavailable: S3 did not answer in time.
        """

        def ask() -> Bucket:
            refusal: str | None = None
            try:
                headers = self._client.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
            except ClientError as error:
                # The answer to a HEAD says no more than its status.
                refusal = _code(error)
                if refusal not in {"403", "404"}:
                    raise
                headers = error.response["ResponseMetadata"]["HTTPHeaders"]
            return Bucket(
                found=refusal != "404",
                listable=refusal is None,
                clock=parsedate_to_datetime(headers["date"]) if "date" in headers else None,
            )

        return _reading(ArtifactUri("s3", bucket, ""), ask)

    def _expect(self, uri: ArtifactUri, sha256: str) -> None:
        found = _writing(
            uri, lambda: self._client.head_object(Bucket=uri.bucket, Key=uri.key)["Metadata"]
        )
        if found.get("sha256") != sha256:
            raise ResultConflict(f"Another object lies at {uri}.")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _reading(uri: ArtifactUri, call: Callable[[], Answer]) -> Answer:
    try:
        return call()
    except ClientError as error:
        code = _code(error)
        if code in _MISSING:
            raise SourceNotFound(f"{uri} does not exist; upload it, then retry the job.") from None
        if code in _DENIED:
            raise SourceDenied(
                f"The worker may not read {uri} ({code}); grant it read access."
            ) from None
        raise StorageUnavailable(f"{uri} cannot be read now: {error}") from error
    except (NoCredentialsError, CredentialRetrievalError) as error:
        raise SourceDenied(f"There are no credentials to read {uri} with: {error}") from error
    except _UNREACHABLE as error:
        raise StorageUnavailable(f"{uri} cannot be read now: {error}") from error


def _writing(uri: ArtifactUri, call: Callable[[], Answer]) -> Answer:
    try:
        return call()
    except ClientError as error:
        if _code(error) in _DENIED | _MISSING:
            raise ResultDenied(
                f"{uri} cannot be written ({_code(error)}); create its bucket and grant the "
                "worker write access."
            ) from None
        if _code(error) in _EXISTS | _RACING:
            raise
        raise StorageUnavailable(f"{uri} cannot be written now: {error}") from error
    except (NoCredentialsError, CredentialRetrievalError) as error:
        raise ResultDenied(f"There are no credentials to write {uri} with: {error}") from error
    except _UNREACHABLE as error:
        raise StorageUnavailable(f"{uri} cannot be written now: {error}") from error
