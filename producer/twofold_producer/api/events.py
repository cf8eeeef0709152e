"""`/v1/events`: what happens to jobs, as server-sent events."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import lru_cache
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event

from twofold_producer.api.caller import Reader, Secret
from twofold_producer.api.description import errors
from twofold_producer.api.follower import REPLAY, Behind, Listener
from twofold_producer.api.service import Parts, Service
from twofold_schema.ledger.events import Event, Position
from twofold_schema.wire import EventReport

router = APIRouter(prefix="/v1/events", tags=["events"])

#: So that whoever follows knows that nothing is missed from here on.
_FOLLOWING: Final = b": following\n\n"


class _Stream(StreamingResponse):
    # FastAPI's own sends events one by one, through two queues for each listener.
    media_type = "text/event-stream"


def _after(
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            description="The last event that you had: what came since comes first.",
        ),
    ] = None,
) -> Position | None:
    # Before the answer begins: afterwards nobody can be told that it is none.
    return Position.parse(last_event_id) if last_event_id else None


@router.get("", response_class=_Stream, responses=errors(400, 422))
async def follow(
    caller: Reader,
    parts: Parts,
    *,
    secret: Secret,
    after: Annotated[Position | None, Depends(_after)],
    submission: Annotated[UUID | None, Query(description="Only of this one's jobs.")] = None,
    job: Annotated[UUID | None, Query(description="Only of this one.")] = None,
) -> Response:
    """What happens from now on, or since an event: one for each change of a job's state.

    Each is named `job` and has an `EventReport`. An event `behind` means that some are left out,
    as more came than is kept for you, your last one is no longer kept, or one cannot be read. It
    ends the stream: list the jobs anew, and begin again without `Last-Event-ID`. The stream ends,
    too, when its key is no longer in force.
    """
    listener = Listener(tenant=caller.tenant, submission_id=submission, job_id=job)
    return _Stream(
        _told(parts, secret, listener, after),
        # nginx would hold them back.
        headers={"X-Accel-Buffering": "no"},
    )


async def _told(
    parts: Service, secret: str, listener: Listener, after: Position | None
) -> AsyncIterator[bytes]:
    """The stream, all that there is at once; a comment where that is nothing."""
    try:
        with parts.watch.watching(secret, listener):
            async with aclosing(parts.follower.listen(listener, after)) as told:
                async for events in told:
                    if listener.is_over:
                        return
                    yield b"".join(map(_said, events)) or _FOLLOWING
    except Behind:
        yield format_sse_event(event="behind", data_str=json.dumps({"most": REPLAY}))


# All listeners are told of an event at about the same time.
@lru_cache(maxsize=1000)
def _said(event: Event) -> bytes:
    report = EventReport.of(event)
    return format_sse_event(event="job", id=report.position, data_str=report.model_dump_json())
