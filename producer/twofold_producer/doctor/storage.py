"""The check of object storage: everything that jobs will do with it, done once."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from twofold_producer.doctor.configuration import needed
from twofold_producer.doctor.database import of_clock
from twofold_producer.doctor.examination import Blocked
from twofold_producer.doctor.stores import Stores
from twofold_schema import findings
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.effective import Effective
from twofold_schema.errors import (
    CredentialsRefused,
    PlaceNotAllowed,
    ResultConflict,
    ResultDenied,
    SourceDenied,
    SourceNotFound,
    SourceTooLarge,
    StorageUnavailable,
)
from twofold_schema.findings import Finding
from twofold_schema.ids import new_id
from twofold_schema.settings import StorageSettings
from twofold_schema.storage.port import Storage

if TYPE_CHECKING:
    from twofold_schema.storage.s3_bucket import Bucket

NAME = "storage"

#: A place is written to below this name, so that nobody takes what is left for a result.
FOLDER = ".doctor"

_FIRST, _OTHER = b"Twofold's doctor was here", b"twice"
_REACH = (
    "Correct TWOFOLD_S3_ENDPOINT_URL (unset for AWS) and AWS_DEFAULT_REGION, and open the way "
    "through firewalls and proxies."
)
_CREDENTIALS = (
    "Give this process credentials where boto3 looks for them: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, ~/.aws, or a role of this host or pod."
)
_CONDITIONS = (
    "Set TWOFOLD_S3_CONDITIONAL_WRITES=false, or use a store that knows If-None-Match: names that "
    "no two claims share keep results apart without it."
)


def check_settings(settings: Effective) -> Iterator[Finding]:
    """Say that the settings hide what there is to check."""
    needed(settings, StorageSettings)
    return iter(())


def check_place(stores: Stores, variable: str, place: ArtifactUri) -> Iterator[Finding]:
    """Whether objects of a place can be written once, read and removed.

    Args:
        stores: Of the settings.
        variable: The setting that names the place.
        place: A prefix; an object is written below it, and removed.
    """
    try:
        store = stores.of(place)
    except PlaceNotAllowed as error:
        yield findings.failed(NAME, f"{variable}: {error.message}", f"Correct {variable}.")
        return
    if place.scheme == "s3":
        bucket = _asked(stores, variable, place.bucket)
        if isinstance(bucket, Finding):
            yield bucket
            return
    uri = place.child(f"{FOLDER}/{new_id()}")
    refused = _write(store, variable, uri)
    if refused is not None:
        yield refused
        return
    broken = _write_over(store, variable, uri) or _read(store, variable, uri)
    left = _remove(store, variable, uri)
    if broken is not None:
        yield broken
    elif left is None:
        yield findings.ok(NAME, f"{place}: written once, not written over, read, removed.")
    if left is not None:
        yield left


def check_bucket(stores: Stores, name: str) -> Iterator[Finding]:
    """Whether a further bucket is there. Nothing is written: it is other people's."""
    bucket = _asked(stores, "TWOFOLD_BUCKETS", name)
    if isinstance(bucket, Finding):
        yield bucket
    elif bucket.listable:
        yield findings.ok(NAME, f"s3://{name}: there, and may be listed.")
    else:
        yield findings.warning(
            NAME,
            f"s3://{name}: there, but may not be listed; whether its objects may be read cannot "
            "be told.",
            f"Grant s3:ListBucket on arn:aws:s3:::{name} to be sure, or submit a picture of it.",
        )


def check_clock(stores: Stores, bucket: str) -> Iterator[Finding]:
    """Whether this host's clock agrees with S3's: 15 minutes off, and S3 refuses every request."""
    # Making the client takes longer than asking, and is no part of the way to S3.
    s3 = stores.s3()
    before = datetime.now(UTC)
    try:
        theirs = s3.ask_bucket(bucket).clock
    except StorageUnavailable as error:
        raise Blocked(NAME, error.message, _REACH) from None
    if theirs is None:
        return
    # S3 says whole seconds: half of one more is its best reading.
    ours = before + (datetime.now(UTC) - before) / 2
    yield of_clock("S3's", (ours - theirs).total_seconds() - 0.5)


def _asked(stores: Stores, variable: str, name: str) -> "Bucket | Finding":
    try:
        bucket = stores.s3().ask_bucket(name)
    except CredentialsRefused as error:
        return findings.failed(NAME, f"{variable}: {error.message}", _CREDENTIALS)
    except StorageUnavailable as error:
        return findings.failed(NAME, f"{variable}: {error.message}", _REACH)
    if not bucket.found:
        return findings.failed(
            NAME,
            f"{variable}: there is no bucket {name}.",
            f"Create it (`aws s3 mb s3://{name}`), or correct {variable}.",
        )
    return bucket


def _write(store: Storage, variable: str, uri: ArtifactUri) -> Finding | None:
    try:
        _put(store, uri, _FIRST)
    except (ResultDenied, ResultConflict) as error:
        return _fault(variable, error.message, _grant("PutObject", uri))
    except StorageUnavailable as error:
        return _fault(
            variable,
            error.message,
            f"If this names the condition (If-None-Match, NotImplemented): {_CONDITIONS} Else look "
            "at the store itself.",
        )
    return None


def _write_over(store: Storage, variable: str, uri: ArtifactUri) -> Finding | None:
    try:
        _put(store, uri, _OTHER)
    except ResultConflict:
        return None
    except (ResultDenied, StorageUnavailable) as error:
        # Whether it is a conflict is told by reading what lies there, which may be what is denied.
        return _read(store, variable, uri) or _fault(
            variable, error.message, _grant("PutObject", uri)
        )
    return _fault(
        variable,
        f"{uri.scheme}://{uri.bucket} lets an object be written over: it ignores the condition.",
        _CONDITIONS,
    )


def _read(store: Storage, variable: str, uri: ArtifactUri) -> Finding | None:
    looks: tuple[Callable[[], bytes], ...] = (
        lambda: store.read(uri, max_bytes=len(_FIRST)).data,
        lambda: store.read_head(uri, length=7).data,
    )
    for look, expected in zip(looks, (_FIRST, _FIRST[:7]), strict=True):
        try:
            found = look()
        except (SourceDenied, SourceNotFound, StorageUnavailable) as error:
            return _fault(variable, error.message, _grant("GetObject", uri))
        except SourceTooLarge:
            found = b""
        if found != expected:
            return _fault(
                variable,
                f"{uri} was read otherwise than it was written.",
                "Look for a proxy, a cache or a filter between this host and the store.",
            )
    return None


def _remove(store: Storage, variable: str, uri: ArtifactUri) -> Finding | None:
    try:
        store.delete(uri)
    except (ResultDenied, StorageUnavailable) as error:
        return findings.warning(
            NAME,
            f"{variable}: {uri} may be left behind. {error.message}",
            f"Remove it by hand. {_grant('DeleteObject', uri)}",
        )
    return None


def _put(store: Storage, uri: ArtifactUri, data: bytes) -> None:
    digest = hashlib.sha256(data).hexdigest()
    store.write_once(uri, data, content_type="text/plain", sha256=digest, metadata={})


def _fault(variable: str, what: str, mend: str) -> Finding:
    return findings.failed(NAME, f"{variable}: {what}", mend)


def _grant(action: str, uri: ArtifactUri) -> str:
    if uri.scheme == "file":
        return f"Let this user read and write {uri.path.parents[1]}."
    prefix = uri.key.rpartition(f"/{FOLDER}/")[0]
    return f"Grant s3:{action} on arn:aws:s3:::{uri.bucket}/{prefix}/*."
