"""Manifests are read line by line, whatever is in them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold_producer.submit import manifest
from twofold_producer.submit.manifest import Line, read_manifest
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import InvalidParameter, SourceUnreadable
from twofold_schema.storage.directory import DirectoryStorage

Text = st.binary(max_size=6).map(lambda data: data.replace(b"\n", b""))


def lines_of(data: bytes, sizes: list[int]) -> list[Line]:
    """The lines of data that comes in blocks of these sizes, over and over."""

    def blocks() -> Iterator[bytes]:
        left, number = data, 0
        while left:
            size = sizes[number % len(sizes)]
            yield left[:size]
            left, number = left[size:], number + 1

    return list(manifest.lines(blocks()))


@given(st.lists(Text), st.lists(st.integers(1, 9), min_size=1))
def test_lines_are_the_same_in_whatever_blocks_they_come(
    texts: list[bytes], sizes: list[int]
) -> None:
    numbered = [(number, text) for number, text in enumerate(texts, 1) if text.strip()]
    bom = b"\xef\xbb\xbf"
    expected = [(n, text.removeprefix(bom) if n == 1 else text) for n, text in numbered]

    found = lines_of(b"\n".join(texts), sizes)

    assert [(line.number, line.text) for line in found] == [
        (number, text) for number, text in expected if text.strip()
    ]


def test_a_byte_order_mark_and_carriage_returns_are_passed_over() -> None:
    text = b'\xef\xbb\xbf{"source": "s3://a-b/c"}\r\n\r\n{"source": "s3://a-b/d"}'

    first, second = lines_of(text, [7])

    assert (first.number, first.request().source) == (1, "s3://a-b/c")
    assert (second.number, second.request().source) == (3, "s3://a-b/d")


def test_a_line_that_never_ends_is_not_held_and_is_one_fault() -> None:
    endless = b'{"source": "' + b"x" * 10**6

    first, second = lines_of(endless + b'\n{"source": "s3://a-b/c"}', [1000])

    assert len(first.text) <= manifest._LONGEST_LINE + 1
    with pytest.raises(InvalidParameter, match=r"Line 1 is no JSON object"):
        first.request()
    assert second.request().source == "s3://a-b/c"


@pytest.mark.parametrize(
    "fields",
    [
        "",
        "17",
        "null",
        "[]",
        "{",
        "[" * 100_000,
        '{"source": 17}',
        '{"source": "cat.png"}',
        '{"source": "/etc/passwd"}',
        "{}",
        '{"source": "s3://a-b/c", "steps": "many"}',
        '{"source": "s3://a-b/c", "tags": []}',
        '{"source": "s3://a-b/c", "prompt": "\\ud800"}',
        '{"source": "s3://a-b/c", "start_at": "2100-01-01T00:00:00"}',
    ],
)
def test_what_is_no_request_is_one_lines_fault(fields: str) -> None:
    with pytest.raises(InvalidParameter, match="Line 7"):
        Line(7, fields.encode()).request()


def test_a_line_has_all_fields_of_a_request() -> None:
    fields: dict[str, Any] = {
        "source": "s3://a-b/c",
        "key": "cat",
        "width": 64,
        "height": 64,
        "job_class": "bulk",
        "output_format": "webp",
        "metadata": {"a": "b"},
        "finish_by": "2100-01-01T00:00:00Z",
    }

    request = Line(1, json.dumps(fields).encode()).request()

    assert json.loads(request.model_dump_json(include=set(fields))) == fields


def test_files_here_and_in_storage_are_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"source": "s3://a-b/c"}\n' * 50_000)
    storage = DirectoryStorage(tmp_path)
    uri = str(ArtifactUri.of_file(path))

    here, there = (list(read_manifest(place, storage)) for place in (path, uri))

    assert here == there
    assert [line.number for line in here] == list(range(1, 50_001))


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match=r"none\.jsonl"):
        list(read_manifest(tmp_path / "none.jsonl", DirectoryStorage(tmp_path)))
