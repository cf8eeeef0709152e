"""The clients: what the service does, from Python, over lost answers and restarts."""

import asyncio
import gc
import inspect
import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from tests.api.conftest import Issue, Served, serving
from tests.factories import begun, claimed, dropped, new_job, result_of, submitted
from tests.house import House, eventually
from tests.pictures import encoded

from twofold_producer.client import AsyncClient, Client, jobs, submitting
from twofold_producer.client.answers import Answer
from twofold_producer.client.calls import Flow
from twofold_producer.submit.submission import Answer as Answered
from twofold_producer.submit.submission import Outcome
from twofold_schema.errors import (
    ApiFailed,
    ApiUnreachable,
    ConfigError,
    InvalidParameter,
    JobNotFound,
    KeyReused,
    QueueFull,
    SourceUnreadable,
    TwofoldError,
    WaitTimeout,
)
from twofold_schema.ledger import outcomes, rights
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.states import JobState
from twofold_schema.wire import JobReport


def _source(served: Served, number: int = 0) -> str:
    bucket = served.house.environment["TWOFOLD_RESULTS"].split("/")[2]
    return f"s3://{bucket}/{number}.png"


def _run(served: Served, limit: int = 100) -> int:
    engine = served.house.engine
    run_id = begun(engine)
    taken = claimed(engine, run_id, limit=limit, started=True)
    if taken:
        with engine.begin() as connection:
            outcomes.complete(connection, run_id, {claim: result_of(claim) for claim in taken})
    return len(taken)


@contextmanager
def _worked_on(served: Served) -> Iterator[None]:
    """Jobs are done as they come."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            _run(served)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()


class _Cutting(httpx2.BaseTransport):
    """Loses the first answers: what was asked is done, and nobody hears of it."""

    def __init__(
        self, times: int, *, of: Callable[[httpx2.Request], bool] = lambda _: True
    ) -> None:
        self._inner = httpx2.HTTPTransport()
        self._left = times
        self._of = of
        self.asked: list[httpx2.Request] = []

    def close(self) -> None:
        self._inner.close()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        answer = self._inner.handle_request(request)
        if self._of(request):
            self.asked.append(request)
            if self._left:
                self._left -= 1
                answer.read()
                answer.close()
                raise httpx2.ReadError("cut off")
        return answer


def _nowhere() -> Client:
    """One that finds nobody: what it refuses was not sent."""
    return Client("http://127.0.0.1:9", "tfk_x", max_retries=0)


class TestSubmitting:
    def test_a_file_in_memory_is_uploaded_first(self, served: Served) -> None:
        with served.client() as client:
            job = client.submit(encoded(16, 8), key="cat", metadata={"order": "42"})
            assert client.get_by_key("cat").id == job.id
            assert [one.id for one in client.jobs(metadata={"order": "42"})] == [job.id]
            with pytest.raises(SourceUnreadable):
                client.submit(b"no picture")
        assert "/tenants/" in job.source
        assert job.source.startswith(served.house.environment["TWOFOLD_UPLOADS"])

    def test_the_same_file_lies_in_one_place_and_no_other_tenants(self, served: Served) -> None:
        with served.client("acme") as client, served.client("zoo") as other:
            place = client.upload(encoded(16, 8))
            assert client.upload(encoded(16, 8)) == place
            assert client.upload(encoded(8, 8)) != place
            assert other.upload(encoded(16, 8)) != place
            first = client.submit(encoded(16, 8), key="cat")
            assert client.submit(encoded(16, 8), key="cat").id == first.id

    def test_a_lost_answer_is_asked_for_again_under_the_same_key(self, served: Served) -> None:
        cutting = _Cutting(2)
        with (
            httpx2.Client(transport=cutting) as http,
            served.client(http_client=http) as client,
        ):
            client.submit(_source(served))
        keys = [json.loads(request.content)["key"] for request in cutting.asked]
        assert len(keys) == 3
        assert len(set(keys)) == 1
        assert len(served.house.rows("SELECT FROM jobs")) == 1

    @pytest.mark.parametrize("key", ["Bücher 42", "本", 200 * "k", '"cat"', " cat"])
    def test_the_key_of_one_job_is_any_that_the_python_door_takes(
        self, served: Served, key: str
    ) -> None:
        with served.client() as client:
            job = client.submit(_source(served), key=key)
            assert client.submit(_source(served), key=key).id == job.id
            assert client.get_by_key(key).id == job.id
            with pytest.raises(InvalidParameter, match="key: "):
                client.submit(_source(served), key=201 * "k")
        assert job.key == key

    @pytest.mark.parametrize("key", ["Bücher 42", "本", 181 * "k", '"cat"', " cat", "a\nb"])
    def test_the_key_of_many_that_no_header_carries_is_refused_before_anything_is_sent(
        self, tmp_path: Path, key: str
    ) -> None:
        path = tmp_path / "in.jsonl"
        path.write_text("")
        with _nowhere() as client:
            with pytest.raises(InvalidParameter, match="SHA-256"):
                client.submit_many([{"source": "s3://a/b.png"}], key=key)
            for place in (path, "s3://a/in.jsonl"):
                with pytest.raises(InvalidParameter, match="ASCII"):
                    client.submit_manifest(place, key=key)

    def test_the_longest_key_of_many_leaves_room_for_those_of_its_items(
        self, served: Served
    ) -> None:
        key = 178 * "k" + " ~"
        with served.client() as client:
            (job_id,) = client.submit_many([{"source": _source(served)}], key=key).job_ids
            assert client.get(job_id).key == f"{key}/1"

    def test_many_are_sent_again_whole_and_written_once(self, served: Served) -> None:
        cutting = _Cutting(1)
        items = ({"source": _source(served, n)} for n in range(7000))
        with (
            httpx2.Client(transport=cutting) as http,
            served.client(http_client=http) as client,
        ):
            submission = client.submit_many(items)
        assert (submission.created, submission.existing) == (0, 7000)
        assert len(set(submission.job_ids)) == 7000
        assert served.house.rows("SELECT count(*) AS n FROM jobs")[0]["n"] == 7000

    def test_says_of_each_item_what_came_of_it(self, served: Served) -> None:
        items = [{"source": _source(served)}, {"source": "cat.png", "key": "b"}]
        with served.client() as client:
            submission = client.submit_many(items)
        assert (submission.created, submission.invalid) == (1, 1)
        (fault,) = submission.faults
        assert (fault.position, fault.key, fault.code) == (1, "b", "invalid_parameter")

    @pytest.mark.parametrize(
        "item",
        [
            Path("cat.png"),
            b"a picture",
            bytearray(b"a picture"),
            {"source": Path("cat.png")},
            {"source": b"a picture"},
        ],
        ids=["path", "bytes", "bytearray", "path in fields", "bytes in fields"],
    )
    @pytest.mark.parametrize("by_map", [False, True])
    def test_many_are_not_uploaded_and_what_does_is_named(self, item: Any, *, by_map: bool) -> None:
        items = [{"source": "s3://a/b.png"}, item]
        with _nowhere() as client, pytest.raises(InvalidParameter, match=r"Item 1 .*\.upload\("):
            list(client.map(items)) if by_map else client.submit_many(items)

    @pytest.mark.parametrize("item", ["s3://a/b.png", Path("cat.png"), b"a", {"source": "a"}])
    @pytest.mark.parametrize("by_map", [False, True])
    def test_one_is_not_taken_for_many(self, item: Any, *, by_map: bool) -> None:
        with _nowhere() as client, pytest.raises(InvalidParameter, match="several items"):
            list(client.map(item)) if by_map else client.submit_many(item)

    def test_files_here_are_many_once_they_are_uploaded(
        self, served: Served, tmp_path: Path
    ) -> None:
        for side in (8, 16):
            (tmp_path / f"{side}.png").write_bytes(encoded(side, side))
        with served.client() as client:
            submission = client.submit_many(
                {"source": client.upload(path)} for path in tmp_path.glob("*.png")
            )
        assert submission.created == 2

    def test_an_answer_that_was_cut_off_is_heard_once(self) -> None:
        """The next try's answer begins anew."""
        ids, told = [uuid4() for _ in range(3)], list[Answered]()
        flow = submitting.submit_lines(io.BytesIO(), key="album", on_answers=told.extend)
        hear = next(flow).on_line
        assert hear is not None
        items = [Answered(n, None, Outcome.EXISTING, ids[n], line=n + 1) for n in range(3)]
        lines = [json.dumps(item._asdict(), default=str) for item in items]
        summed = {"id": str(uuid4()), "created": 0, "existing": 3, "invalid": 0, "faults": []}
        for line in (*lines[:2], *lines, json.dumps(summed)):
            hear(line)
        with pytest.raises(StopIteration) as end:
            flow.send(Answer(202, {}, b""))
        assert list(end.value.value.job_ids) == ids
        assert told == items

    def test_a_manifest_here(self, served: Served, tmp_path: Any) -> None:
        path = tmp_path / "in.jsonl"
        path.write_text(json.dumps({"source": _source(served)}) + "\n")
        with served.client() as client:
            assert client.submit_manifest(path, key="album").created == 1
            assert client.submit_manifest(path, key="album").existing == 1
            with pytest.raises(SourceUnreadable):
                client.submit_manifest(tmp_path / "none.jsonl")


class TestErrors:
    def test_are_those_of_the_ledger_by_their_codes(self, served: Served) -> None:
        with served.client() as client:
            client.submit(_source(served), key="cat")
            with pytest.raises(KeyReused) as reused:
                client.submit(_source(served, 1), key="cat")
            with pytest.raises(JobNotFound):
                client.get(uuid4())
        assert reused.value.members["status"] == 422
        assert reused.value.members["request_id"]

    def test_nobody_there(self) -> None:
        with (
            Client("http://127.0.0.1:9", "tfk_x", max_retries=1) as client,
            pytest.raises(ApiUnreachable, match="TWOFOLD_URL"),
        ):
            client.get(uuid4())

    def test_a_page_of_somebody_elses(self, served: Served) -> None:
        page = httpx2.MockTransport(lambda _: httpx2.Response(403, html="<h1>Forbidden</h1>"))
        with (
            httpx2.Client(transport=page) as http,
            served.client(http_client=http) as client,
            pytest.raises(TwofoldError, match="The answer was 403"),
        ):
            client.get(uuid4())

    @pytest.mark.parametrize("status", [301, 307, 308])
    def test_to_be_sent_elsewhere_is_no_answer(self, served: Served, status: int) -> None:
        moved = httpx2.Response(status, headers={"Location": "https://there/"}, text="<Error/>")
        with (
            httpx2.Client(transport=httpx2.MockTransport(lambda _: moved)) as http,
            served.client(http_client=http, max_retries=0) as client,
            pytest.raises(ApiFailed, match="go to https://there/"),
        ):
            client.get(uuid4())

    def test_nothing_is_said_of_where_or_who(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("TWOFOLD_URL", "TWOFOLD_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(ConfigError, match="TWOFOLD_URL"):
            Client()
        with pytest.raises(ConfigError, match="https://host"):
            Client("localhost:8080", "tfk_x")

    def test_a_queue_that_is_full_is_not_asked_for_ever(self, served: Served) -> None:
        with served.house.engine.begin() as connection:
            rights.set_rights(connection, "acme", max_queued=0, reason="x", who="x")
        with served.client("acme", max_retries=1) as client, pytest.raises(QueueFull):
            client.submit(_source(served))

    def test_the_key_is_in_no_repr_and_goes_nowhere_else(self, served: Served) -> None:
        secret = served.issue()
        seen: list[str | None] = []

        def note(request: httpx2.Request) -> None:
            if request.url.port != httpx2.URL(served.url).port:
                seen.append(request.headers.get("Authorization"))

        with (
            httpx2.Client(event_hooks={"request": [note]}) as http,
            Client(served.url, secret, http_client=http) as client,
        ):
            client.submit(encoded(16, 8))
            assert secret not in repr(vars(client))
        assert seen == [None]


class TestWaiting:
    def test_is_over_when_time_is_and_the_work_goes_on(self, served: Served) -> None:
        with served.client() as client:
            job = client.submit(_source(served))
            with pytest.raises(WaitTimeout, match="they go on"):
                client.wait(job.id, timeout=0.2)
            _run(served)
            heard = list[tuple[int, int]]()
            (ended,) = client.wait(
                job.id, timeout=30, on_progress=lambda ended, of: heard.append((ended, of))
            )
        assert heard == [(1, 1)]
        assert ended.state is JobState.SUCCEEDED

    def test_jobs_come_as_they_end_those_that_have_first(self, served: Served) -> None:
        with served.client() as client:
            submission = client.submit_many({"source": _source(served, n)} for n in range(6))
            assert _run(served, 2) == 2
            ended = client.as_completed(submission)
            first = [next(ended).id for _ in range(2)]
            while _run(served, 2):
                first += [next(ended).id for _ in range(2)]
            assert list(ended) == []
        assert sorted(first) == sorted(submission.job_ids)

    def test_goes_on_where_it_was_after_the_service_was_away(
        self, house: House, issue: Issue
    ) -> None:
        """One process ends while jobs do, and another takes its place at the same address."""
        ids = submitted(house.engine, *[new_job()] * 4)
        with ExitStack() as first, ExitStack() as second:
            url = first.enter_context(serving(house.environment))
            client = second.enter_context(Client(url, issue(), max_retries=20))
            served = Served(url, house, issue)
            ended = client.as_completed(ids)
            _run(served, 1)
            told = [next(ended).id]
            first.close()
            _run(served, 3)
            port = str(httpx2.URL(url).port)
            second.enter_context(serving({**house.environment, "TWOFOLD_API_PORT": port}))
            told += [job.id for job in ended]
        assert sorted(told) == sorted(ids)

    @pytest.mark.parametrize("ended", [False, True])
    def test_an_id_that_no_job_has_is_said_at_once(self, served: Served, *, ended: bool) -> None:
        """Whether or not a job beside it has ended."""
        unknown = uuid4()
        with served.client(timeout=5) as client:
            job = client.submit(_source(served))
            assert not ended or _run(served) == 1
            with pytest.raises(JobNotFound, match=f"the id {unknown}"):
                list(client.as_completed([job.id, unknown]))

    def test_a_look_at_many_holds_no_more_than_have_ended(self, served: Served) -> None:
        """Besides those that were asked for at once."""

        def are_few() -> bool:
            gc.collect()
            # Not isinstance, which asks every object for its class, and some warn then.
            alive = sum(type(one) is JobReport for one in gc.get_objects())
            return alive <= jobs.AT_ONCE + 3

        def look(ids: Sequence[UUID]) -> Flow[list[JobReport]]:
            flow = jobs.ended_of(ids)
            call = next(flow)
            while True:
                # The service is in this process, and lets its own go a moment later.
                eventually(are_few, within=15)
                try:
                    call = flow.send((yield call))
                except StopIteration as end:
                    found: list[JobReport] = end.value
                    return found

        with served.client() as client:
            items = ({"source": _source(served, n)} for n in range(4 * jobs.AT_ONCE))
            ids = client.submit_many(items).job_ids
            assert _run(served, 3) == 3
            assert len(client._run(look(ids))) == 3

    @pytest.mark.parametrize("ordered", [False, True])
    def test_map_says_that_a_keys_job_is_gone(self, served: Served, *, ordered: bool) -> None:
        """Keys may be remembered for longer than jobs are kept."""
        items = [{"source": _source(served, n), "key": str(n)} for n in range(2)]
        with served.client(timeout=5) as client:
            (gone, _) = client.submit_many(items).job_ids
            assert _run(served) == 2
            dropped(served.house.engine, gone)
            with pytest.raises(JobNotFound, match=f"the id {gone}"):
                list(client.map(items, ordered=ordered))

    @pytest.mark.parametrize("ordered", [False, True])
    def test_map_has_no_more_under_way_than_its_window(
        self, served: Served, *, ordered: bool
    ) -> None:
        taken = 0

        def items() -> Iterator[dict[str, str]]:
            nonlocal taken
            for number in range(12):
                taken += 1
                yield {"source": _source(served, number)}

        with served.client() as client, _worked_on(served):
            sources = []
            for count, job in enumerate(client.map(items(), window=4, ordered=ordered), 1):
                sources.append(job.source)
                assert taken <= count + 4
        expected = [_source(served, number) for number in range(12)]
        assert sorted(sources) == sorted(expected)
        if ordered:
            assert sources == expected


class TestOperating:
    def test_counts_cancels_pauses_and_resumes(self, served: Served) -> None:
        house = served.house
        submitted(house.engine, *[new_job()] * 3)
        where = JobFilter(states=(JobState.QUEUED,))
        with served.client() as client:
            dry = client.cancel_where(where, reason="x", dry_run=True)
            assert dry.expected == 3
            client.pause(reason="maintenance")
            assert client.queues()[1].pauses[0].reason == "maintenance"
            assert client.resume(reason="over") is True
            assert client.resume() is False
            begun_ = client.cancel_where(where, reason="x")
            assert begun_.id is not None
            house.keeper()
            eventually(lambda: client.operation(begun_.id).finished_at)  # type: ignore[arg-type]
            assert client.operation(begun_.id).counts == {"cancelled": 3}
            (listed,) = client.operations(kinds=[OperationKind.CANCEL])
            assert listed == client.operation(begun_.id)
            assert client.operations(unfinished=True) == []
        with served.client(None) as client:
            assert client.workers() == []
            scale = client.autoscale()
        assert (scale.queued_jobs, scale.queued_gpu_seconds, scale.wanted_workers) == (0, 0, 0)

    def test_a_resume_whose_answer_was_lost_is_not_asked_again(self, served: Served) -> None:
        """The second answer would be that there was no pause."""
        cutting = _Cutting(1, of=lambda request: request.url.path == "/v1/queues/resume")
        with (
            httpx2.Client(transport=cutting) as http,
            served.client(http_client=http) as client,
        ):
            client.pause(reason="maintenance")
            with pytest.raises(ApiUnreachable):
                client.resume()
            assert all(queue.pauses == [] for queue in client.queues())


def test_both_clients_have_the_same_face() -> None:
    def face(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert face(Client) == face(AsyncClient)


def test_the_asynchronous_one_does_the_same(served: Served) -> None:
    async def work() -> None:
        async with AsyncClient(served.url, served.issue()) as client:
            job = await client.submit(encoded(16, 8), key="cat")
            submission = await client.submit_many({"source": _source(served, n)} for n in range(4))
            ended = client.as_completed([job.id, *submission.job_ids])
            await asyncio.to_thread(_run, served, 100)
            await asyncio.to_thread(_run, served, 100)
            told = [one.id async for one in ended]
            assert sorted(told) == sorted([job.id, *submission.job_ids])
            assert [one.id async for one in client.jobs(states=[JobState.QUEUED])] == []
            with pytest.raises(JobNotFound):
                await client.get(uuid4())
            several = [client.get(job.id) for _ in range(20)]
            assert {one.id for one in await asyncio.gather(*several)} == {job.id}

    asyncio.run(work())
