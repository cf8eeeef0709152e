"""Places of tenants: nothing outside is taken for inside, whoever decodes it, and all inside is."""

import posixpath
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twofold_schema.artifacts import ArtifactUri, tenant_upload_place, upload_place
from twofold_schema.errors import InvalidUri, PlaceNotAllowed
from twofold_schema.ids import new_id
from twofold_schema.tenant_places import OwnPlaces, Place, TenantPlaces

SHA256 = "ab" * 32
OWN = OwnPlaces(
    uploads=ArtifactUri.parse("s3://twofold/uploads"),
    results=ArtifactUri.parse("s3://twofold/results"),
)

#: Segments as people name things.
PLAIN = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="/\\%"),
    min_size=1,
    max_size=12,
).filter(lambda segment: segment not in {".", ".."})


def _escaped(segment: str, times: int) -> str:
    for _ in range(times):
        escaped = "".join(f"%{byte:02x}" for byte in segment.encode())
        segment = escaped if len(escaped) < 60 else quote(segment, safe="")
    return segment


#: Segments of those who want out, escaped up to three times.
HOSTILE = st.builds(
    _escaped,
    st.sampled_from(
        ["..", ".", "", "a", "team", "team2", "../..", "..\\..", "x/../..", "..;", "\0", "...", "/"]
    ),
    st.integers(0, 3),
)
PREFIXES = st.lists(PLAIN, min_size=1, max_size=3)


def uri_of(scheme: str, segments: list[str]) -> str:
    return ("s3://bucket/" if scheme == "s3" else "file:///") + "/".join(segments)


def readings(key: str) -> set[str]:
    """Where a key may lead: decoded any number of times, with either slash, dots resolved."""
    found = set()
    while True:
        for text in (key, key.replace("\\", "/")):
            found.add(posixpath.normpath("/" + text.lstrip("/")))
        decoded = unquote(key)
        if decoded == key:
            return found
        key = decoded


class TestHolds:
    @given(
        scheme=st.sampled_from(["s3", "file"]),
        prefix=PREFIXES,
        inner=st.lists(PLAIN, min_size=1, max_size=4),
    )
    @example(scheme="s3", prefix=["team"], inner=["..a", "...", "?#[x] +"])
    def test_whatever_is_plainly_inside(
        self, scheme: str, prefix: list[str], inner: list[str]
    ) -> None:
        bucket = "bucket" if scheme == "s3" else ""
        text = str(ArtifactUri(scheme, bucket, "/".join(prefix)))
        uri = ArtifactUri(scheme, bucket, "/".join(prefix + inner))

        assert Place.parse(text).holds(uri)
        assert scheme == "file" or Place.parse("s3://bucket").holds(uri)

    @given(
        scheme=st.sampled_from(["s3", "file"]),
        begin=st.lists(st.sampled_from(["team", "in", ""]), max_size=3),
        segments=st.lists(HOSTILE | PLAIN, min_size=1, max_size=6),
    )
    @example(scheme="s3", begin=["team", "in"], segments=["%2e%2e", "%2e%2e", "other"])
    @example(scheme="s3", begin=["team", "in"], segments=["%252e%252e%252fother"])
    @example(scheme="s3", begin=["team", "in"], segments=["..%5c..%5cother"])
    @example(scheme="file", begin=["team", "in"], segments=["%252e%252e", "other"])
    @example(scheme="s3", begin=["team"], segments=["in%2f..%2fx"])
    def test_nothing_that_leads_outside_however_it_is_decoded(
        self, scheme: str, begin: list[str], segments: list[str]
    ) -> None:
        place = Place.parse(uri_of(scheme, ["team", "in"]))
        try:
            uri = ArtifactUri.parse(uri_of(scheme, begin + segments))
        except InvalidUri:
            return
        if place.holds(uri):
            assert all(led.startswith("/team/in/") for led in readings(uri.key)), uri

    @pytest.mark.parametrize(
        "text",
        [
            "s3://bucket/team/a",
            "s3://bucket/team/a b/ü.png",
            "s3://bucket/team/100%/a%20b.png",
            "s3://bucket/team//a",
            "s3://bucket/team/a?versionId=3#x",
        ],
    )
    def test_what_is_odd_but_inside(self, text: str) -> None:
        assert Place.parse("s3://bucket/team").holds(ArtifactUri.parse(text))

    @pytest.mark.parametrize(
        "text",
        [
            "s3://bucket/team",
            "s3://bucket/team/",
            "s3://bucket/team2/x",
            "s3://bucket/tea/x",
            "s3://bucket//team/x",
            "s3://bucket/Team/x",
            "s3://bucket/%74eam/x",
            "s3://bucket2/team/x",
            "s3://team/bucket/team/x",
            "s3://bucket/team?/x",
            "s3://bucket/team/./x",
            "s3://bucket/team/%2e/x",
            "s3://bucket/team/%2E%2E/x",
            "s3://bucket/team/%252e%252e/x",
            "s3://bucket/team/%25252e%25252e/x",
            "s3://bucket/team/..%2fother",
            "s3://bucket/team/x%2f..%2f..%2fother",
            "s3://bucket/team%2fx",
            "s3://bucket/team/x%2fy",
            "s3://bucket/team/x%255cy",
            "s3://bucket/team/..\\other",
            "s3://bucket/team/%00",
            "s3://bucket/team/%c0%ae%c0%ae/x",
            "file:///bucket/team/x",
        ],
    )
    def test_what_is_outside_or_could_be_read_so(self, text: str) -> None:
        assert not Place.parse("s3://bucket/team").holds(ArtifactUri.parse(text))

    @pytest.mark.parametrize(
        "text",
        [
            "s3://bucket/team/../x",
            "s3://bucket:9000/team/x",
            "s3://bucket@evil/team/x",
            "s3://127.0.0.1:9000/bucket/team/x",
            "s3://arn:aws:s3:::bucket/team/x",
            "S3://bucket/team/x",
            "https://bucket.s3.amazonaws.com/team/x",
            "file://host/team/x",
            "file://localhost/team/x",
            "file:///team/%2e%2e/x",
        ],
    )
    def test_other_hosts_and_endpoints_are_no_uris(self, text: str) -> None:
        with pytest.raises(InvalidUri):
            ArtifactUri.parse(text)


class TestFiles:
    def test_a_link_that_leads_out_is_outside(self, tmp_path: Path) -> None:
        mine, other = tmp_path / "mine", tmp_path / "other"
        (mine / "deep").mkdir(parents=True)
        other.mkdir()
        (other / "secret.png").touch()
        (mine / "folder").symlink_to(other)
        (mine / "file.png").symlink_to(other / "secret.png")
        (mine / "loop").symlink_to(mine / "loop")
        (mine / "within").symlink_to(mine / "deep")
        place = Place.parse(str(ArtifactUri.of_file(mine)))

        held = {
            name: place.holds(ArtifactUri.of_file(mine / name))
            for name in ("folder/secret.png", "folder/new.png", "file.png", "within/a", "a/b")
        }

        assert held == {
            "folder/secret.png": False,
            "folder/new.png": False,
            "file.png": False,
            "within/a": True,
            "a/b": True,
        }
        assert not place.holds(ArtifactUri.of_file(tmp_path / "mine2" / "a"))

    def test_a_place_may_be_reached_by_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")

        place = Place.parse(f"file://{tmp_path}/link")

        assert place.holds(ArtifactUri.parse(f"file://{tmp_path}/link/a.png"))
        assert not place.holds(ArtifactUri.parse(f"file://{tmp_path}/real/a.png"))

    @pytest.mark.parametrize(
        "text", ["file:////data/mine/x", "file:///data//mine/x", "file:///data/./mine/x"]
    )
    def test_a_path_is_written_in_one_way(self, text: str) -> None:
        assert not Place.parse("file:///data/mine").holds(ArtifactUri.parse(text))


class TestParse:
    @pytest.mark.parametrize(
        ("text", "written"),
        [
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/team/in/", "s3://bucket/team/in"),
            ("s3://bucket/100%", "s3://bucket/100%"),
            ("file:///data/my%20own/", "file:///data/my%20own"),
        ],
    )
    def test_a_place_is_read_and_written_in_one_way(self, text: str, written: str) -> None:
        place = Place.parse(text)

        assert str(place) == written
        assert Place.parse(written) == place

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "any",
            "s3://",
            "s3:///team",
            "s3://Bucket",
            "s3://bucket//team",
            "s3://bucket/a//b",
            "s3://bucket/./a",
            "s3://bucket/../a",
            "s3://bucket/%2e%2e",
            "s3://bucket/te%61m",
            "s3://bucket/a\\..\\b",
            "file:///",
            "file://host/data",
            "file:///data/%252e%252e",
            "http://bucket/team",
        ],
    )
    def test_what_is_no_place_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidUri):
            Place.parse(text)


class TestTenants:
    def test_one_of_whom_nothing_was_said_may_name_anything(self) -> None:
        anywhere, place = TenantPlaces(tenant="acme"), ArtifactUri.parse("s3://other/%2e%2e/x")

        anywhere.check_source(place, OWN)
        anywhere.check_result(place, prefix=place, own=OWN)
        anywhere.check_name(place)

    def test_is_told_which_place_it_may_not_name_and_nothing_of_others(self) -> None:
        limited = TenantPlaces(tenant="acme", may_read=("s3://secret-name/in",), may_write=())

        with pytest.raises(PlaceNotAllowed, match=r"s3://other/x .*acme may read") as refused:
            limited.check_source(ArtifactUri.parse("s3://other/x"), OWN)
        assert "secret-name" not in refused.value.message
        limited.check_source(ArtifactUri.parse("s3://secret-name/in/x"), OWN)

    def test_reads_uploads_by_the_digest_of_their_content_only(self) -> None:
        limited = TenantPlaces(tenant="acme", may_read=())

        limited.check_source(upload_place(OWN.uploads, SHA256), OWN)
        for text in (
            "s3://twofold/uploads/cat.png",
            f"s3://twofold/uploads/cd/{SHA256}",
            f"s3://twofold/uploads/{SHA256}",
            f"s3://twofold/uploads/x/../ab/{SHA256}".replace("..", "%2e%2e"),
            f"s3://twofold/results/ab/{SHA256}",
            f"s3://other/uploads/ab/{SHA256}",
            "s3://twofold/results/job/1-run.png",
        ):
            with pytest.raises(PlaceNotAllowed):
                limited.check_source(ArtifactUri.parse(text), OWN)

    @pytest.mark.parametrize("name", [str(new_id()), SHA256], ids=["drawn", "by content"])
    def test_reads_what_the_tenant_put_there_itself_and_nothing_of_anothers(
        self, name: str
    ) -> None:
        limited = TenantPlaces(tenant="acme", may_read=())
        mine = tenant_upload_place(OWN.uploads, "acme", name)

        limited.check_source(mine, OWN)
        for place in (
            tenant_upload_place(OWN.uploads, "zoo", name),
            ArtifactUri.parse(f"{mine}.png"),
            mine.child("x"),
        ):
            with pytest.raises(PlaceNotAllowed):
                limited.check_source(place, OWN)

    def test_writes_results_under_twofolds_prefix_and_no_names_of_its_own_there(self) -> None:
        limited = TenantPlaces(tenant="acme", may_write=("s3://acme/out",))
        mine = ArtifactUri.parse("s3://acme/out/deep")

        limited.check_result(OWN.results.child("job/1.png"), prefix=OWN.results, own=OWN)
        limited.check_result(mine.child("job/1.png"), prefix=mine, own=OWN)
        limited.check_name(mine.child("cat.png"))
        with pytest.raises(PlaceNotAllowed, match="may write"):
            limited.check_name(OWN.results.child("cat.png"))
        for prefix in (OWN.results.child("deep"), OWN.uploads, ArtifactUri.parse("s3://acme/in")):
            with pytest.raises(PlaceNotAllowed):
                limited.check_result(prefix.child("job/1.png"), prefix=prefix, own=OWN)
        with pytest.raises(PlaceNotAllowed):
            limited.check_result(OWN.results.child("%2e%2e/1.png"), prefix=OWN.results, own=OWN)
