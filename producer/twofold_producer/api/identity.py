"""`/v1/key`: who asks, as the service sees them."""

from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Depends

from twofold_producer.api.caller import Caller, allowed
from twofold_schema.api_key import Scope
from twofold_schema.wire import KeyReport

router = APIRouter(prefix="/v1", tags=["identity"])


@router.get("/key")
def key(caller: Annotated[Caller, Depends(allowed(*Scope))]) -> KeyReport:
    """Whose the key is with which this is asked, and what it is for; any key will do."""
    return KeyReport(
        prefix=caller.prefix,
        tenant=caller.tenant,
        scopes=sorted(caller.scopes),
        version=version("twofold"),
    )
