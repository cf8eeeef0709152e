"""The route behind a folder's signed URLs: what it answers besides what every store promises."""

import http.client
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from twofold_producer.dev.files import FileServer
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.storage.directory import DirectoryStorage
from twofold_schema.storage.signing import SignedRoute

MINUTE = timedelta(minutes=1)
PNG = {"Content-Type": "image/png"}
LONGEST = 1000


class Site:
    """A folder, its server, and a client that sends what it is told."""

    def __init__(self, root: Path, server: FileServer) -> None:
        self.root = root
        self.route = server.route
        self.storage = DirectoryStorage(root, server.route)

    def read_url(self, name: str) -> str:
        return self.storage.sign_read(ArtifactUri.of_file(self.root / name), expires=MINUTE)

    def write_url(self, name: str) -> str:
        uri = ArtifactUri.of_file(self.root / name)
        return self.storage.sign_write(uri, content_type="image/png", expires=MINUTE)

    def ask(
        self,
        url: str,
        *,
        method: str = "GET",
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        parts = urlsplit(url)
        assert parts.hostname
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
        try:
            connection.request(method, f"{parts.path}?{parts.query}", data, dict(headers or {}))
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    root = tmp_path / "root"
    root.mkdir()
    with FileServer(root, max_bytes=LONGEST) as server:
        yield Site(root, server)


@pytest.mark.parametrize(
    ("asked", "status", "expected", "stated"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=8-", 206, b"89", "bytes 8-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-30", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=9-99", 206, b"9", "bytes 9-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=5-3", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=-", 200, b"0123456789", None),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_ranges_are_answered(
    site: Site, asked: str, status: int, expected: bytes, stated: str | None
) -> None:
    (site.root / "digits").write_bytes(b"0123456789")

    answer, body = site.ask(site.read_url("digits"), headers={"Range": asked})

    assert (answer.status, body) == (status, expected)
    assert answer.headers["Content-Range"] == stated
    assert answer.headers["Content-Length"] == str(len(expected))


def test_a_head_says_what_a_get_would(site: Site) -> None:
    assert site.ask(site.write_url("new"), method="PUT", data=b"mine", headers=PNG)[0].status == 200

    got, body = site.ask(site.read_url("new"))
    head, nothing = site.ask(site.read_url("new"), method="HEAD")

    assert (body, nothing) == (b"mine", b"")
    for name in ("Content-Length", "Content-Type", "ETag", "X-Content-Type-Options"):
        assert head.headers[name] == got.headers[name]
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Content-Type"] == "image/png"
    assert site.ask(site.read_url("nothing"), method="HEAD")[0].status == 404


def test_what_nobody_signed_is_refused(site: Site) -> None:
    (site.root / "mine").write_bytes(b"mine")
    base, _, query = site.read_url("mine").partition("?")

    for url in (
        base,
        f"{base}?expires=9999999999",
        f"{base}?{query}0",
        f"{base}?expires=x&{query}",
    ):
        answer, body = site.ask(url)
        assert answer.status == 403
        assert b"mine" not in body
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["../secret", "link", "folder/secret", ".metadata/x", "/etc/passwd"]
)
def test_nothing_outside_is_reached_even_if_it_was_signed(site: Site, path: str) -> None:
    outside = site.root.parent
    (outside / "secret").write_bytes(b"secret")
    (site.root / "link").symlink_to(outside / "secret")
    (site.root / "folder").symlink_to(outside)
    signed = SignedRoute(url=site.route.url, secret=site.route.secret)

    read, body = site.ask(signed.sign("GET", path, expires=MINUTE))
    write, _ = site.ask(
        signed.sign("PUT", path, expires=MINUTE, content_type="image/png"),
        method="PUT",
        data=b"mine",
        headers=PNG,
    )

    assert read.status in {403, 404}
    assert b"root:" not in body
    assert body != b"secret"
    assert write.status == 403 or (site.root / path.lstrip("/")).read_bytes() == b"mine"
    assert (outside / "secret").read_bytes() == b"secret"


def test_uploads_are_bounded_and_must_say_how_long_they_are(site: Site) -> None:
    url = site.write_url("new")

    longest, _ = site.ask(url, method="PUT", data=b"x" * LONGEST, headers=PNG)
    too_long, _ = site.ask(url, method="PUT", data=b"x" * (LONGEST + 1), headers=PNG)
    chunked, _ = site.ask(url, method="PUT", headers={**PNG, "Transfer-Encoding": "chunked"})

    assert (longest.status, too_long.status, chunked.status) == (200, 413, 411)
    assert (site.root / "new").read_bytes() == b"x" * LONGEST


def test_an_upload_that_breaks_off_stores_nothing(site: Site) -> None:
    parts = urlsplit(site.write_url("new"))
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    connection.putrequest("PUT", f"{parts.path}?{parts.query}")
    for name, text in {**PNG, "Content-Length": "100"}.items():
        connection.putheader(name, text)
    connection.endheaders(b"half")
    assert connection.sock
    connection.sock.shutdown(1)  # no more is sent

    assert connection.getresponse().status == 400
    connection.close()
    assert list(site.root.iterdir()) == []


def test_it_ends_with_its_block(tmp_path: Path) -> None:
    with FileServer(tmp_path) as server:
        url = SignedRoute(url=server.route.url, secret=server.route.secret)
    site = Site(tmp_path, server)

    with pytest.raises(ConnectionRefusedError):
        site.ask(url.sign("GET", "x", expires=MINUTE))
