"""Where pictures lie: URIs of objects, which of them are allowed, and the names of results."""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Protocol, Self
from urllib.parse import quote, unquote
from uuid import UUID

from twofold_schema.errors import InvalidUri, PlaceNotAllowed
from twofold_schema.job import Claim, ClaimedJob, Job

#: Stands for the job's id in the names of its results.
JOB = "{job}"

PREVIEW_SUFFIX = ".preview.webp"

_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
#: The id of a job, or of a run, somewhere in a name.
ID = re.compile(_UUID)
#: The last part of a claim's names: fence, run, suffix.
CLAIM_FILE = re.compile(rf"(\d{{1,18}})-({_UUID})\.[a-z.]+")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MAX_KEY_BYTES = 1024
_PLAIN = re.compile(rf"s3://({_BUCKET.pattern})/([A-Za-z0-9_.-][A-Za-z0-9_./=+@-]{{0,999}})")


@dataclass(frozen=True, slots=True)
class ArtifactUri:
    """The place of an object, or of a prefix that objects share.

    Attributes:
        scheme: `s3` or `file`.
        bucket: The S3 bucket; empty for `file`.
        key: The S3 key, or the absolute path without its first slash. Taken literally: an S3
            URI is not percent-decoded.
    """

    scheme: str
    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `s3://bucket/key` or `file:///path`.

        Raises:
            InvalidUri: It is neither, or climbs with `..`, or holds control characters.
        """
        # Most are plain, and one look is cheaper than all that follows.
        plain = _PLAIN.fullmatch(text)
        if plain is not None and ".." not in text:
            return cls("s3", plain[1], plain[2])
        return cls._parse(text)

    @classmethod
    def _parse(cls, text: str) -> Self:
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in {"s3", "file"}:
            raise InvalidUri(f"{text!r} is not a place: write s3://bucket/key or file:///path.")
        bucket, _, key = rest.partition("/")
        if scheme == "file":
            key = unquote(key)
        if _CONTROL.search(text) or (scheme == "file" and _CONTROL.search(key)):
            raise InvalidUri(f"{text!r} holds control characters; rename the object.")
        if scheme == "s3" and not _BUCKET.fullmatch(bucket):
            raise InvalidUri(f"{bucket!r} in {text!r} is not the name of an S3 bucket.")
        if scheme == "file" and bucket:
            raise InvalidUri(f"{text!r} names a host; a file needs three slashes: file:///path.")
        if not key.strip("/"):
            raise InvalidUri(f"{text!r} names no object; add its key.")
        try:
            too_long = len(key.encode()) > _MAX_KEY_BYTES
        except UnicodeEncodeError:
            raise InvalidUri(f"{text!r} is not valid Unicode; rename the object.") from None
        if too_long:
            raise InvalidUri(f"The key of {text[:60]!r}… is over {_MAX_KEY_BYTES} bytes.")
        if ".." in key and ".." in PurePosixPath(key).parts:
            raise InvalidUri(f"{text!r} climbs with '..'; write the place it leads to.")
        return cls(scheme, bucket, key)

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """The URI of a file on this machine."""
        return cls("file", "", path.absolute().as_posix().removeprefix("/"))

    @property
    def path(self) -> Path:
        """The path of a `file` URI."""
        return Path("/") / self.key

    def child(self, name: str) -> "ArtifactUri":
        """The place `name` below this prefix."""
        return ArtifactUri(self.scheme, self.bucket, f"{self.key.rstrip('/')}/{name}")

    def __str__(self) -> str:
        if self.scheme == "file":
            return f"file:///{quote(self.key)}"
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class Places:
    """The places that are open to jobs.

    Attributes:
        buckets: Names of S3 buckets.
        file_root: The folder under which `file:///…` is allowed; None for nowhere.
    """

    buckets: Collection[str]
    file_root: Path | None = None

    def check(self, uri: ArtifactUri) -> None:
        """Accept a place.

        Raises:
            PlaceNotAllowed: It is outside.
        """
        if uri.scheme == "s3":
            if uri.bucket not in self.buckets:
                raise PlaceNotAllowed(
                    f"The bucket of {uri} is not open to Twofold; add it to TWOFOLD_BUCKETS "
                    "or use another."
                )
        elif self.file_root is None or not uri.path.is_relative_to(self.file_root):
            raise PlaceNotAllowed(
                f"{uri} is not under TWOFOLD_FILE_ROOT ({self.file_root or 'not set'}); "
                "move the file there or use S3."
            )


def result_place(job: ClaimedJob | Job, claim: Claim) -> ArtifactUri:
    """Where a claim stores its result: no two claims ever share it."""
    return _of_claim(job, claim, job.output.format.suffix)


def preview_place(job: ClaimedJob | Job, claim: Claim) -> ArtifactUri:
    """Where a claim stores the small picture of its result."""
    return _of_claim(job, claim, PREVIEW_SUFFIX)


def looks_claimed(uri: ArtifactUri) -> bool:
    """Whether a name has the shape of those that claims store under: an id, then fence and run."""
    folder, _, name = uri.key.rpartition("/")
    return CLAIM_FILE.fullmatch(name) is not None and ID.search(folder) is not None


class Publishing(Protocol):
    """A job, or what is said of one."""

    @property
    def id(self) -> UUID:
        """Of the job."""

    @property
    def publish_to(self) -> str | None:
        """The template of the name; None for no copy."""


def publish_place(job: Publishing) -> ArtifactUri | None:
    """The name to which the result is copied once the job has succeeded, if it wants one."""
    if job.publish_to is None:
        return None
    # Read first: braces are percent-encoded in the URI of a file.
    place = ArtifactUri.parse(job.publish_to)
    return replace(place, key=place.key.replace(JOB, str(job.id)))


def upload_place(uploads: ArtifactUri, sha256: str) -> ArtifactUri:
    """Where a producer puts a source that it was handed: named by its content, so once only."""
    return uploads.child(f"{sha256[:2]}/{sha256}")


def tenant_upload_place(uploads: ArtifactUri, tenant: str, name: str) -> ArtifactUri:
    """Where a tenant puts a source by itself, in a folder that no other tenant is given.

    Args:
        uploads: The prefix under which sources are stored.
        tenant: Whose it is.
        name: A new id; or the SHA-256 of the content, under which the same source lies once.
    """
    digest = hashlib.sha256(tenant.encode()).hexdigest()
    return uploads.child(f"tenants/{digest[:32]}/{name}")


def manifest_place(
    results: ArtifactUri, submission_id: UUID, generation: int, name: str
) -> ArtifactUri:
    """Where the keeper writes what a generation of a submission came to.

    Args:
        results: The prefix under which results are stored.
        submission_id: Of the submission.
        generation: Of the submission.
        name: `results` or `errors`.
    """
    return results.child(f"submissions/{submission_id}/{generation}/{name}.jsonl")


def _of_claim(job: ClaimedJob | Job, claim: Claim, suffix: str) -> ArtifactUri:
    folder = ArtifactUri.parse(job.output_prefix).child(job.output.name.replace(JOB, str(job.id)))
    return folder.child(f"{claim.fence}-{claim.run_id}{suffix}")
