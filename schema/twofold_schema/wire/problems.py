"""What goes over HTTP where something went wrong."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from pydantic import BaseModel, ConfigDict


class Problem(BaseModel):
    """What went wrong (RFC 9457).

    Attributes:
        type: A URI that names the kind of problem: the error's code.
        title: The error's code in words.
        status: The HTTP status.
        detail: What is wrong and what to do about it.
        code: Stable; what programs compare. See docs/03-errors.md.
        retryable: Whether the same request could succeed later.
        request_id: Of the request, as in the log.
        field: What of the request is wrong, where that is known.
        errors: Everything that is wrong with the request, where it is more.
        job_id: The job that it is about, where there is one.
    """

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool = False
    request_id: str
    field: str | None = None
    errors: Sequence[Mapping[str, str]] | None = None
    job_id: UUID | None = None
