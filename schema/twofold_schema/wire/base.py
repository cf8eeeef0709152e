"""What bodies have in common."""

from typing import Annotated, Final, TypeAlias

from pydantic import ConfigDict, Field

from twofold_schema.job import NO_NUL

#: Of what is answered: made of what the ledger gives.
ATTRIBUTES: Final = ConfigDict(from_attributes=True, frozen=True, protected_namespaces=())
#: Of what is asked: nothing that is not known, and no text for a number.
EXACT: Final = ConfigDict(extra="forbid", frozen=True, strict=True)

Uri: TypeAlias = Annotated[str, Field(pattern=r"^(s3|file)://", max_length=2100)]
Reason: TypeAlias = Annotated[str, Field(min_length=1, max_length=500, pattern=NO_NUL)]
