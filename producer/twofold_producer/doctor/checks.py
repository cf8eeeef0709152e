"""All checks, in the order in which they are told: what others stand on comes first."""

from collections.abc import Collection, Iterator
from enum import StrEnum
from functools import partial

from twofold_producer.doctor import (
    broker,
    configuration,
    database,
    examination,
    fleet,
    service,
    storage,
    worker,
)
from twofold_producer.doctor.examination import Check
from twofold_producer.doctor.stores import Stores
from twofold_schema.effective import Effective
from twofold_schema.findings import Finding
from twofold_schema.settings import StorageSettings

#: The worker's process ends by itself before anybody stops listening.
_WORKER_SECONDS = worker.BOUND_SECONDS + 5.0


class CheckName(StrEnum):
    """What may be asked for."""

    SETTINGS = configuration.NAME
    DATABASE = database.NAME
    SCHEMA = database.SCHEMA
    BROKER = broker.NAME
    STORAGE = storage.NAME
    CLOCK = database.CLOCK
    KEEPER = fleet.KEEPER
    WORKERS = fleet.WORKERS
    WORKER = fleet.WORKER
    MODEL = worker.MODEL
    DEVICE = worker.DEVICE
    API = service.API
    KEY = service.KEY


#: What concerns whoever goes over HTTP.
OVER_HTTP = frozenset({CheckName.SETTINGS, CheckName.API, CheckName.KEY})


def examine(settings: Effective, *, only: Collection[str] = ()) -> Iterator[Finding]:
    """Look at everything here, or only at some of it; gives findings as they come.

    Args:
        settings: Of this process.
        only: Names of checks; empty for all that is reached without the API.
    """
    asked = only or set(CheckName) - {CheckName.API, CheckName.KEY}
    wanted = [check for check in _every(settings) if check.name in asked]
    return examination.examine(wanted, asked=only, secrets=settings.secrets)


def _every(settings: Effective) -> Iterator[Check]:
    yield Check(CheckName.SETTINGS, partial(configuration.check, settings))
    yield Check(CheckName.DATABASE, partial(database.check_server, settings))
    yield Check(CheckName.SCHEMA, partial(database.check_schema, settings))
    yield Check(CheckName.BROKER, partial(broker.check, settings))
    yield from _storage(settings)
    yield Check(CheckName.KEEPER, partial(fleet.check_keeper, settings))
    yield Check(CheckName.WORKERS, partial(fleet.check_workers, settings))
    yield Check(CheckName.WORKER, partial(fleet.check_worker, settings))
    yield Check(CheckName.MODEL, partial(worker.check, settings, worker.MODEL), _WORKER_SECONDS)
    yield Check(CheckName.DEVICE, partial(worker.check, settings, worker.DEVICE), _WORKER_SECONDS)
    yield Check(CheckName.API, partial(service.check_api, settings))
    yield Check(CheckName.KEY, partial(service.check_key, settings))


def _storage(settings: Effective) -> Iterator[Check]:
    clock = Check(CheckName.CLOCK, partial(database.check_clock, settings))
    wanted = settings.parts.get(StorageSettings)
    if not isinstance(wanted, StorageSettings):
        yield Check(CheckName.STORAGE, partial(storage.check_settings, settings))
        yield clock
        return
    stores = Stores(wanted)
    own = {"TWOFOLD_RESULTS": wanted.results_uri, "TWOFOLD_UPLOADS": wanted.uploads_uri}
    for variable, place in own.items():
        yield Check(CheckName.STORAGE, partial(storage.check_place, stores, variable, place))
    buckets = sorted({place.bucket for place in own.values()} - {""})
    for name in sorted(set(wanted.places.buckets) - set(buckets)):
        yield Check(CheckName.STORAGE, partial(storage.check_bucket, stores, name))
    yield clock
    for name in buckets[:1]:
        yield Check(CheckName.CLOCK, partial(storage.check_clock, stores, name))
