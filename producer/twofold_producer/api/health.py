"""`/livez` and `/readyz`: whether the process goes on, and whether it can do what is asked."""

from fastapi import APIRouter, Response
from sqlalchemy import text

from twofold_producer.api.service import Parts

router = APIRouter(tags=["health"])

_ASK = text("SELECT 1 FROM jobs LIMIT 1")


@router.get("/livez", status_code=204)
async def livez() -> Response:
    """Whether the process answers, whatever is away."""
    return Response(status_code=204)


@router.get("/readyz", status_code=204)
def readyz(parts: Parts) -> Response:
    """Whether the job table can be read."""
    with parts.reading() as connection:
        connection.execute(_ASK)
    return Response(status_code=204)
