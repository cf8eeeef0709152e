"""boto3's clients for S3, as the settings say: how long they wait, how often they try."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import CredentialsRefused, StorageUnavailable
from twofold_schema.settings import StorageSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECT_SECONDS = 10.0
#: botocore's: the longest pause that it draws, and what a server may ask for beyond it.
_LONGEST_PAUSE = 20.0
_ASKED_PAUSE = 5.0


def connect(settings: StorageSettings) -> "tuple[S3Client, S3Client]":
    """The client that sends requests, and the one that only signs URLs for others.

    What is tried again, after a random pause: no answer, 5xx, 429, and answers that name
    throttling, `SlowDown` above all. The pause is drawn below 1, 2, 4, … 20 seconds for the
    latter and below a twentieth of that for others. After many failures in a row botocore
    stops to retry until something succeeds.

    Raises:
        CredentialsRefused: What the environment says of credentials cannot be read.
    """
    try:
        return _connect(settings)
    except BotoCoreError as error:
        raise CredentialsRefused(
            f"boto3 cannot be set up; correct AWS_PROFILE and its files: {error}"
        ) from error


def _connect(settings: StorageSettings) -> "tuple[S3Client, S3Client]":
    session = boto3.Session()  # the default one is shared with whoever else uses boto3
    sending = Config(
        connect_timeout=min(_CONNECT_SECONDS, settings.s3_timeout_seconds),
        read_timeout=settings.s3_timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": settings.s3_attempts},
        max_pool_connections=settings.s3_connections,
        request_checksum_calculation=settings.s3_checksums,
        response_checksum_validation=settings.s3_checksums,
        s3={"addressing_style": "path" if settings.s3_endpoint_url else "virtual"},
    )
    public = settings.s3_public_endpoint_url or settings.s3_endpoint_url
    signing = Config(
        signature_version="s3v4",
        # A checksum in a URL would bind everybody who uses it to one content.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Other servers than AWS seldom have a host name for every bucket; AWS's differ by region.
        s3={"addressing_style": "path" if public else "virtual"},
    )
    return (
        session.client("s3", endpoint_url=settings.s3_endpoint_url, config=sending),
        session.client("s3", endpoint_url=public, config=signing),
    )


def longest_seconds(settings: StorageSettings) -> float:
    """What one request takes at most, with all its tries, while S3 is silent or refuses.

    An answer that trickles in without a silence of `s3_timeout_seconds` may take longer.
    """
    connecting = min(_CONNECT_SECONDS, settings.s3_timeout_seconds)
    tries = settings.s3_attempts * (connecting + settings.s3_timeout_seconds)
    pauses = (min(2.0**number, _LONGEST_PAUSE) for number in range(settings.s3_attempts - 1))
    return tries + sum(pause + _ASKED_PAUSE for pause in pauses)


class Connections:
    """As many requests at once as the settings allow: botocore's pool would open more."""

    def __init__(self, settings: StorageSettings) -> None:
        self._free = BoundedSemaphore(settings.s3_connections)
        self._count = settings.s3_connections
        self._seconds = longest_seconds(settings)

    @contextmanager
    def one(self, uri: ArtifactUri) -> Iterator[None]:
        """Hold a connection inside the block; wait for one as long as a request may take.

        Raises:
            StorageUnavailable: None became free.
        """
        if not self._free.acquire(timeout=self._seconds):
            raise StorageUnavailable(
                f"All {self._count} connections to S3 are busy, so that {uri} has to wait; raise "
                "TWOFOLD_S3_CONNECTIONS if S3 is well."
            )
        try:
            yield
        finally:
            self._free.release()
