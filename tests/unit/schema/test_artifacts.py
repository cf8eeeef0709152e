"""URIs of objects: one text for one place, and no way out of the places that are open."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.factories import held_job

from twofold_schema.artifacts import (
    ArtifactUri,
    Places,
    preview_place,
    publish_place,
    result_place,
    upload_place,
)
from twofold_schema.errors import InvalidUri, PlaceNotAllowed
from twofold_schema.formats import ResultFormat
from twofold_schema.ids import new_id
from twofold_schema.job import Claim, Output

KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=200).filter(
    lambda key: key.strip("/") and ".." not in key.split("/")
)
BUCKETS = st.from_regex(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", fullmatch=True)


class TestParse:
    @given(bucket=BUCKETS, key=KEYS)
    @example(bucket="bucket", key="a b/ü/%2e%2e/?q#f/[x]//")
    @example(bucket="bucket", key="/")
    def test_an_s3_uri_is_taken_literally_and_written_as_it_was(
        self, bucket: str, key: str
    ) -> None:
        text = f"s3://{bucket}/a{key}"

        uri = ArtifactUri.parse(text)

        assert (uri.scheme, uri.bucket, uri.key) == ("s3", bucket, f"a{key}")
        assert str(uri) == text

    @given(key=KEYS)
    @example(key="100%/#1?.png")
    def test_a_file_survives_being_written_and_read(self, key: str) -> None:
        uri = ArtifactUri("file", "", f"a{key}")

        assert ArtifactUri.parse(str(uri)) == uri

    @given(text=st.text(max_size=80) | st.from_regex(r"(s3|file)://[^\n]{0,40}", fullmatch=True))
    def test_whatever_else_comes_is_refused_or_reads_the_same_twice(self, text: str) -> None:
        try:
            uri = ArtifactUri.parse(text)
        except InvalidUri:
            return
        assert ArtifactUri.parse(str(uri)) == uri

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "cat.png",
            "/cat.png",
            "http://bucket/key",
            "S3://bucket/key",
            "s3:/bucket/key",
            "s3://",
            "s3://bucket",
            "s3://bucket/",
            "s3://bucket//",
            "s3:///key",
            "s3://Bucket/key",
            "s3://user:password@bucket/key",
            "s3://b/key",
            "file:///",
            "file://host/path",
            "file://localhost/path",
            "file:relative",
        ],
    )
    def test_what_names_no_object_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidUri):
            ArtifactUri.parse(text)

    @pytest.mark.parametrize(
        "text",
        [
            "s3://bucket/..",
            "s3://bucket/a/../b",
            "s3://bucket/../secret",
            "file:///root/../etc/passwd",
            "file:///root/%2e%2e/etc/passwd",
            "file:///root/%2E./etc/passwd",
            "file:///root%2f..%2fetc/passwd",
        ],
    )
    def test_nothing_climbs(self, text: str) -> None:
        with pytest.raises(InvalidUri, match=r"climbs with '\.\.'"):
            ArtifactUri.parse(text)

    @pytest.mark.parametrize("key", ["..a", "a..", "a..b", "...", "a/..b"])
    def test_dots_inside_a_name_are_no_climbing(self, key: str) -> None:
        assert ArtifactUri.parse(f"s3://bucket/{key}").key == key

    @pytest.mark.parametrize("character", [*map(chr, range(32)), "\x7f"])
    def test_control_characters_are_refused_raw_and_escaped(self, character: str) -> None:
        for text in (
            f"s3://bucket/a{character}b",
            f"file:///a{character}b",
            f"file:///a%{ord(character):02x}b",
        ):
            with pytest.raises(InvalidUri, match="control characters"):
                ArtifactUri.parse(text)

    def test_a_lone_surrogate_is_refused(self) -> None:
        with pytest.raises(InvalidUri, match="Unicode"):
            ArtifactUri.parse("s3://bucket/\ud800")

    @pytest.mark.parametrize("letter", ["a", "ü"])
    def test_a_key_has_at_most_1024_bytes(self, letter: str) -> None:
        key = letter * (1024 // len(letter.encode()))

        assert ArtifactUri.parse(f"s3://bucket/{key}").key == key
        with pytest.raises(InvalidUri, match="1024 bytes"):
            ArtifactUri.parse(f"s3://bucket/{key}a")

    def test_a_path_becomes_a_uri_and_a_path_again(self, tmp_path: Path) -> None:
        path = tmp_path / "100% ü #1?.png"

        assert ArtifactUri.parse(str(ArtifactUri.of_file(path))).path == path


class TestPlaces:
    def test_only_the_named_buckets_are_open(self) -> None:
        places = Places(buckets={"open"})

        places.check(ArtifactUri.parse("s3://open/key"))
        for text in ("s3://opened/key", "s3://ope/key", "s3://other/open/key"):
            with pytest.raises(PlaceNotAllowed, match="TWOFOLD_BUCKETS"):
                places.check(ArtifactUri.parse(text))

    def test_files_are_closed_unless_a_folder_is_named(self) -> None:
        with pytest.raises(PlaceNotAllowed, match="TWOFOLD_FILE_ROOT"):
            Places(buckets={""}).check(ArtifactUri.parse("file:///etc/passwd"))

    def test_only_what_lies_under_the_folder_is_open(self) -> None:
        places = Places(buckets=(), file_root=Path("/data/open"))

        places.check(ArtifactUri.parse("file:///data/open/cat.png"))
        for text in ("file:///data/opened/x", "file:///data/x", "file:////etc/passwd"):
            with pytest.raises(PlaceNotAllowed, match="TWOFOLD_FILE_ROOT"):
                places.check(ArtifactUri.parse(text))


class TestNames:
    def test_no_two_claims_share_a_result(self) -> None:
        run_ids = [new_id(), new_id()]
        jobs = [held_job(), held_job(), held_job(output=Output(name="{job}/x{job}"))]
        claims = [
            (job, Claim(job_id=job.id, fence=fence, run_id=run_id))
            for job in jobs
            for fence in (1, 11)
            for run_id in run_ids
        ]

        places = {str(result_place(job, claim)) for job, claim in claims}

        assert len(places) == len(claims)
        assert f"s3://twofold/results/{jobs[0].id}/1-{run_ids[0]}.png" in places
        assert f"s3://twofold/results/{jobs[2].id}/x{jobs[2].id}/1-{run_ids[0]}.png" in places
        assert not places & {str(preview_place(job, claim)) for job, claim in claims}

    @pytest.mark.parametrize("form", ResultFormat)
    def test_a_preview_is_told_from_every_result_by_its_name(self, form: ResultFormat) -> None:
        job = held_job(output=Output(format=form))

        assert str(result_place(job, job.claim)).endswith(form.suffix)
        assert str(preview_place(job, job.claim)).endswith(f"{job.run_id}.preview.webp")
        assert result_place(job, job.claim) != preview_place(job, job.claim)

    def test_a_fixed_name_may_hold_the_jobs_id(self) -> None:
        job = held_job(publish_to="s3://twofold/big/{job}.png")

        assert str(publish_place(job)) == f"s3://twofold/big/{job.id}.png"
        assert publish_place(held_job()) is None

    def test_the_jobs_id_is_in_the_name_of_a_file_too(self) -> None:
        """Braces are percent-encoded in the URI of a file."""
        wanted = ArtifactUri("file", "", "store/big/{job}.png")
        job = held_job(publish_to=str(wanted))

        assert str(publish_place(job)) == f"file:///store/big/{job.id}.png"

    def test_an_upload_is_named_by_its_content(self) -> None:
        uploads = ArtifactUri.parse("s3://bucket/uploads")

        assert str(upload_place(uploads, "abcd")) == "s3://bucket/uploads/ab/abcd"
