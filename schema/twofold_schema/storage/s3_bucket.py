"""What S3 says of a bucket, and of the time."""

from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.storage.s3_errors import code, reading

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


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


def ask_bucket(client: "S3Client", name: str) -> Bucket:
    """Whether a bucket is there, as far as the client's credentials may know.

    Raises:
        CredentialsRefused: There are no credentials.
        StorageUnavailable: S3 did not answer in time.
    """
    refusal: str | None = None
    with reading(ArtifactUri("s3", name, "")):
        try:
            headers = client.head_bucket(Bucket=name)["ResponseMetadata"]["HTTPHeaders"]
        except ClientError as error:
            # The answer to a HEAD says no more than its status.
            refusal = code(error)
            if refusal not in {"403", "404"}:
                raise
            headers = error.response["ResponseMetadata"]["HTTPHeaders"]
    return Bucket(
        found=refusal != "404",
        listable=refusal is None,
        clock=parsedate_to_datetime(headers["date"]) if "date" in headers else None,
    )
