"""What goes over HTTP of API keys."""

from pydantic import BaseModel

from twofold_schema.api_key import Scope


class KeyReport(BaseModel):
    """An API key, as the service sees who asks with it.

    Attributes:
        prefix: How its text begins, by which people recognise it.
        tenant: For whom it speaks; null for all tenants.
        scopes: What it is for.
        version: Of the service.
    """

    prefix: str
    tenant: str | None
    scopes: list[Scope]
    version: str
