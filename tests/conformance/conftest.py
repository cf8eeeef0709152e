"""The stores, started once for all tests of them."""

import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from tests.conformance.stores import Abilities, Case, Server
from tests.conformance.table import COLUMNS, OBSERVATIONS, Observations
from tests.servers.certificates import Certificates
from tests.servers.moto import Moto
from tests.servers.swift import NoAttributes, Swift

from twofold_producer.dev.files import FileServer
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.storage.directory import DirectoryStorage

BUCKET = "twofold-conformance"

_MOTO = {
    "checks_signatures": False,
    "checks_expiry": False,
    "checks_credentials": False,
    "checks_digests": False,
    "keeps_data": False,
}
_SWIFT = {"creates_atomically": False}


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OBSERVATIONS] = Observations()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The table is compared once everything has been seen."""
    items.sort(key=lambda item: item.path.name == "test_table.py")


@pytest.fixture(scope="session")
def observations(request: pytest.FixtureRequest) -> Observations:
    return request.config.stash[OBSERVATIONS]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def swift(certificates: Certificates) -> Iterator[Swift]:
    try:
        swift = Swift(certificates)
    except NoAttributes as impossible:
        pytest.skip(str(impossible))
    with swift:
        yield swift


@pytest.fixture(scope="session")
def moto_over_tls(certificates: Certificates) -> Iterator[Moto]:
    with Moto(certificates) as moto:
        yield moto


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DirectoryStorage]:
    """A directory store, and the server of its signed URLs."""
    root = tmp_path_factory.mktemp("store")
    with FileServer(root) as server:
        yield DirectoryStorage(root, server.route)


@pytest.fixture(scope="session")
def moto_http(moto: Moto, certificates: Certificates) -> Server:
    return _served("moto-http", moto.url, certificates, _MOTO | {"checksum": "header"})


@pytest.fixture(scope="session")
def moto_https(moto_over_tls: Moto, certificates: Certificates) -> Server:
    return _served("moto-https", moto_over_tls.url, certificates, _MOTO | {"checksum": "trailer"})


@pytest.fixture(scope="session")
def swift_http(swift: Swift, certificates: Certificates) -> Server:
    return _served(
        "swift-http", swift.http, certificates, _SWIFT | {"checksum": "header"}, swift.secret
    )


@pytest.fixture(scope="session")
def swift_https(swift: Swift, certificates: Certificates) -> Server:
    return _served(
        "swift-https", swift.https, certificates, _SWIFT | {"checksum": "trailer"}, swift.secret
    )


def _served(
    name: str,
    url: str,
    certificates: Certificates,
    abilities: Mapping[str, Any],
    secret: str = "testing",  # moto takes any
) -> Server:
    """An S3 server with the suite's bucket in it."""
    able = Abilities(**abilities)
    server = Server(
        name=name,
        url=url,
        key="test:owner",
        secret=secret,
        authority=str(certificates.authority),
        abilities=able,
        settings={} if able.creates_atomically else {"s3_conditional_writes": False},
    )
    server.create_bucket(BUCKET)
    return server


@pytest.fixture(scope="session", params=list(COLUMNS)[1:])
def server(request: pytest.FixtureRequest) -> Server:
    """Each S3 server."""
    found: Server = request.getfixturevalue(request.param.replace("-", "_"))
    return found


@pytest.fixture(params=COLUMNS)
def case(
    request: pytest.FixtureRequest, certificates: Certificates, observations: Observations
) -> Case:
    """Each store."""
    if request.param == "directory":
        files: DirectoryStorage = request.getfixturevalue("files")
        return Case(
            name="directory",
            storage=files,
            prefix=ArtifactUri.of_file(files.root / secrets.token_hex(6)),
            abilities=Abilities(checks_credentials=None, checks_digests=None),
            observations=observations,
            trust=certificates.trusting(),
        )
    server: Server = request.getfixturevalue(request.param.replace("-", "_"))
    return case_over(server, certificates, observations)


@pytest.fixture
def s3_case(server: Server, certificates: Certificates, observations: Observations) -> Case:
    """Each store that is a server."""
    return case_over(server, certificates, observations)


@pytest.fixture
def swift_case(swift_http: Server, certificates: Certificates, observations: Observations) -> Case:
    """Swift only."""
    return case_over(swift_http, certificates, observations)


def case_over(server: Server, certificates: Certificates, observations: Observations) -> Case:
    """A prefix of a test's own on a server."""
    return Case(
        name=server.name,
        storage=server.storage,
        prefix=ArtifactUri("s3", BUCKET, secrets.token_hex(6)),
        abilities=server.abilities,
        observations=observations,
        trust=certificates.trusting(),
        server=server,
    )
