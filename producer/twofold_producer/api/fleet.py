"""`/v1/workers` and `/v1/autoscale`: who works, and how many should."""

import math
from typing import Annotated

from fastapi import APIRouter, Query

from twofold_producer.api.caller import Overseer
from twofold_producer.api.description import errors
from twofold_producer.api.service import Parts
from twofold_schema.ledger import runs, tallies
from twofold_schema.ledger.shares import FIRST_GUESS
from twofold_schema.wire import Autoscale, WorkerReport

router = APIRouter(prefix="/v1", tags=["fleet"])


@router.get("/workers")
def workers(_: Overseer, parts: Parts) -> list[WorkerReport]:
    """Runs that hold a lease, the longest first."""
    with parts.reading() as connection:
        return [WorkerReport.model_validate(run) for run in runs.at_work(connection)]


@router.get("/autoscale", responses=errors(422))
def autoscale(
    _: Overseer,
    parts: Parts,
    drain_seconds: Annotated[
        float, Query(ge=1, le=86_400, description="In how long what is queued shall be done.")
    ] = 300.0,
) -> Autoscale:
    """What waits for GPUs, in GPU-seconds; every number is there, 0 included."""
    with parts.reading() as connection:
        backlog = tallies.backlog(connection)
        at_work = runs.at_work(connection)
    seconds = sum(one.gpu_seconds + FIRST_GUESS * one.unmeasured for one in backlog)
    ages = [one.oldest.total_seconds() for one in backlog if one.oldest is not None]
    return Autoscale(
        queued_gpu_seconds=seconds,
        queued_jobs=sum(one.jobs for one in backlog),
        oldest_seconds=max(ages, default=0.0),
        workers=sum(not run.draining for run in at_work),
        wanted_workers=math.ceil(seconds / drain_seconds),
    )
