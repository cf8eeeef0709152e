"""Consistent jobs, runs and results, and leases that end when a test says so.

Leases end by the database's own clock, so a test that waited for one would sleep. Runs made here
get a lease that outlasts any test; `silence` ends it, and what patience rescue would have, at once.
"""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import Connection, Engine, text

from twofold_schema import lanes
from twofold_schema.egress import Egress, networks, ports
from twofold_schema.ids import new_id
from twofold_schema.job import Claim, ClaimedJob, Job, Output, Parameters, Result
from twofold_schema.ledger import claims, deliveries, holds, reads, submit, sweeps, webhooks
from twofold_schema.ledger import runs as ledger_runs
from twofold_schema.ledger.new_jobs import NewJob, Terms
from twofold_schema.states import JobClass, JobState
from twofold_schema.tenant_places import TenantPlaces
from twofold_schema.webhook import Delivery, Webhook

PREFIX = "s3://twofold/results"
REVISION = "revision-1"

#: Longer than any test takes.
AMPLE = timedelta(hours=1)
PAST = datetime(2020, 1, 1, tzinfo=UTC)
FUTURE = datetime(2100, 1, 1, tzinfo=UTC)

#: Open to everything, as no operator would have it: receivers of tests are on loopback.
WHEREVER = Egress(networks=networks("0.0.0.0/0,::/0"), ports=ports("1-65535"), plain=True)

_SILENCE = text("""
    UPDATE runs SET lease_expires_at = '2020-01-01Z', lease_seconds = 0 WHERE id = :id
""")
_DROP = text("DELETE FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))")
_PROLONG = text("UPDATE runs SET lease_expires_at = '2100-01-01Z' WHERE id = :id")


def new_job(**changes: Any) -> NewJob:
    """A job for a 512x512 picture whose size was stated; `changes` replace its fields."""
    parameters = changes.get("parameters", Parameters(seed=7))
    terms: dict[str, Any] = {
        "output_prefix": PREFIX,
        "parameters": parameters,
        "max_attempts": 3,
    }
    fields: dict[str, Any] = {
        "source": "s3://twofold/uploads/cat.png",
        "seed": parameters.seed,
        "measure": lanes.measure(parameters, 512, 512),
    }
    of_terms = {field.name for field in dataclasses.fields(Terms)}
    terms |= {name: change for name, change in changes.items() if name in of_terms}
    fields |= {name: change for name, change in changes.items() if name not in of_terms}
    return NewJob(terms=Terms(**terms), **fields)


def of_side(side: int, **changes: Any) -> NewJob:
    """A job for a square picture whose size was stated; `changes` replace its fields."""
    return new_job(measure=lanes.measure(Parameters(seed=7), side, side), **changes)


def dropped(engine: Engine, *job_ids: UUID) -> None:
    """Jobs that ended longer ago than they are kept: their keys are all that is left of them."""
    with engine.begin() as connection:
        connection.execute(_DROP, {"ids": list(job_ids)})


def held_job(**changes: Any) -> Job:
    """A job that some run holds under its first fence, in memory only; `changes` replace fields."""
    fields: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
    fields |= {
        "id": new_id(),
        "tenant": "default",
        "job_class": JobClass.STANDARD,
        "state": JobState.RUNNING,
        "generation": 1,
        "fence": 1,
        "run_id": new_id(),
        "attempts": 0,
        "max_attempts": 3,
        "crashes": 0,
        "source": "s3://twofold/uploads/cat.png",
        "output_prefix": PREFIX,
        "output": Output(),
        "parameters": Parameters(seed=7),
        "metadata": {},
        "errors": (),
    }
    return Job(**fields | changes)


def claimed_job(**changes: Any) -> ClaimedJob:
    """The same as its run is told of it; `changes` replace fields."""
    places = TenantPlaces(tenant="default")
    job = held_job(**changes)
    names = [name for name in ClaimedJob.__dataclass_fields__ if name != "places"]
    return ClaimedJob(**{name: getattr(job, name) for name in names}, places=places)


def new_run(**changes: Any) -> ledger_runs.Run:
    """A run on some host whose lease outlasts the test; `changes` replace its fields."""
    fields: dict[str, Any] = {
        "id": new_id(),
        "host": "host-1",
        "pid": 42,
        "device": "cpu",
        "version": "0.1.0",
        "model": "sd-x2-latent-upscaler",
        "model_revision": REVISION,
        "lease": AMPLE,
    }
    return ledger_runs.Run(**fields | changes)


def result_of(claim: Claim) -> Result:
    """What the claim's run would store for a 512x512 picture."""
    return Result(
        uri=f"{PREFIX}/{claim.job_id}/{claim.fence}-{claim.run_id}.png",
        sha256="0" * 64,
        size_bytes=1_000_000,
        width=1024,
        height=1024,
        content_type="image/png",
        model="sd-x2-latent-upscaler",
        model_revision=REVISION,
        seed=7,
        steps=20,
        rungs=(4,),
    )


def submitted(engine: Engine, *new_jobs: NewJob) -> list[UUID]:
    """The ids of jobs that were submitted and committed; one plain job when none is given."""
    with engine.begin() as connection:
        answers = submit.insert_jobs(connection, new_jobs or [new_job()])
    return [answer.job_id for answer in answers]


def endpoint(
    engine: Engine, url: str = "https://receiver.example/hook", **options: Any
) -> tuple[Webhook, SecretStr]:
    """An endpoint that was made and committed, wherever it is, and its secret."""
    with engine.begin() as connection:
        return webhooks.create(connection, url, egress=WHEREVER, who="ann", **options)


def outbox_of(engine: Engine) -> list[Delivery]:
    """What is in the outbox, or was, the oldest first."""
    with engine.connect() as connection:
        return list(deliveries.find(connection, limit=1000))[::-1]


def begun(engine: Engine, **changes: Any) -> UUID:
    """The id of a run that was registered and committed."""
    run = new_run(**changes)
    with engine.begin() as connection:
        ledger_runs.register(connection, run)
    return run.id


def claimed(
    engine: Engine,
    run_id: UUID,
    *,
    limit: int = 100,
    started: bool = False,
    above: JobClass | None = None,
    pixels: int | None = None,
) -> list[Claim]:
    """The claims of a run that took jobs, and started them if asked."""
    with engine.begin() as connection:
        jobs = claims.claim(
            connection, run_id, limit=limit, run_deadline=AMPLE, pixels=pixels, above=above
        )
        taken = [job.claim for job in jobs]
        if started:
            holds.start(connection, run_id, dict.fromkeys(taken, "v1"))
    return taken


def job_of(engine: Engine, job_id: UUID) -> Job:
    """The job as it is committed now."""
    with engine.begin() as connection:
        return reads.get(connection, job_id)


def silence(engine: Engine, run_id: UUID) -> None:
    """End a run's lease, and the patience that an outage of the database would earn it."""
    with engine.begin() as connection:
        connection.execute(_SILENCE, {"id": run_id})


def rescued(engine: Engine, *, every_seconds: float = 3600.0) -> int:
    """How many jobs a rescue gave back; its pace is so slow that no pause looks like an outage."""
    with engine.begin() as connection:
        return sweeps.rescue(connection, every_seconds=every_seconds)


def crashed(engine: Engine, run_id: UUID) -> None:
    """Let a run's process die and its jobs be given back."""
    silence(engine, run_id)
    rescued(engine)


def renewed(connection: Connection, run_id: UUID) -> ledger_runs.Renewal:
    """What a heartbeat brought; the lease outlasts the test again."""
    renewal = ledger_runs.renew(connection, run_id, holding=0)
    connection.execute(_PROLONG, {"id": run_id})
    return renewal
