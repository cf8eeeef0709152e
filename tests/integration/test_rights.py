"""What tenants may do: said by the operator, held to at submit, and again where it is done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session
from structlog.testing import capture_logs
from tests.factories import AMPLE, FUTURE, begun, job_of, new_job, submitted
from tests.house import House
from tests.pictures import encoded
from tests.rivals import rivals
from tests.shell import Shell
from tests.upscalers import Noting
from tests.workshop import Make, Workshop

from twofold_producer.keeper.publisher import Publisher
from twofold_producer.producer import Producer
from twofold_producer.submit.request import JobRequest
from twofold_schema import lanes
from twofold_schema.artifacts import ArtifactUri
from twofold_schema.errors import InvalidOperation, PlaceNotAllowed, QueueFull
from twofold_schema.job import Parameters
from twofold_schema.ledger import claims, requests, rights, submit, tallies
from twofold_schema.ledger.rights import Rights
from twofold_schema.states import JobClass, JobState
from twofold_schema.tenant_places import TenantPlaces


def allowed(engine: Engine, tenant: str = "acme", **may: Any) -> Rights:
    with engine.begin() as connection:
        return rights.set_rights(connection, tenant, reason="test", who="test", **may)


def count_jobs(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM jobs")).scalar_one())


class TestSet:
    def test_what_was_not_said_stays_as_it_is(self, engine: Engine) -> None:
        allowed(engine, may_read=["s3://acme/in/"], max_queued=5, rate=2.5)
        allowed(engine, may_write=[], burst=3, max_queued=0)
        now = allowed(engine, rate="any", may_read="any")

        places = TenantPlaces(tenant="acme", may_write=())
        assert now == Rights(places=places, max_queued=0, rate=None, burst=3)
        with engine.connect() as connection:
            assert rights.get(connection, "acme") == now
            assert rights.every_right(connection) == {"acme": now}
            assert rights.get(connection, "zoo") == Rights(places=TenantPlaces(tenant="zoo"))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"may_read": ["s3://acme/../x"]},
            {"may_write": ["acme"]},
            {"max_queued": -1},
            {"rate": 0.0},
            {"rate": float("nan")},
            {"rate": float("inf")},
            {"burst": 0},
        ],
        ids=str,
    )
    def test_what_is_no_right_is_refused(self, engine: Engine, wrong: dict[str, Any]) -> None:
        with pytest.raises(InvalidOperation):
            allowed(engine, **wrong)
        with engine.connect() as connection:
            assert rights.every_right(connection) == {}

    @pytest.mark.parametrize("tenant", ["", " "])
    def test_nobody_has_no_rights(self, engine: Engine, tenant: str) -> None:
        with engine.begin() as connection, pytest.raises(InvalidOperation):
            rights.set_rights(connection, tenant, max_queued=1, reason="why", who="ann")


class TestSubmit:
    @pytest.mark.parametrize(
        "asked",
        [
            {"source": "s3://{bucket}/elsewhere/cat.png"},
            {"source": "s3://{bucket}/in2/cat.png"},
            {"source": "s3://{bucket}/in/%2e%2e/cat.png"},
            {"source": "s3://{bucket}/results/job/1-run.png"},
            {"output_prefix": "s3://{bucket}/elsewhere"},
            {"output_prefix": "s3://{bucket}/out", "output_name": "%2e%2e/{{job}}"},
            {"output_prefix": "s3://{bucket}/out2"},
            {"publish_as": "cat.png"},
            {"output_prefix": "s3://{bucket}/elsewhere", "publish_as": "cat.png"},
        ],
        ids=str,
    )
    def test_a_place_that_is_not_the_tenants_is_refused_and_nothing_is_written(
        self, house: House, producer: Producer, bucket: str, asked: dict[str, str]
    ) -> None:
        allowed(house.engine, may_read=[f"s3://{bucket}/in"], may_write=[f"s3://{bucket}/out"])
        fields = {"source": f"s3://{bucket}/in/cat.png"}
        fields |= {name: value.format(bucket=bucket) for name, value in asked.items()}

        with pytest.raises(PlaceNotAllowed, match="acme"):
            producer.submit(JobRequest.of_fields(fields), tenant="acme")
        assert count_jobs(house.engine) == 0
        # Of others nothing was said.
        accepted = producer.submit(JobRequest.of_fields(fields), tenant="zoo")
        assert job_of(house.engine, accepted.job_id).tenant == "zoo"

    def test_its_own_places_are_accepted_and_so_is_what_twofold_stores(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        allowed(house.engine, may_read=[f"s3://{bucket}/in"], may_write=[f"s3://{bucket}/out"])
        inside = f"s3://{bucket}/in/cat.png"
        named: dict[str, Any] = {
            "output_prefix": f"s3://{bucket}/out/deep",
            "publish_as": "big/{stem}",
        }
        uploaded = producer.submit(encoded(), tenant="acme").job_id
        again = job_of(house.engine, uploaded).source

        for accepted in (
            producer.submit(inside, tenant="acme"),
            producer.submit(inside, tenant="acme", **named),
            producer.submit(again, tenant="acme"),
        ):
            job = job_of(house.engine, accepted.job_id)
            assert (job.tenant, job.state) == ("acme", JobState.QUEUED)

    def test_of_many_those_outside_are_invalid_and_a_submission_is_its_tenants(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        allowed(house.engine, may_read=[f"s3://{bucket}/in"])
        sources = [f"s3://{bucket}/{folder}/cat.png" for folder in ("in", "out", "in")]

        submission = producer.submit_many(sources, tenant="acme")

        assert (submission.created, submission.invalid) == (2, 1)
        assert [fault.code for fault in submission.faults] == ["place_not_allowed"]
        (row,) = house.rows("SELECT tenant FROM submissions")
        assert row["tenant"] == "acme"

    def test_a_manifest_is_read_for_its_tenant(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        allowed(house.engine, may_read=[])

        with pytest.raises(PlaceNotAllowed):
            producer.manifest(f"s3://{bucket}/orders.jsonl", tenant="acme")

    def test_a_shell_submits_for_a_tenant(self, house: House, bucket: str, tmp_path: Path) -> None:
        allowed(house.engine, may_read=[f"s3://{bucket}/in"])
        twofold = Shell(house.environment, tmp_path)
        asked = ("submit", "--tenant", "acme", "-o", "ids")

        refused = twofold(*asked, f"s3://{bucket}/out/cat.png")
        accepted = twofold(*asked, f"s3://{bucket}/in/cat.png")

        assert (refused.returncode, "place_not_allowed" in refused.stderr) == (2, True)
        assert accepted.returncode == 0, accepted.stderr
        assert [row["tenant"] for row in house.rows("SELECT tenant FROM jobs")] == ["acme"]


class TestQuota:
    def test_one_job_more_than_may_wait_is_refused_and_nothing_is_written(
        self, engine: Engine
    ) -> None:
        allowed(engine, max_queued=3)
        submitted(engine, new_job(tenant="acme"), new_job(tenant="acme", start_at=FUTURE))

        with pytest.raises(QueueFull, match=r"acme has 2 jobs waiting and may have 3; 2 more"):
            submitted(engine, *[new_job(tenant="acme", key=key) for key in "ab"])
        assert count_jobs(engine) == 2
        submitted(engine, new_job(tenant="acme", key="a"), *[new_job(tenant="zoo")] * 5)
        assert count_jobs(engine) == 8

    def test_those_that_are_known_by_their_keys_need_no_room(self, engine: Engine) -> None:
        allowed(engine, max_queued=2)
        both = [new_job(tenant="acme", key=key) for key in "ab"]
        ids = submitted(engine, *both)

        assert submitted(engine, *both) == ids
        with pytest.raises(QueueFull):
            submitted(engine, *both, new_job(tenant="acme", key="c"))

    def test_there_is_room_again_when_some_have_begun_or_ended(self, engine: Engine) -> None:
        allowed(engine, max_queued=2)
        ids = submitted(engine, *[new_job(tenant="acme")] * 2)
        with engine.begin() as connection:
            run_id = begun(engine)
            claims.claim(connection, run_id, limit=1, run_deadline=AMPLE)
        submitted(engine, new_job(tenant="acme"))
        with pytest.raises(QueueFull):
            submitted(engine, new_job(tenant="acme"))
        with engine.begin() as connection:
            requests.cancel(connection, ids[1:])
            tallies.fold(connection)
        submitted(engine, new_job(tenant="acme"))

    def test_none_may_wait_where_none_may(self, engine: Engine) -> None:
        allowed(engine, max_queued=0)
        with pytest.raises(QueueFull):
            submitted(engine, new_job(tenant="acme"))

    def test_all_classes_count_together(self, engine: Engine) -> None:
        allowed(engine, max_queued=3)
        submitted(engine, *[new_job(tenant="acme", job_class=one) for one in JobClass])
        with pytest.raises(QueueFull):
            submitted(engine, new_job(tenant="acme"))

    def test_what_others_submit_at_that_moment_is_not_waited_for(self, engine: Engine) -> None:
        """They may go over it together, by what was in flight, and no further."""
        allowed(engine, max_queued=2)
        mine = [new_job(tenant="acme")] * 2
        with rivals(engine) as rival, engine.begin() as slow:
            submit.insert_jobs(slow, mine)
            other = rival(lambda connection: submit.insert_jobs(connection, mine))
            assert not other.blocked
            other.answer()
        with pytest.raises(QueueFull):
            submitted(engine, new_job(tenant="acme"))

    def test_a_long_call_ends_at_the_chunk_that_does_not_fit_and_goes_on_later(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        allowed(house.engine, max_queued=4)
        items = [{"source": f"s3://{bucket}/cat.png", "key": str(n)} for n in range(6)]
        again: dict[str, Any] = {"tenant": "acme", "key": "album", "chunk": 2}

        with pytest.raises(QueueFull):
            producer.submit_many(items, **again)
        assert count_jobs(house.engine) == 4
        allowed(house.engine, max_queued="any")
        submission = producer.submit_many(items, **again)

        assert (submission.created, submission.existing) == (2, 4)
        assert count_jobs(house.engine) == 6

    def test_in_a_session_of_the_callers_own_nothing_of_it_stays(
        self, house: House, producer: Producer, bucket: str
    ) -> None:
        allowed(house.engine, max_queued=0)
        source = f"s3://{bucket}/cat.png"
        with Session(house.engine) as session, session.begin(), pytest.raises(QueueFull):
            producer.submit(source, key="cat", tenant="acme", session=session)
        assert house.rows("SELECT key FROM job_keys") == []


class TestWorker:
    def test_a_claim_brings_what_each_tenants_jobs_may_name(self, engine: Engine) -> None:
        """All of them in one statement, and a batch of many tenants."""
        allowed(engine, "acme", may_read=["s3://acme/in"], may_write=[])
        submitted(engine, new_job(tenant="acme"), new_job(tenant="zoo"), new_job(tenant="acme"))
        run_id = begun(engine)

        with engine.begin() as connection:
            jobs = claims.claim(connection, run_id, limit=10, run_deadline=AMPLE)

        limited = TenantPlaces(tenant="acme", may_read=("s3://acme/in",), may_write=())
        assert [job.places for job in jobs if job.places.tenant == "acme"] == [limited, limited]
        assert [job.places for job in jobs if job.places.tenant == "zoo"] == [
            TenantPlaces(tenant="zoo")
        ]

    @pytest.mark.parametrize("size", [None, (40, 30)], ids=["unmeasured", "stated"])
    @pytest.mark.parametrize(
        "lost",
        [
            lambda shop: {"may_read": [f"file://{shop.folder}/elsewhere"]},
            lambda shop: {"may_write": []},
        ],
        ids=["read", "write"],
    )
    def test_a_place_that_was_lost_since_fails_the_job_and_costs_no_device_time(
        self,
        workshop: Make,
        size: tuple[int, int] | None,
        lost: Callable[[Workshop], dict[str, Any]],
    ) -> None:
        upscaler = Noting()
        shop = workshop(upscaler=upscaler)
        prefix = f"{shop.results}/acme"
        (job_id,) = _submitted_to(shop, prefix, size=size)
        allowed(shop.engine, **lost(shop))
        with shop:
            (job,) = shop.wait_settled([job_id])
            assert job.error is not None
            assert (job.state, job.error.code) == (JobState.FAILED, "place_not_allowed")
            assert upscaler.steps == []

            allowed(shop.engine, may_read="any", may_write=[prefix])
            with shop.engine.begin() as connection:
                requests.retry(connection, [job_id])
            (job,) = shop.wait_final([job_id])
        assert job.state is JobState.SUCCEEDED
        assert job.result is not None
        assert job.result.uri.startswith(f"{prefix}/")

    def test_a_source_that_became_a_link_out_of_the_place_is_not_read(
        self, workshop: Make, tmp_path: Path
    ) -> None:
        shop = workshop()
        mine = tmp_path / "mine"
        mine.mkdir()
        secret = tmp_path / "secret.png"
        secret.write_bytes(encoded())
        (mine / "cat.png").symlink_to(secret)
        allowed(shop.engine, may_read=[f"file://{mine}"])
        (job_id,) = submitted(
            shop.engine,
            new_job(
                tenant="acme",
                source=f"file://{mine}/cat.png",
                output_prefix=shop.results,
                measure=None,
            ),
        )
        with shop:
            (job,) = shop.wait_settled([job_id])

        assert job.error is not None
        assert job.error.code == "place_not_allowed"

    def test_uploads_and_results_of_twofolds_own_are_always_open(self, workshop: Make) -> None:
        shop = workshop()
        allowed(shop.engine, may_read=[str(shop.uploads)], may_write=[])
        with shop:
            (job,) = shop.wait_settled(shop.submit(encoded(40, 30), tenant="acme"))

        assert job.state is JobState.SUCCEEDED

    def test_a_name_that_was_lost_since_is_not_published_until_it_is_open_again(
        self, workshop: Make
    ) -> None:
        with workshop() as shop:
            name = f"{shop.results}/names/cat.png"
            (job_id,) = shop.submit(encoded(40, 30), tenant="acme", publish_to=name)
            shop.wait_settled([job_id])
        allowed(shop.engine, may_write=[])
        with capture_logs() as logs:
            assert Publisher(shop.engine, shop.storage).publish() == 0
        assert [log["code"] for log in logs] == ["place_not_allowed"]
        assert shop.storage.read_metadata(ArtifactUri.parse(name)) is None

        allowed(shop.engine, may_write=[f"{shop.results}/names"])
        assert Publisher(shop.engine, shop.storage).publish() == 1
        assert shop.storage.read_metadata(ArtifactUri.parse(name)) is not None


def _submitted_to(shop: Workshop, prefix: str, *, size: tuple[int, int] | None) -> list[UUID]:
    """A job of a tenant over a good picture whose result goes under this prefix."""
    source = str(shop.stored(encoded(40, 30)))
    measure = size and lanes.measure(Parameters(seed=7), *size)
    asked = new_job(tenant="acme", source=source, output_prefix=prefix, measure=measure)
    return submitted(shop.engine, asked)
