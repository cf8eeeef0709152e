"""What S3 and botocore say, in Twofold's words: one for who reads, one for who writes."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)
from urllib3.exceptions import HTTPError

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import (
    CredentialsRefused,
    ResultDenied,
    SourceDenied,
    SourceNotFound,
    StorageUnavailable,
)

#: botocore raises its own errors, and lets some of urllib3's and the system's through.
_UNREACHABLE: tuple[type[Exception], ...] = (BotoCoreError, HTTPError, OSError)
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)

MISSING = {"NoSuchKey", "NoSuchBucket", "404"}
DENIED = {"AccessDenied", "AllAccessDisabled", "403"}
#: Said of who asks, whatever is asked for.
STRANGER = {"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
#: The key is taken, or two write it at once: whoever looks learns who won.
TAKEN = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
EMPTY_OBJECT = {"InvalidRange", "416"}


def code(error: ClientError) -> str:
    """S3's own name of an error; the HTTP status where an answer has no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def reading(uri: ArtifactUri) -> Iterator[None]:
    """Raise what a reader understands.

    Raises:
        SourceNotFound: There is no such object, or no such bucket.
        SourceDenied: It may not be read.
        CredentialsRefused: There are no credentials, or none that S3 knows.
        StorageUnavailable: S3 did not answer, or not with what was asked for.
    """
    try:
        with _known(uri):
            yield
    except ClientError as error:
        if code(error) in MISSING:
            raise SourceNotFound(f"{uri} does not exist; upload it, then retry the job.") from None
        if code(error) in DENIED:
            raise SourceDenied(
                f"The worker may not read {uri} ({code(error)}); grant it read access."
            ) from None
        raise StorageUnavailable(f"{uri} cannot be read now: {error}") from error
    except _UNREACHABLE as error:
        raise StorageUnavailable(f"{uri} cannot be read now: {error}") from error


@contextmanager
def listing(prefix: ArtifactUri) -> Iterator[None]:
    """Raise what `reading` would; a missing bucket is a mistake, not an empty listing."""
    try:
        with reading(prefix):
            yield
    except SourceNotFound:
        raise SourceDenied(f"{prefix} cannot be listed: create its bucket.") from None


@contextmanager
def writing(uri: ArtifactUri) -> Iterator[None]:
    """Raise what a writer understands.

    Raises:
        ResultDenied: It may not be written, or there is no bucket.
        CredentialsRefused: There are no credentials, or none that S3 knows.
        StorageUnavailable: S3 did not answer.
    """
    try:
        with _known(uri):
            yield
    except ClientError as error:
        if code(error) in DENIED | MISSING:
            raise ResultDenied(
                f"{uri} cannot be written ({code(error)}); create its bucket and grant the "
                "worker write access."
            ) from None
        raise StorageUnavailable(f"{uri} cannot be written now: {error}") from error
    except _UNREACHABLE as error:
        raise StorageUnavailable(f"{uri} cannot be written now: {error}") from error


@contextmanager
def _known(uri: ArtifactUri) -> Iterator[None]:
    """Tell what is refused to this process from what is refused to anybody."""
    try:
        yield
    except ClientError as error:
        if code(error) not in STRANGER:
            raise
        raise CredentialsRefused(
            f"S3 does not take this process's credentials for {uri} ({code(error)}); renew them, "
            "or correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from None
    except _NO_CREDENTIALS as error:
        raise CredentialsRefused(
            f"There are no credentials for {uri}; set AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY, or another source that boto3 knows: {error}"
        ) from error
