"""Results under fixed names: the winner's, in the end, whatever dies or wakes up late."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from tests.factories import job_of, new_job, submitted
from tests.house import House, eventually
from tests.inputs.files import saved, scene
from tests.pictures import encoded
from tests.workshop import Make, Workshop

from twofold_producer.keeper.publisher import Publisher
from twofold_schema import database
from twofold_schema.artifacts import ArtifactUri, publish_place
from twofold_schema.errors import ResultDenied
from twofold_schema.job import Job, Output
from twofold_schema.ledger import objects
from twofold_schema.settings import DatabaseSettings
from twofold_schema.storage.port import Storage


def finished(shop: Workshop, name: str = "cat.png", count: int = 1) -> list[Job]:
    """Jobs over different pictures that ended well and want one fixed name."""
    job_ids = [
        shop.submit(encoded(40, 30, seed=seed), publish_to=f"{shop.results}/{name}")[0]
        for seed in range(count)
    ]
    return shop.wait_settled(job_ids)


def content(shop: Workshop, uri: ArtifactUri | None) -> bytes:
    assert uri is not None
    return shop.storage.read(uri, max_bytes=10**6).data


class Wrapped:
    """A store of which one verb is done by the test."""

    def __init__(self, storage: Storage, **verbs: Callable[..., object]) -> None:
        self._storage = storage
        self._verbs = verbs

    def __getattr__(self, name: str) -> object:
        return self._verbs.get(name) or getattr(self._storage, name)


def test_a_result_is_copied_and_says_whose_it_is(workshop: Make) -> None:
    with workshop() as shop:
        (job,) = finished(shop)
    publisher = Publisher(shop.engine, shop.storage)

    assert publisher.publish() == 1

    name = publish_place(job)
    assert name is not None
    assert content(shop, name) == shop.file(job)
    assert job.result is not None
    metadata = shop.storage.read_metadata(name)
    assert metadata == shop.storage.read_metadata(ArtifactUri.parse(job.result.uri))
    assert metadata is not None
    assert (metadata["job"], metadata["fence"]) == (str(job.id), "1")
    assert metadata["sha256"] == job.result.sha256


def test_a_job_counts_as_published_once_a_later_look_found_its_name(workshop: Make) -> None:
    """Also when whoever copied it died right after, or before it could say so."""
    with workshop() as shop:
        (job,) = finished(shop)
    first, second = (Publisher(shop.engine, shop.storage) for _ in range(2))

    assert first.publish() == 1
    assert job_of(shop.engine, job.id).published_at is None
    assert second.publish() == 0
    assert job_of(shop.engine, job.id).published_at is not None
    assert second.publish() == 0


def test_only_what_succeeded_is_published(engine: Engine, workshop: Make) -> None:
    shop = workshop()
    submitted(engine, new_job(publish_to=f"{shop.results}/x.png"))
    with engine.connect() as connection:
        assert objects.unpublished(connection, limit=10) == []
    assert Publisher(engine, shop.storage).publish() == 0


@pytest.mark.parametrize("backwards", [False, True])
def test_of_several_jobs_with_one_name_the_one_submitted_last_has_it(
    workshop: Make, *, backwards: bool
) -> None:
    with workshop() as shop:
        jobs = finished(shop, count=3)
    for job in jobs[::-1] if backwards else jobs:
        others = [other.id for other in jobs if other.id != job.id]
        publisher = Publisher(shop.engine, shop.storage)
        publisher._pauses = dict.fromkeys(others, (float("inf"), 0.0))
        publisher.publish()
        publisher.publish()

    assert content(shop, publish_place(jobs[0])) == shop.file(jobs[-1])
    assert all(job_of(shop.engine, job.id).published_at for job in jobs)


def until_published(shop: Workshop, jobs: Sequence[Job]) -> None:
    """Look, as a keeper does, until every job counts as published."""
    publisher = Publisher(shop.engine, shop.storage)
    for _ in range(20):
        publisher.publish()
        if all(job_of(shop.engine, job.id).published_at for job in jobs):
            return
    raise AssertionError("not published")


def test_a_stale_copy_is_repaired(workshop: Make) -> None:
    """It landed between the copy of the newer job and the look that would have found it."""
    with workshop() as shop:
        old, new = finished(shop, count=2)
    name = publish_place(old)
    Publisher(shop.engine, shop.storage).publish()
    assert old.result is not None
    assert name is not None
    shop.storage.copy(
        ArtifactUri.parse(old.result.uri),
        name,
        content_type="image/png",
        metadata={"job": str(old.id), "fence": "1"},
    )

    until_published(shop, [old, new])

    assert content(shop, name) == shop.file(new)


def test_a_keeper_that_froze_before_its_copy_landed_has_the_name_looked_at_again(
    workshop: Make,
) -> None:
    """Meanwhile its transaction was ended, and the name became a newer job's, for good."""
    with workshop() as shop:
        (old,) = finished(shop)
        (new,) = finished(shop)

    def copy(source: ArtifactUri, target: ArtifactUri, **options: object) -> None:
        with shop.engine.begin() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
                    "current_database() AND state = 'idle in transaction'"
                )
            )
        until_published(shop, [old, new])
        shop.storage.copy(source, target, **options)  # type: ignore[arg-type]

    frozen: Storage = Wrapped(shop.storage, copy=copy)  # type: ignore[assignment]
    late = Publisher(shop.engine, frozen)
    late._pauses = {new.id: (float("inf"), 0.0)}
    with pytest.raises(DBAPIError):
        late.publish()
    assert content(shop, publish_place(old)) == shop.file(old), "the stale copy has landed"

    until_published(shop, [old, new])

    assert content(shop, publish_place(old)) == shop.file(new)


def test_what_lay_there_of_no_job_is_replaced(workshop: Make) -> None:
    with workshop() as shop:
        (job,) = finished(shop)
    name = publish_place(job)
    assert name is not None
    data = saved(scene(8, 8))
    shop.storage.write_once(name, data, content_type="image/png", sha256="0" * 64, metadata={})

    Publisher(shop.engine, shop.storage).publish()

    assert content(shop, name) == shop.file(job)


def test_of_many_keepers_one_at_a_time_writes_a_name(workshop: Make) -> None:
    with workshop() as shop:
        jobs = finished(shop, count=4)
    busy = threading.Lock()

    def copy(*arguments: object, **options: object) -> None:
        assert busy.acquire(blocking=False), "two at once"
        try:
            shop.storage.copy(*arguments, **options)  # type: ignore[arg-type]
        finally:
            busy.release()

    def keep(_: int) -> None:
        storage: Storage = Wrapped(shop.storage, copy=copy)  # type: ignore[assignment]
        publisher = Publisher(shop.engine, storage)
        for _ in range(10):
            publisher.publish()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(keep, range(4)))
    until_published(shop, jobs)

    assert content(shop, publish_place(jobs[0])) == shop.file(jobs[-1])


def test_a_name_that_cannot_be_written_waits_and_holds_nobody_up(workshop: Make) -> None:
    with workshop() as shop:
        (stuck,) = finished(shop, name="stuck.png")
        (free,) = finished(shop, name="free.png")
    tried = []

    def copy(source: ArtifactUri, target: ArtifactUri, **options: object) -> None:
        tried.append(target)
        if target.key.endswith("stuck.png"):
            raise ResultDenied
        shop.storage.copy(source, target, **options)  # type: ignore[arg-type]

    storage: Storage = Wrapped(shop.storage, copy=copy)  # type: ignore[assignment]
    publisher = Publisher(shop.engine, storage)
    for _ in range(3):
        publisher.publish()

    assert len(tried) == 2, "the stuck one was tried again at once"
    assert job_of(shop.engine, free.id).published_at is not None
    assert job_of(shop.engine, stuck.id).published_at is None
    assert Publisher(shop.engine, shop.storage).publish() == 1


def test_the_smallest_pool_has_connections_for_every_copy(workshop: Make, house: House) -> None:
    """However long a slow store keeps them."""
    with workshop() as shop:
        job_ids = [finished(shop, name=f"{number}.png")[0].id for number in range(8)]
    settings = DatabaseSettings.load(house.environment | {"TWOFOLD_DATABASE_POOL_SIZE": "1"})
    engine = database.connect(settings)
    engine.pool._timeout = 0.1  # type: ignore[attr-defined] # 30 s, where nobody waits

    def copy(*arguments: object, **options: object) -> None:
        time.sleep(0.5)
        shop.storage.copy(*arguments, **options)  # type: ignore[arg-type]

    storage: Storage = Wrapped(shop.storage, copy=copy)  # type: ignore[assignment]
    try:
        assert Publisher(engine, storage).publish() == len(job_ids)
    finally:
        engine.dispose()


def test_a_result_that_somebody_deleted_is_not_published_and_holds_nobody_up(
    workshop: Make,
) -> None:
    with workshop() as shop:
        (gone,) = finished(shop, name="gone.png")
        (there,) = finished(shop, name="there.png")
    assert gone.result is not None
    ArtifactUri.parse(gone.result.uri).path.unlink()

    publisher = Publisher(shop.engine, shop.storage)
    publisher.publish()
    publisher.publish()

    assert job_of(shop.engine, there.id).published_at is not None
    assert job_of(shop.engine, gone.id).published_at is None


def test_a_running_keeper_publishes_what_workers_complete(house: House, tmp_path: Path) -> None:
    """Over S3, through real processes, with a name of the caller's own."""
    producer = house.producer()
    house.keeper()
    house.worker()
    path = tmp_path / "cat.jpg"
    path.write_bytes(encoded(form="JPEG"))

    accepted = producer.submit(path, publish_as="big/{stem}", output_format="webp")

    def published() -> Job | None:
        job = producer.get(accepted.job_id)
        return job if job.published_at else None

    job = eventually(published, why=house.logs)
    assert job is not None
    assert job.result is not None
    name = publish_place(job)
    assert name is not None
    assert str(name).endswith("/big/cat.webp")
    stored = producer.storage.read(name, max_bytes=10**6).data
    assert stored == producer.storage.read(ArtifactUri.parse(job.result.uri), max_bytes=10**6).data


def test_what_the_name_holds_is_of_the_wanted_format(workshop: Make) -> None:
    with workshop() as shop:
        (job_id,) = shop.submit(
            saved(scene(40, 30)),
            output=Output.model_validate({"format": "latents"}),
            publish_to=f"{shop.results}/{{job}}.safetensors",
        )
        (job,) = shop.wait_settled([job_id])
    Publisher(shop.engine, shop.storage).publish()

    assert content(shop, publish_place(job)) == shop.file(job)
    assert isinstance(job.id, UUID)
