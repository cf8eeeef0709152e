"""What bodies have in common."""

from typing import Annotated, Final, TypeAlias

from pydantic import ConfigDict, Field

#: Of what is answered: made of what the ledger gives.
ATTRIBUTES: Final = ConfigDict(from_attributes=True, frozen=True, protected_namespaces=())
#: Of what is asked: nothing that is not known, and no text for a number.
EXACT: Final = ConfigDict(extra="forbid", frozen=True, strict=True)

Uri: TypeAlias = Annotated[str, Field(pattern=r"^(s3|file)://", max_length=2100)]
#: A line for people: with control characters it could command the terminal of whoever reads it.
ReasonIfAny: TypeAlias = Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Reason: TypeAlias = Annotated[ReasonIfAny, Field(min_length=1)]
