"""The stores that keep one set of promises, and what each of them can do."""

import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from email.message import Message
from functools import cached_property
from hashlib import sha256
from ssl import SSLContext
from typing import NamedTuple

import boto3
import pytest
from botocore.config import Config
from tests.conformance.table import Observations

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.settings import StorageSettings
from twofold_schema.storage.port import Storage
from twofold_schema.storage.s3 import S3Storage

#: Few, so that listings have pages.
PAGE_SIZE = 3

_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE")


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What a store does by itself. Where it cannot, the suite asserts what it does instead.

    Attributes:
        creates_atomically: Of many writers of one new name one wins.
        checks_signatures: A URL allows what was signed and nothing else.
        checks_expiry: A URL is over when it says so.
        checks_credentials: None where it knows no credentials.
        checks_digests: Damaged uploads are refused; None where none can be sent.
        keeps_data: Over a restart.
        checksum: How uploads carry one: `header`, `trailer`, or None.
    """

    creates_atomically: bool = True
    checks_signatures: bool = True
    checks_expiry: bool = True
    checks_credentials: bool | None = True
    checks_digests: bool | None = True
    keeps_data: bool = True
    checksum: str | None = None


@dataclass(frozen=True, kw_only=True)
class Server:
    """An S3 server: where it is, and who may use it.

    Attributes:
        name: The column of the table.
        settings: More than its endpoint.
    """

    name: str
    url: str
    key: str
    secret: str
    authority: str
    abilities: Abilities
    settings: Mapping[str, object] = field(default_factory=dict)

    @contextmanager
    def environment(self) -> Iterator[None]:
        """What boto3 reads when a client is made."""
        values = (self.key, self.secret, "us-east-1", self.authority)
        with pytest.MonkeyPatch.context() as patch:
            for name, text in zip(_VARIABLES, values, strict=True):
                patch.setenv(name, text)
            yield

    def open(self, **settings: object) -> S3Storage:
        """A storage over it, with the server's own settings and these."""
        given = {"s3_endpoint_url": self.url, **self.settings, **settings}
        with self.environment():
            return S3Storage(StorageSettings.model_validate(given), page_size=PAGE_SIZE)

    @cached_property
    def storage(self) -> S3Storage:
        """The one that most tests share."""
        return self.open()

    def create_bucket(self, name: str) -> None:
        """Create a bucket; once more is success."""
        with self.environment():
            client = boto3.Session().client(
                "s3", endpoint_url=self.url, config=Config(s3={"addressing_style": "path"})
            )
        with closing(client), suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=name)

    def at(self, url: str) -> "Server":
        """Another server of the same kind."""
        return replace(self, url=url)

    def as_user(self, key: str, secret: str) -> "Server":
        """The same server for somebody else."""
        return replace(self, key=key, secret=secret)


class Answer(NamedTuple):
    """What a client without boto3 gets."""

    status: int
    body: bytes
    headers: Message


@dataclass(frozen=True, kw_only=True)
class Case:
    """A storage under test, and the prefix in it that is this test's own.

    Attributes:
        server: None for a directory.
    """

    name: str
    storage: Storage
    prefix: ArtifactUri
    abilities: Abilities
    observations: Observations
    trust: SSLContext
    server: Server | None = None

    def put(self, name: str, data: bytes, **metadata: str) -> ArtifactUri:
        """Store an object; gives its URI."""
        uri = self.prefix.child(name)
        put(self.storage, uri, data, **metadata)
        return uri

    def get(self, uri: ArtifactUri) -> bytes:
        """The bytes of a small object."""
        return self.storage.read(uri, max_bytes=10**6).data

    def observed(self, promise: str, *, kept: bool = True, instead: str = "") -> None:
        """Note for the table that the promise was kept, or what the store did instead."""
        self.observations.note(promise, self.name, "yes" if kept else instead)


def put(storage: Storage, uri: ArtifactUri, data: bytes, **metadata: str) -> None:
    """Write an object as workers and producers do."""
    storage.write_once(
        uri,
        data,
        content_type="image/png",
        sha256=sha256(data).hexdigest(),
        metadata=metadata or {"job": "1"},
    )


def ask(
    case: Case,
    url: str,
    *,
    method: str = "GET",
    data: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """What somebody who has only a URL is answered."""
    request = urllib.request.Request(url, data, dict(headers or {}), method=method)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=case.trust)
    )
    try:
        with opener.open(request, timeout=30) as answer:
            return Answer(answer.status, answer.read(), answer.headers)
    except urllib.error.HTTPError as refused:
        with refused:
            return Answer(refused.code, refused.read(), refused.headers)
