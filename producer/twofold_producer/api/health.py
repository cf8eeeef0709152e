"""`/livez` and `/readyz`: whether the process goes on, and whether it can do what is asked."""

from fastapi import APIRouter, Response

from twofold_producer.api.service import Parts
from twofold_schema.ledger import reads

router = APIRouter(tags=["health"])


@router.get("/livez", status_code=204)
async def livez() -> Response:
    """Whether the process answers, whatever is away."""
    return Response(status_code=204)


@router.get("/readyz", status_code=204)
def readyz(parts: Parts) -> Response:
    """Whether the job table can be read."""
    with parts.reading() as connection:
        reads.find(connection, limit=1)
    return Response(status_code=204)
