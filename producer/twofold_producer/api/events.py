"""`/v1/events`: what happens to jobs, as server-sent events."""

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from twofold_producer.api.caller import Reader
from twofold_producer.api.follower import REPLAY, Behind, Listener
from twofold_producer.api.service import Parts
from twofold_schema.ledger.events import Position
from twofold_schema.wire import EventReport

router = APIRouter(prefix="/v1/events", tags=["events"])


def _after(
    last_event_id: Annotated[
        str | None, Header(description="The last event that you had: what came since comes first.")
    ] = None,
) -> Position | None:
    # Before the answer begins: afterwards nobody can be told that it is none.
    return Position.parse(last_event_id) if last_event_id else None


@router.get("", response_class=EventSourceResponse)
async def follow(
    caller: Reader,
    parts: Parts,
    after: Annotated[Position | None, Depends(_after)],
    submission: Annotated[UUID | None, Query(description="Only of this one's jobs.")] = None,
    job: Annotated[UUID | None, Query(description="Only of this one.")] = None,
) -> AsyncIterator[ServerSentEvent]:
    """What happens from now on, or since an event: one for each change of a job's state.

    Each is named `job` and has an `EventReport`. An event `behind` means that more came than is
    kept for you, and is the last: list the jobs anew, and begin again without `Last-Event-ID`.
    """
    listener = Listener(tenant=caller.tenant, submission_id=submission, job_id=job)
    try:
        async for event in parts.follower.listen(listener, after):
            if event is None:
                # So that whoever follows knows that nothing is missed from here on.
                yield ServerSentEvent(comment="following")
                continue
            report = EventReport.of(event)
            yield ServerSentEvent(
                event="job", id=report.position, raw_data=report.model_dump_json()
            )
    except Behind:
        yield ServerSentEvent(event="behind", data={"most": REPLAY})
