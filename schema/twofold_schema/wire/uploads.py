"""What goes over HTTP of sources that are to be stored."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, Field

from twofold_schema.wire.base import EXACT


class UploadBody(BaseModel):
    """What is going to be uploaded.

    Attributes:
        content_type: Of the file; the PUT has to state the same.
        sha256: Of the file: the same file is given the same place, so that the same job can be
            submitted again. None for a place that nobody else is given.
    """

    model_config = EXACT

    content_type: Annotated[str, Field(pattern=r"^[a-z]+/[A-Za-z0-9.+_-]{1,100}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class UploadLink(BaseModel):
    """Where a source can be stored for a while.

    Attributes:
        uri: The source of jobs, once it is there.
        url: Store it with PUT; whoever has it may, until it expires.
        headers: That the PUT has to have.
    """

    uri: str
    url: str
    headers: Mapping[str, str]
    expires_in_seconds: int
