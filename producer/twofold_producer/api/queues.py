"""`/v1/queues`: what waits, by class, and what is not claimed from for a while."""

from collections import defaultdict
from collections.abc import Sequence

from fastapi import APIRouter, Response, status

from twofold_producer.api.caller import Operator, Reader
from twofold_producer.api.description import errors
from twofold_producer.api.service import Parts
from twofold_schema.ledger import pauses, tallies
from twofold_schema.ledger.tallies import Tally
from twofold_schema.states import JobClass, JobState
from twofold_schema.wire import PauseBody, PauseReport, QueueReport, ResumeBody, Resumed

router = APIRouter(prefix="/v1/queues", tags=["queues"])


@router.get("")
def overview(caller: Reader, parts: Parts) -> list[QueueReport]:
    """How many jobs are in which state, by class in the order in which they are served."""
    with parts.reading() as connection:
        found = tallies.overview(connection, tenant=caller.tenant)
        paused = pauses.in_force(connection, tenant=caller.tenant)
    by_class = defaultdict[JobClass, list[Tally]](list)
    for tally in found:
        by_class[tally.job_class].append(tally)
    return [_queue(one, by_class[one], paused) for one in JobClass]


@router.post("/pause", status_code=status.HTTP_204_NO_CONTENT, responses=errors(400, 409, 413, 422))
def pause(body: PauseBody, caller: Operator, parts: Parts) -> Response:
    """Let no more be claimed, of a class or of all; safe to repeat. What runs goes on."""
    with parts.writing() as connection:
        pauses.pause(
            connection,
            tenant=caller.tenant,
            job_class=body.job_class,
            reason=body.reason,
            who=caller.name,
            asker=caller.tenant,
        )
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.post("/resume", responses=errors(400, 409, 413, 422))
def resume(body: ResumeBody, caller: Operator, parts: Parts) -> Resumed:
    """End a pause of the same class, or of all; safe to repeat."""
    with parts.writing() as connection:
        ended = pauses.resume(
            connection,
            tenant=caller.tenant,
            job_class=body.job_class,
            reason=body.reason,
            who=caller.name,
            asker=caller.tenant,
        )
    return Resumed(ended=ended)


def _queue(one: JobClass, found: list[Tally], paused: Sequence[pauses.Pause]) -> QueueReport:
    states: dict[JobState, int] = {}
    for tally in found:
        states[tally.state] = states.get(tally.state, 0) + tally.jobs
    queued = [tally for tally in found if tally.state is JobState.QUEUED]
    return QueueReport(
        job_class=one,
        states=states,
        gpu_seconds=sum(tally.gpu_seconds for tally in queued),
        unmeasured=sum(tally.unmeasured for tally in queued),
        pauses=[
            PauseReport.model_validate(pause) for pause in paused if pause.job_class in {None, one}
        ],
    )
