"""What submitting many came to."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias, overload
from uuid import UUID


class Outcome(StrEnum):
    """What came of one item."""

    #: It is a new job.
    CREATED = "created"
    #: Its key was known with the same payload: nothing was written.
    EXISTING = "existing"
    #: It was not accepted.
    INVALID = "invalid"


class Answer(NamedTuple):
    """What came of one item, and why if it was not accepted.

    Attributes:
        position: Of the item among all, from 0.
        key: The caller's own name for the job.
        outcome: What came of it.
        job_id: Of the job; None for none.
        code: Of the error, as in docs/03-errors.md; None for none.
        message: For a person; None for no error.
        line: Of the manifest that it stood in, from 1; None elsewhere.
    """

    position: int
    key: str | None
    outcome: Outcome
    job_id: UUID | None = None
    code: str | None = None
    message: str | None = None
    line: int | None = None


#: Told what came of items, in order, once that is committed.
OnAnswers: TypeAlias = Callable[[Sequence[Answer]], None]


class JobIds(Sequence[UUID]):
    """Ids in little room: 16 bytes each."""

    def __init__(self, packed: bytes | bytearray = b"") -> None:
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed) // 16

    @overload
    def __getitem__(self, index: int) -> UUID: ...
    @overload
    def __getitem__(self, index: slice) -> "list[UUID]": ...
    def __getitem__(self, index: int | slice) -> "UUID | list[UUID]":
        if isinstance(index, slice):
            return [self._at(at) for at in range(*index.indices(len(self)))]
        return self._at(range(len(self))[index])

    def __iter__(self) -> Iterator[UUID]:
        return map(self._at, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, JobIds):
            return self._packed == other._packed
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # equal to lists of the same ids, which have none

    def __repr__(self) -> str:
        return f"<{len(self)} job ids>"

    def _at(self, index: int) -> UUID:
        return UUID(bytes=bytes(self._packed[16 * index : 16 * index + 16]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Jobs that were submitted together.

    Attributes:
        id: Of the submission; its jobs are those that were created under it.
        created: How many items are new jobs.
        existing: How many are jobs that were known by their keys.
        invalid: How many were not accepted.
        job_ids: Of the created and the existing, in the order of the items.
        faults: What was wrong with the first of the invalid ones, 1000 at most.
    """

    id: UUID
    created: int
    existing: int
    invalid: int
    job_ids: JobIds
    faults: tuple[Answer, ...]
