"""The places that a tenant's jobs may read from and write to.

A place holds what lies below it, by whole segments: `s3://bucket/team` holds `s3://bucket/team/x`
and not `s3://bucket/team2/x`. Names in S3 are taken literally, but whoever stands between may
decode them: a name that would have other segments once it is decoded, once or several times
(`%2e%2e`, `%252f`), lies in no place.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from twofold_schema.artifacts import ArtifactUri, tenant_upload_place, upload_place
from twofold_schema.errors import InvalidUri, PlaceNotAllowed
from twofold_schema.storage.folders import real

_SEPARATOR = re.compile(r"[/\\]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket, a prefix in one, or a folder.

    Attributes:
        scheme: `s3` or `file`.
        bucket: The S3 bucket; empty for `file`.
        segments: Of the prefix or path; none for a whole bucket.
    """

    scheme: str
    bucket: str
    segments: tuple[str, ...]

    @staticmethod
    def parse(text: str) -> "Place":
        """Read `s3://bucket`, `s3://bucket/prefix` or `file:///folder`.

        Raises:
            InvalidUri: It is none of these, or has segments that are empty, `.`, `..` or escaped.
        """
        return _parse(text)

    def holds(self, uri: ArtifactUri) -> bool:
        """Whether an object lies below. Of files, also where their links lead."""
        segments, begin = tuple(uri.key.split("/")), len(self.segments)
        if (uri.scheme, uri.bucket, segments[:begin]) != (self.scheme, self.bucket, self.segments):
            return False
        if not any(segments[begin:]) or not _is_plain(uri.key):
            return False
        return self.scheme != "file" or real(uri.path).is_relative_to(real(self._uri.path))

    @property
    def _uri(self) -> ArtifactUri:
        return ArtifactUri(self.scheme, self.bucket, "/".join(self.segments))

    def __str__(self) -> str:
        return str(self._uri).rstrip("/")


@dataclass(frozen=True, slots=True)
class OwnPlaces:
    """The places that Twofold itself chooses, whatever a tenant may name.

    Attributes:
        uploads: The prefix of what was handed over: TWOFOLD_UPLOADS.
        results: The prefix of results for which none was named: TWOFOLD_RESULTS.
    """

    uploads: ArtifactUri
    results: ArtifactUri

    def is_upload(self, source: ArtifactUri, tenant: str) -> bool:
        """Whether it is named as an upload is: by the digest of its content, or as the tenant's.

        Who can name a digest had the content, or was told its name by somebody who had. What a
        tenant puts there by itself lies in a folder of its own.
        """
        name = source.key.rpartition("/")[2]
        digest = bool(_SHA256.fullmatch(name))
        if digest and source == upload_place(self.uploads, name):
            return True
        named = digest or bool(_UUID.fullmatch(name))
        return named and source == tenant_upload_place(self.uploads, tenant, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantPlaces:
    """What a tenant's jobs may name.

    Attributes:
        tenant: Whose jobs.
        may_read: The places of sources; None for any that is open to Twofold.
        may_write: The places of results; None for any that is open to Twofold.
    """

    tenant: str
    may_read: tuple[str, ...] | None = None
    may_write: tuple[str, ...] | None = None

    def check_source(self, source: ArtifactUri, own: OwnPlaces) -> None:
        """Accept what is to be read: in a place of the tenant's, or an upload of Twofold's.

        Raises:
            PlaceNotAllowed: It is neither.
            InvalidUri: A place in the tenant's row is none.
        """
        if self.may_read is None or own.is_upload(source, self.tenant):
            return
        self._require(self.may_read, source, "read")

    def check_result(self, place: ArtifactUri, *, prefix: ArtifactUri, own: OwnPlaces) -> None:
        """Accept where a job's own result goes: in a place of the tenant's, or under Twofold's.

        Args:
            place: Of the result, or its folder.
            prefix: That the job states, or was given.
            own: Under whose `results` no two jobs share a folder.

        Raises:
            PlaceNotAllowed: It is neither.
            InvalidUri: A place in the tenant's row is none.
        """
        if self.may_write is None or (prefix == own.results and _is_plain(place.key)):
            return
        self._require(self.may_write, place, "write")

    def check_name(self, place: ArtifactUri) -> None:
        """Accept a name of the caller's choice to which a result is copied.

        Under Twofold's own prefix it could be another tenant's, so that only the tenant's places
        count.

        Raises:
            PlaceNotAllowed: It lies in none of them.
            InvalidUri: A place in the tenant's row is none.
        """
        if self.may_write is not None:
            self._require(self.may_write, place, "write")

    def _require(self, places: tuple[str, ...], uri: ArtifactUri, to_do: str) -> None:
        if not any(Place.parse(place).holds(uri) for place in places):
            raise PlaceNotAllowed(
                f"{uri} lies in no place that the tenant {self.tenant} may {to_do}; use another, "
                "or ask the operator to open it with `twofold tenants set`."
            )


#: Tells what a tenant's jobs may name.
PlacesOf = Callable[[str], TenantPlaces]


# Claims bring the same few places again and again.
@lru_cache(4096)
def _parse(text: str) -> Place:
    # With a name below it, so that a bucket without a prefix is read as well.
    uri = ArtifactUri.parse(f"{text.rstrip('/')}/x")
    *segments, _ = uri.key.split("/")
    prefix = "/".join(segments)
    if "" in segments or not _is_plain(prefix) or unquote(prefix) != prefix:
        raise InvalidUri(
            f"{text!r} is no place for a tenant: write s3://bucket, s3://bucket/prefix or "
            "file:///folder, without segments that are empty, '.' or escaped."
        )
    return Place(uri.scheme, uri.bucket, tuple(segments))


def _is_plain(key: str) -> bool:
    """Whether a key has the same segments however often it is decoded, and none is a dot or two."""
    count = len(_SEPARATOR.split(key))
    while True:
        segments = _SEPARATOR.split(key)
        if len(segments) != count or not {".", ".."}.isdisjoint(segments) or _CONTROL.search(key):
            return False
        try:
            decoded = unquote(key, errors="strict")
        except UnicodeDecodeError:
            # Bytes that some readers take for a dot or a slash, as the overlong %c0%ae.
            return False
        if decoded == key:
            return True
        key = decoded
