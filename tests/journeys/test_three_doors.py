"""The same work through the Python door, the HTTP client and the command line over HTTP.

A worker does it all; then each door is asked of everybody's jobs, and all three say the same.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import pytest
from PIL import Image
from sqlalchemy import Engine
from tests.api.conftest import serving
from tests.factories import FUTURE
from tests.house import House
from tests.pictures import encoded
from tests.shell import Shell

from twofold_producer.client import Client
from twofold_producer.producer import Producer
from twofold_schema.api_key import Scope
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.ledger import api_keys, reads
from twofold_schema.states import JobState
from twofold_schema.wire import JobReport

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

WIDTH, HEIGHT = 24, 16
_LIMIT = 10**6


class _Door(Protocol):
    """What the journey does; the two numbers are of created and of invalid items."""

    name: str

    def submit(self, source: str, key: str, by: str) -> UUID: ...

    def submit_many(self, items: Sequence[Mapping[str, Any]]) -> tuple[int, int, list[UUID]]: ...

    def having(self, by: str) -> set[UUID]: ...

    def wait(self, job_ids: Sequence[UUID]) -> None: ...

    def result(self, job_id: UUID) -> bytes: ...

    def cancel(self, job_id: UUID) -> str: ...

    def retry(self, job_id: UUID) -> None: ...

    def told(self, job_ids: Sequence[UUID]) -> list[dict[str, Any]]: ...


class _Python:
    name = "python"

    def __init__(self, producer: Producer, engine: Engine) -> None:
        self._producer = producer
        self._engine = engine

    def submit(self, source: str, key: str, by: str) -> UUID:
        return self._producer.submit(source, key=key, metadata={"by": by}).job_id

    def submit_many(self, items: Sequence[Mapping[str, Any]]) -> tuple[int, int, list[UUID]]:
        came = self._producer.submit_many(items)
        return came.created, came.invalid, list(came.job_ids)

    def having(self, by: str) -> set[UUID]:
        with self._engine.connect() as connection:
            found = reads.find(connection, tenant="default", metadata={"by": by})
        return {job.id for job in found}

    def wait(self, job_ids: Sequence[UUID]) -> None:
        self._producer.wait(job_ids, timeout=120)

    def result(self, job_id: UUID) -> bytes:
        result = self._producer.get(job_id).result
        assert result is not None
        uri = ArtifactUri.parse(result.uri)
        return self._producer.storage.read(uri, max_bytes=_LIMIT).data

    def cancel(self, job_id: UUID) -> str:
        return self._producer.cancel(job_id)[job_id]

    def retry(self, job_id: UUID) -> None:
        self._producer.retry(job_id)

    def told(self, job_ids: Sequence[UUID]) -> list[dict[str, Any]]:
        jobs = [JobReport.of(self._producer.get(job_id)) for job_id in job_ids]
        return [job.model_dump(mode="json") for job in jobs]


class _Http:
    name = "http"

    def __init__(self, client: Client) -> None:
        self._client = client

    def submit(self, source: str, key: str, by: str) -> UUID:
        return self._client.submit(source, key=key, metadata={"by": by}).id

    def submit_many(self, items: Sequence[Mapping[str, Any]]) -> tuple[int, int, list[UUID]]:
        came = self._client.submit_many(items)
        return came.created, came.invalid, list(came.job_ids)

    def having(self, by: str) -> set[UUID]:
        return {job.id for job in self._client.jobs(metadata={"by": by})}

    def wait(self, job_ids: Sequence[UUID]) -> None:
        self._client.wait(job_ids, timeout=120)

    def result(self, job_id: UUID) -> bytes:
        return self._client.result(job_id)

    def cancel(self, job_id: UUID) -> str:
        return self._client.cancel(job_id).answer

    def retry(self, job_id: UUID) -> None:
        self._client.retry(job_id)

    def told(self, job_ids: Sequence[UUID]) -> list[dict[str, Any]]:
        return [job.model_dump(mode="json") for job in self._client.get_many(job_ids)]


class _CommandLine:
    name = "cli"

    def __init__(self, twofold: Shell, folder: Path, producer: Producer) -> None:
        self._twofold = twofold
        self._folder = folder
        self._storage = producer.storage

    def submit(self, source: str, key: str, by: str) -> UUID:
        said = self._said("submit", source, "--key", key, "--metadata", f"by={by}", "-o", "ids")
        return UUID(said.strip())

    def submit_many(self, items: Sequence[Mapping[str, Any]]) -> tuple[int, int, list[UUID]]:
        lines = "\n".join(json.dumps(item, default=str) for item in items)
        (self._folder / "in.jsonl").write_text(lines, encoding="utf-8")
        said = self._said("submit", "--manifest", "in.jsonl", "-o", "jsonl", status=2)
        answers = [json.loads(line) for line in said.splitlines()]
        outcomes = [answer["outcome"] for answer in answers]
        ids = [UUID(answer["job_id"]) for answer in answers if answer["job_id"]]
        return outcomes.count("created"), outcomes.count("invalid"), ids

    def having(self, by: str) -> set[UUID]:
        said = self._said("jobs", "list", "--metadata", f"by={by}", "-o", "ids")
        return {UUID(line) for line in said.splitlines()}

    def wait(self, job_ids: Sequence[UUID]) -> None:
        ended = self._twofold("jobs", "get", *job_ids, "--wait", "--timeout", 50, "-o", "json")
        states = {job["state"] for job in json.loads(ended.stdout)}
        assert ended.returncode == (0 if states == {"succeeded"} else 3), ended.stderr

    def result(self, job_id: UUID) -> bytes:
        uri = self._said("jobs", "get", job_id, "--wait", "-o", "table").strip()
        return self._storage.read(ArtifactUri.parse(uri), max_bytes=_LIMIT).data

    def cancel(self, job_id: UUID) -> str:
        return self._said("jobs", "cancel", job_id).split()[1]

    def retry(self, job_id: UUID) -> None:
        self._said("jobs", "retry", job_id)

    def told(self, job_ids: Sequence[UUID]) -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = json.loads(self._said("jobs", "get", *job_ids))
        return said

    def _said(self, *arguments: object, status: int = 0) -> str:
        ended = self._twofold(*arguments)
        assert ended.returncode == status, ended.stderr
        return ended.stdout


@pytest.fixture
def doors(house: House, tmp_path: Path) -> Iterator[Sequence[_Door]]:
    with house.engine.begin() as connection:
        made = api_keys.create(
            connection,
            "of a test",
            tenant="default",
            scopes=[Scope.SUBMIT, Scope.READ],
            reason="a test",
            who="a test",
        )
    producer = house.producer()
    with serving(house.environment) as url, Client(url, made.secret) as client:
        over_http = Shell({"TWOFOLD_URL": url, "TWOFOLD_API_KEY": made.secret}, tmp_path)
        yield (
            _Python(producer, house.engine),
            _Http(client),
            _CommandLine(over_http, tmp_path, producer),
        )


@pytest.mark.timeout(600)
def test_three_doors_lead_to_the_same_work(
    house: House, doors: Sequence[_Door], s3: "S3Client", bucket: str
) -> None:
    s3.put_object(Bucket=bucket, Key="cat.png", Body=encoded(WIDTH, HEIGHT))
    house.worker()
    work = {door.name: _journey(door, s3, bucket) for door in doors}
    everybodys = [job_id for ids in work.values() for job_id in ids]

    said = [door.told(everybodys) for door in doors]

    assert len(said[0]) == len(everybodys) == 12
    assert said[0] == said[1] == said[2]
    by_door = [[_in_common(job) for job in said[0][n : n + 4]] for n in range(0, 12, 4)]
    assert by_door[0] == by_door[1] == by_door[2]


def _journey(door: _Door, s3: "S3Client", bucket: str) -> list[UUID]:
    """Submit, be told, change one's mind; the ids of the jobs, each of which has ended."""
    name, good = door.name, f"s3://{bucket}/cat.png"
    late = f"s3://{bucket}/{name}.png"
    common = {"steps": 2, "seed": 7, "metadata": {"by": name}}
    one = door.submit(good, f"{name}-one", name)
    created, invalid, ids = door.submit_many(
        [
            {"source": good, "key": f"{name}-good", **common},
            {"source": good, "key": f"{name}-bad", **common, "steps": 0},
            {"source": late, "key": f"{name}-late", **common},
            {"source": good, "key": f"{name}-never", **common, "start_at": FUTURE.isoformat()},
        ]
    )
    assert (created, invalid) == (3, 1)
    many, missing, never = ids
    assert door.submit(good, f"{name}-one", name) == one, "found by its key"
    assert door.having(name) == {one, many, missing, never}
    assert door.cancel(never) == JobState.CANCELLED

    door.wait([one, many, missing, never])
    states = [job["state"] for job in door.told([one, many, missing, never])]
    assert states == ["succeeded", "succeeded", "failed", "cancelled"]
    s3.put_object(Bucket=bucket, Key=f"{name}.png", Body=encoded(WIDTH, HEIGHT))
    door.retry(missing)
    door.wait([missing])

    (again,) = door.told([missing])
    assert (again["state"], again["generation"]) == ("succeeded", 2)
    for job_id in (one, many, missing):
        with Image.open(io.BytesIO(door.result(job_id))) as picture:
            assert picture.size == (2 * WIDTH, 2 * HEIGHT)
    return [one, many, missing, never]


def _in_common(job: Mapping[str, Any]) -> tuple[object, ...]:
    """What the doors' jobs have to agree in."""
    error = job["error"] and job["error"]["code"]
    codes = [error["code"] for error in job["errors"]]
    names = ("state", "tenant", "generation", "attempts", "max_attempts", "width", "height")
    key = job["key"].partition("-")[2]
    return key, error, codes, job["parameters"]["steps"], *(job[name] for name in names)
