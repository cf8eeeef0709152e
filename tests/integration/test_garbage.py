"""What no row names is collected, and nothing else, whatever lies beside it."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, text
from tests.factories import begun, claimed, held_job, job_of, result_of
from tests.house import House, eventually
from tests.pictures import encoded
from tests.shell import Shell
from tests.workshop import Make, Workshop

from twofold_producer.keeper.duties import storage_duties
from twofold_producer.keeper.garbage import Collector, is_garbage
from twofold_producer.keeper.loop import Keeper
from twofold_schema.artifacts import ArtifactUri, preview_place, result_place
from twofold_schema.errors import ResultDenied
from twofold_schema.ids import new_id
from twofold_schema.job import Claim, Output
from twofold_schema.ledger import outcomes
from twofold_schema.settings import KeeperSettings
from twofold_schema.states import JobState
from twofold_schema.storage.port import Entry, Storage

NO_GRACE = timedelta(seconds=-60)  # also what was written this very moment


def collector(shop: Workshop, *, grace: timedelta = NO_GRACE, dry_run: bool = False) -> Collector:
    prefix = ArtifactUri.parse(shop.results)
    return Collector(shop.engine, shop.storage, prefix, grace=grace, dry_run=dry_run)


def put(shop: Workshop, uri: ArtifactUri) -> ArtifactUri:
    """Leave an object behind."""
    shop.storage.write_once(uri, b"x", content_type="image/png", sha256="", metadata={})
    return uri


def left(shop: Workshop) -> set[ArtifactUri]:
    return {entry.uri for entry in shop.storage.list(ArtifactUri.parse(shop.results))}


def kept_by(shop: Workshop, job_id: UUID) -> set[ArtifactUri]:
    """The objects that a job's row names."""
    result = job_of(shop.engine, job_id).result
    assert result is not None
    assert result.preview is not None
    return {ArtifactUri.parse(result.uri), ArtifactUri.parse(result.preview)}


def test_a_zombies_results_go_and_the_winners_stay(workshop: Make) -> None:
    with workshop() as shop:
        (job,) = shop.wait_settled(shop.submit(encoded()))
    zombie = Claim(job_id=job.id, fence=job.fence, run_id=new_id())
    garbage = {put(shop, result_place(job, zombie)), put(shop, preview_place(job, zombie))}

    look = collector(shop).look()

    assert {entry.uri for entry in look.garbage} == garbage
    assert left(shop) == kept_by(shop, job.id)


def test_a_dry_run_says_it_and_deletes_nothing(workshop: Make) -> None:
    with workshop() as shop:
        (job,) = shop.wait_settled(shop.submit(encoded()))
    zombie = put(shop, result_place(job, Claim(job_id=job.id, fence=job.fence, run_id=new_id())))
    before = left(shop)

    look = collector(shop, dry_run=True).look()

    assert [entry.uri for entry in look.garbage] == [zombie]
    assert left(shop) == before


def test_what_is_young_is_left_alone(workshop: Make) -> None:
    with workshop() as shop:
        (job,) = shop.wait_settled(shop.submit(encoded()))
    put(shop, result_place(job, Claim(job_id=job.id, fence=job.fence, run_id=new_id())))

    look = collector(shop, grace=timedelta(hours=1)).look()

    assert (look.looked_at, look.garbage) == (0, ())


def test_what_is_none_of_ours_is_left_alone(workshop: Make) -> None:
    """Other people's files, jobs of another database, published names, and near misses."""
    with workshop() as shop:
        (job,) = shop.wait_settled(shop.submit(encoded()))
    prefix, run_id = ArtifactUri.parse(shop.results), new_id()
    strangers = {
        put(shop, prefix.child(name))
        for name in (
            "cat.png",
            f"{job.id}.png",
            f"{job.id}/notes.txt",
            f"{job.id}/1-{run_id}",
            f"{job.id}/1-{run_id}.png.bak",
            f"{job.id}/x1-{run_id}.png",
            f"{job.id}/1-{run_id}.webp",  # not the format that this job has
            f"elsewhere/{job.id}/1-{run_id}.png",
            f"{new_id()}/1-{run_id}.png",
        )
    }

    look = collector(shop).look()

    assert look.garbage == ()
    assert left(shop) == strangers | kept_by(shop, job.id)


def test_what_a_copy_of_the_database_has_not_seen_is_left_alone(
    workshop: Make, engine: Engine
) -> None:
    """Yesterday's copy, kept elsewhere over the same bucket, knows the job only as queued."""
    shop = workshop()
    (job_id,) = shop.submit(encoded())
    job = job_of(engine, job_id)
    put(shop, result_place(job, Claim(job_id=job.id, fence=job.fence + 1, run_id=new_id())))

    assert collector(shop).look().garbage == ()


def test_what_a_run_is_about_to_name_is_left_alone(workshop: Make, engine: Engine) -> None:
    """Until its claim is over, one way or another."""
    shop = workshop()
    (job_id,) = shop.submit(encoded())
    run_id = begun(engine, model_revision="1")
    (claim,) = claimed(engine, run_id)
    job = job_of(engine, job_id)
    mine = put(shop, result_place(job, claim))

    assert collector(shop).look().garbage == ()

    with engine.begin() as connection:
        outcomes.release(connection, run_id, [claim])
    assert [entry.uri for entry in collector(shop).look().garbage] == [mine]


@pytest.mark.parametrize("state", ["failed", "cancelled", "expired"])
def test_what_ended_otherwise_keeps_nothing(workshop: Make, engine: Engine, state: str) -> None:
    shop = workshop()
    (job_id,) = shop.submit(encoded())
    (claim,) = claimed(engine, begun(engine, model_revision="1"))
    put(shop, result_place(job_of(engine, job_id), claim))
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET state = :state, finished_at = now(), run_deadline = NULL"),
            {"state": state},
        )

    collector(shop).look()

    assert left(shop) == set()


def test_results_in_folders_of_their_own_are_found(workshop: Make) -> None:
    """Also where the folder holds another id beside the job's."""
    with workshop() as shop:
        name = f"cats/{new_id()}/{{job}} x2"
        (job,) = shop.wait_settled(shop.submit(encoded(), output=Output(name=name)))
    zombie = put(shop, result_place(job, Claim(job_id=job.id, fence=job.fence, run_id=new_id())))

    assert [entry.uri for entry in collector(shop).look().garbage] == [zombie]


def test_it_goes_page_by_page_and_round_and_round(
    workshop: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twofold_producer.keeper.garbage._PAGE", 4)
    with workshop() as shop:
        jobs = shop.wait_settled(shop.submit(*[encoded(seed=seed) for seed in range(3)]))
    zombies = {
        put(shop, result_place(job, Claim(job_id=job.id, fence=job.fence, run_id=new_id())))
        for job in jobs
    }
    collects = collector(shop)

    looks = [collects.look() for _ in range(3)]

    assert [look.ended for look in looks] == [False, False, True]
    assert {entry.uri for look in looks for entry in look.garbage} == zombies
    assert collects.look().garbage == ()


class Refusing:
    """A store that deletes nothing but what it is told to, and counts who asks for a listing."""

    def __init__(self, storage: Storage, *, keeps: set[ArtifactUri]) -> None:
        self._storage = storage
        self._keeps = keeps
        self.listings = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)

    def list(self, prefix: ArtifactUri, *, after: ArtifactUri | None = None) -> Iterator[Entry]:
        self.listings += 1
        return self._storage.list(prefix, after=after)

    def delete(self, uri: ArtifactUri) -> None:
        if uri in self._keeps:
            raise ResultDenied
        self._storage.delete(uri)


def zombies_of(shop: Workshop, count: int) -> list[ArtifactUri]:
    """What dead claims left, in the order of the keys."""
    (job,) = shop.wait_settled(shop.submit(encoded()))
    return sorted(
        (
            put(shop, result_place(job, Claim(job_id=job.id, fence=job.fence, run_id=new_id())))
            for _ in range(count)
        ),
        key=str,
    )


def test_what_may_not_be_deleted_holds_nothing_else_up(workshop: Make) -> None:
    with workshop() as shop:
        first, locked, last = zombies_of(shop, 3)
    store: Storage = Refusing(shop.storage, keeps={locked})  # type: ignore[assignment]
    prefix = ArtifactUri.parse(shop.results)
    collects = Collector(shop.engine, store, prefix, grace=NO_GRACE)

    with pytest.raises(ResultDenied):
        collects.look()
    look = collects.look()

    assert [entry.uri for entry in look.garbage] == [last]
    assert left(shop) & {first, locked, last} == {locked}


def test_a_store_that_refuses_is_not_asked_every_second(workshop: Make) -> None:
    """Listings cost money, and warnings attention."""
    with workshop() as shop:
        zombies = zombies_of(shop, 2)
    store = Refusing(shop.storage, keeps=set(zombies))
    settings = KeeperSettings(collect_after_hours=1e-9)
    duties = storage_duties(
        shop.engine,
        store,  # type: ignore[arg-type]
        ArtifactUri.parse(shop.results),
        settings,
    )
    keeper = Keeper(duties, every_seconds=1)

    for _ in range(3):
        keeper.once()

    assert store.listings == 1


@given(fence=st.integers(1, 5), held=st.integers(1, 5), same_run=st.booleans())
def test_exactly_the_running_claim_is_under_way(fence: int, held: int, *, same_run: bool) -> None:
    job = held_job(fence=held)
    run_id = job.claim.run_id if same_run else new_id()
    claim = Claim(job_id=job.id, fence=fence, run_id=run_id)
    for place in (result_place(job, claim), preview_place(job, claim)):
        assert is_garbage(place, job) == (fence <= held and not (fence == held and same_run))


@given(state=st.sampled_from(JobState), fence=st.integers(1, 3))
def test_a_named_result_is_never_garbage(state: JobState, fence: int) -> None:
    job = held_job()
    claim = Claim(job_id=job.id, fence=fence, run_id=new_id())
    named = held_job(id=job.id, state=state, result=result_of(claim))
    assert not is_garbage(result_place(named, claim), named)


def test_a_running_keeper_collects(house: House, tmp_path: Path) -> None:
    """Over S3, through real processes."""
    house.environment |= {
        "TWOFOLD_COLLECT_AFTER_HOURS": "0.000001",
        "TWOFOLD_COLLECT_EVERY_SECONDS": "0.2",
    }
    producer = house.producer()
    house.worker()
    job = producer.wait(producer.submit(encoded()).job_id, timeout=60)
    zombie = result_place(job, Claim(job_id=job.id, fence=job.fence, run_id=new_id()))
    producer.storage.write_once(zombie, b"x", content_type="image/png", sha256="", metadata={})
    house.keeper()

    prefix = ArtifactUri.parse(job.output_prefix)
    assert job.result is not None
    expected = {job.result.uri, job.result.preview}
    eventually(
        lambda: {str(entry.uri) for entry in producer.storage.list(prefix)} == expected,
        why=house.logs,
    )


@pytest.mark.parametrize(
    ("options", "environment", "dry_run"),
    [
        ([], {}, False),
        (["--dry-run"], {}, True),
        ([], {"TWOFOLD_COLLECT_DRY_RUN": "true", "TWOFOLD_LOG_LEVEL": "info"}, True),
    ],
)
def test_the_command_lists_what_it_deletes_or_would(
    house: House,
    tmp_path: Path,
    options: list[str],
    environment: dict[str, str],
    *,
    dry_run: bool,
) -> None:
    producer = house.producer()
    house.worker()
    job = producer.wait(producer.submit(encoded()).job_id, timeout=60)
    zombie = result_place(job, Claim(job_id=job.id, fence=job.fence, run_id=new_id()))
    producer.storage.write_once(zombie, b"x", content_type="image/png", sha256="", metadata={})
    prefix = ArtifactUri.parse(job.output_prefix)
    before = {entry.uri for entry in producer.storage.list(prefix)}

    house.environment |= environment
    ended = Shell(house.environment, tmp_path)("collect", "--older-than", "0", *options)

    assert (ended.returncode, ended.stdout) == (0, f"{zombie}\n"), ended.stderr
    # What is no warning is logged where that is asked for.
    assert ('"event": "garbage"' in ended.stderr) == ("TWOFOLD_LOG_LEVEL" in environment)
    after = {entry.uri for entry in producer.storage.list(prefix)}
    assert after == (before if dry_run else before - {zombie})


def test_the_command_deletes_nothing_where_nothing_is_to_be_collected(
    house: House, tmp_path: Path
) -> None:
    """0 is no age there: it says that this database is not to be trusted about what is garbage."""
    house.environment |= {"TWOFOLD_COLLECT_AFTER_HOURS": "0"}

    ended = Shell(house.environment, tmp_path)("collect")

    assert ended.returncode == 2
    assert "--older-than" in ended.stderr
