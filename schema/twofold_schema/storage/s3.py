"""S3 and what speaks like it."""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import (
    ResultConflict,
    SourceChanged,
    SourceNotFound,
    SourceTooLarge,
    StorageUnavailable,
)
from twofold_schema.settings import StorageSettings
from twofold_schema.storage.port import OVERWRITTEN, Capabilities, Content, Entry, whole_seconds
from twofold_schema.storage.s3_bucket import Bucket, ask_bucket
from twofold_schema.storage.s3_client import Connections, connect, longest_seconds
from twofold_schema.storage.s3_errors import (
    DENIED,
    EMPTY_OBJECT,
    MISSING,
    TAKEN,
    code,
    listing,
    reading,
    writing,
)

if TYPE_CHECKING:
    from botocore.response import StreamingBody

#: What an empty object's ETag is: the answer that there is no such range has none.
_EMPTY_ETAG = '"d41d8cd98f00b204e9800998ecf8427e"'
_RACES = 5
_PAGE_SIZE = 1000
_BLOCK_BYTES = 2**20


class S3Storage:
    """`Storage` over S3. Credentials come from where boto3 looks for them; threads may share it.

    A request takes `s3_client.longest_seconds` at most while S3 is silent or refuses, and waits
    as long for a free connection before; reads take no longer where the answer trickles in.
    `read`, `read_head`, `read_metadata`, `delete` and each page of `list` are one request, `copy`
    is two at most; `write_once` begins nothing more once that long has passed, and ends after five
    times that at most.
    """

    def __init__(self, settings: StorageSettings, *, page_size: int = _PAGE_SIZE) -> None:
        """Connect to nothing yet; `page_size` is that of listings, in keys, 1000 at most."""
        self._client, self._signer = connect(settings)
        self._connections = Connections(settings)
        self._conditional = settings.s3_conditional_writes
        self._seconds = longest_seconds(settings)
        self._page_size = page_size

    @property
    def capabilities(self) -> Capabilities:
        """Whether creating is atomic is a setting: servers do not say."""
        return Capabilities(
            atomic_create=self._conditional,
            signed_urls=True,
            # Waiting for a connection, then for an answer.
            silence_seconds=2 * self._seconds,
        )

    def read(self, uri: ArtifactUri, *, max_bytes: int) -> Content:
        """A whole object; see `Storage.read`."""
        with self._reading(uri) as begun:
            answer = self._client.get_object(Bucket=uri.bucket, Key=uri.key)
            # Not `with answer["Body"]`: that gives urllib3's stream, whose errors are its own.
            with closing(answer["Body"]) as body:
                size = answer["ContentLength"]
                if size > max_bytes:
                    raise SourceTooLarge(
                        f"{uri} has {size} bytes; at most {max_bytes} are allowed."
                    )
                return Content(self._whole(body, uri, begun), size, answer["ETag"])

    def read_head(self, uri: ArtifactUri, *, length: int) -> Content:
        """The first bytes of an object; see `Storage.read_head`."""
        with self._reading(uri) as begun:
            try:
                answer = self._client.get_object(
                    Bucket=uri.bucket, Key=uri.key, Range=f"bytes=0-{length - 1}"
                )
            except ClientError as error:
                if code(error) in EMPTY_OBJECT:
                    return Content(b"", 0, _EMPTY_ETAG)
                raise
            with closing(answer["Body"]) as body:
                data = self._whole(body, uri, begun)
            size = answer.get("ContentRange", "").rpartition("/")[2]
            return Content(data, int(size) if size.isdigit() else len(data), answer["ETag"])

    def read_range(self, uri: ArtifactUri, *, start: int, length: int, version: str) -> bytes:
        """A part of an object; see `Storage.read_range`."""
        with self._reading(uri) as begun:
            try:
                answer = self._client.get_object(
                    Bucket=uri.bucket, Key=uri.key, Range=f"bytes={start}-{start + length - 1}"
                )
            except ClientError as error:
                if code(error) in EMPTY_OBJECT:  # nor is it as long as it was
                    raise SourceChanged(OVERWRITTEN.format(uri=uri)) from None
                raise
            with closing(answer["Body"]) as body:
                if answer["ETag"] != version:
                    raise SourceChanged(OVERWRITTEN.format(uri=uri))
                return self._whole(body, uri, begun)

    def read_metadata(self, uri: ArtifactUri) -> Mapping[str, str] | None:
        """What is kept with an object; see `Storage.read_metadata`."""
        try:
            with self._reading(uri):
                found = self._client.head_object(Bucket=uri.bucket, Key=uri.key)
        except SourceNotFound:
            return None
        return _in_lower_case(found["Metadata"])

    def write_once(
        self,
        uri: ArtifactUri,
        data: bytes | IO[bytes],
        *,
        content_type: str,
        sha256: str,
        metadata: Mapping[str, str],
    ) -> None:
        """Store an object where none is; see `Storage.write_once`."""
        request: dict[str, Any] = {
            "Body": data,
            "ContentType": content_type,
            "Metadata": {**metadata, "sha256": sha256},
        }
        if self._conditional:
            request["IfNoneMatch"] = "*"
        size = len(data) if isinstance(data, bytes) else data.seek(0, os.SEEK_END)
        begun = time.monotonic()
        for _ in range(_RACES):
            if not self._conditional and self._holds(uri, size, sha256):
                return
            if not isinstance(data, bytes):
                data.seek(0)
            if self._put(uri, request) or self._holds(uri, size, sha256):
                return
            if time.monotonic() - begun > self._seconds:
                break
        raise StorageUnavailable(f"{uri} is being written by others; try again.")

    def copy(
        self,
        source: ArtifactUri,
        target: ArtifactUri,
        *,
        content_type: str,
        metadata: Mapping[str, str],
    ) -> None:
        """Copy an object on the server; see `Storage.copy`."""
        with self._writing(target):
            try:
                self._client.copy_object(
                    Bucket=target.bucket,
                    Key=target.key,
                    CopySource={"Bucket": source.bucket, "Key": source.key},
                    ContentType=content_type,
                    Metadata=dict(metadata),
                    MetadataDirective="REPLACE",
                )
            except ClientError as error:
                if code(error) not in DENIED | MISSING:
                    raise
                refused = error
            else:
                return
        # S3 does not say which of the two it refuses: if the source can be read, the target.
        with self._reading(source):
            self._client.head_object(Bucket=source.bucket, Key=source.key)
        with writing(target):
            raise refused

    def list(self, prefix: ArtifactUri, *, after: ArtifactUri | None = None) -> Iterator[Entry]:
        """The objects below a prefix; see `Storage.list`."""
        below = prefix.key.rstrip("/") + "/"
        place: dict[str, Any] = {} if after is None else {"StartAfter": after.key}
        while True:
            with self._connections.one(prefix), listing(prefix):
                page = self._client.list_objects_v2(
                    Bucket=prefix.bucket, Prefix=below, MaxKeys=self._page_size, **place
                )
            for found in page.get("Contents", ()):
                if found["Key"] != below:  # what consoles leave to show a folder
                    uri = ArtifactUri(prefix.scheme, prefix.bucket, found["Key"])
                    yield Entry(uri=uri, size=found["Size"], modified_at=found["LastModified"])
            if not page.get("IsTruncated"):
                return
            place = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, uri: ArtifactUri) -> None:
        """Remove an object; see `Storage.delete`."""
        with self._writing(uri):
            try:
                self._client.delete_object(Bucket=uri.bucket, Key=uri.key)
            except ClientError as error:
                if code(error) != "NoSuchKey":
                    raise

    def ask_bucket(self, name: str) -> Bucket:
        """Whether a bucket is there; see `s3_bucket.ask_bucket`."""
        return ask_bucket(self._client, name)

    def sign_read(self, uri: ArtifactUri, *, expires: timedelta) -> str:
        """A URL to GET an object from, at the public endpoint; see `Storage.sign_read`."""
        seconds = whole_seconds(expires)
        with reading(uri):
            return self._signer.generate_presigned_url(
                "get_object", Params={"Bucket": uri.bucket, "Key": uri.key}, ExpiresIn=seconds
            )

    def sign_write(self, uri: ArtifactUri, *, content_type: str, expires: timedelta) -> str:
        """A URL to PUT an object to, at the public endpoint; see `Storage.sign_write`."""
        seconds = whole_seconds(expires)
        with writing(uri):
            return self._signer.generate_presigned_url(
                "put_object",
                Params={"Bucket": uri.bucket, "Key": uri.key, "ContentType": content_type},
                ExpiresIn=seconds,
            )

    def _put(self, uri: ArtifactUri, request: Mapping[str, Any]) -> bool:
        """Whether the object was stored; not where another lies or is being written."""
        with self._writing(uri):
            try:
                self._client.put_object(Bucket=uri.bucket, Key=uri.key, **request)
            except ClientError as error:
                if code(error) in TAKEN:
                    return False
                raise
        return True

    def _holds(self, uri: ArtifactUri, size: int, sha256: str) -> bool:
        """Whether an object of this content lies there; False for none."""
        with self._writing(uri):
            try:
                found = self._client.head_object(Bucket=uri.bucket, Key=uri.key)
            except ClientError as error:
                if code(error) in MISSING:
                    return False
                raise
            kept = _in_lower_case(found["Metadata"]).get("sha256")
            if kept is None and found["ContentLength"] == size:
                # Somebody else's, or a copy.
                answer = self._client.get_object(Bucket=uri.bucket, Key=uri.key)
                with closing(answer["Body"]) as body:
                    digest = hashlib.sha256()
                    for block in body.iter_chunks(_BLOCK_BYTES):
                        digest.update(block)
                    kept = digest.hexdigest()
        if kept != sha256:
            raise ResultConflict(f"Another object lies at {uri}; write under another name.")
        return True

    def _whole(self, body: "StreamingBody", uri: ArtifactUri, begun: float) -> bytes:
        """What an answer has, unless it trickles in: no silence would end that.

        Raises:
            StorageUnavailable: It takes longer than a request may.
        """
        blocks: list[bytes] = []
        for block in body.iter_chunks(_BLOCK_BYTES):
            blocks.append(block)
            if (took := time.monotonic() - begun) > self._seconds:
                raise StorageUnavailable(
                    f"Of {uri} only {sum(map(len, blocks))} bytes came in {took:.0f} s; try again, "
                    "or raise TWOFOLD_S3_TIMEOUT_SECONDS if the network is no faster."
                )
        return b"".join(blocks)

    @contextmanager
    def _reading(self, uri: ArtifactUri) -> Iterator[float]:
        """Hold a connection; gives when it was there, by the monotonic clock."""
        with self._connections.one(uri), reading(uri):
            yield time.monotonic()

    @contextmanager
    def _writing(self, uri: ArtifactUri) -> Iterator[None]:
        with self._connections.one(uri), writing(uri):
            yield


def _in_lower_case(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): text for name, text in metadata.items()}
