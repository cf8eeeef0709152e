"""Items, checked one by one as they come, gathered into chunks that are written together."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from twofold_producer.submit.manifest import Line
from twofold_producer.submit.request import JobRequest, Source
from twofold_producer.submit.submission import Answer, Outcome
from twofold_schema.errors import JobError, SubmitError
from twofold_schema.ids import PackedId, new_packed_id
from twofold_schema.ledger.new_jobs import NewJob

#: What `submit_many` takes: a request, its fields, a source alone, or a manifest's line.
Item: TypeAlias = JobRequest | Mapping[str, Any] | Source | Line

#: The most items of a chunk, and how long one is gathered from a source that is slow, in seconds.
CHUNK_ITEMS, CHUNK_SECONDS = 2000, 2.0


@dataclass
class Chunk:
    """Items that are written together.

    Attributes:
        jobs: The jobs to write.
        job_ids: Theirs if they are new: drawn once, so that a repeat is recognised.
        positions: Of each among all items.
        lines: Of each in a manifest.
        invalid: What came of the items that were not accepted.
        is_first: Whether no chunk came before it.
        is_last: Whether none comes after it.
    """

    is_first: bool
    jobs: list[NewJob] = field(default_factory=list)
    job_ids: list[PackedId] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    lines: list[int | None] = field(default_factory=list)
    invalid: list[Answer] = field(default_factory=list)
    is_last: bool = False

    @cached_property
    def keys(self) -> frozenset[str]:
        """Of its jobs; asked for once it is whole."""
        return frozenset(new_job.key for new_job in self.jobs if new_job.key is not None)

    @property
    def items(self) -> int:
        """How many items it came from."""
        return len(self.jobs) + len(self.invalid)


def gather(
    items: Iterable[Item],
    accept: Callable[[JobRequest], NewJob],
    *,
    strict: bool,
    most: int = CHUNK_ITEMS,
    seconds: float = CHUNK_SECONDS,
) -> Iterator[Chunk]:
    """Check items and gather them; the last chunk may be empty.

    Args:
        items: Taken one by one.
        accept: Makes a job of a request.
        strict: Raise what is wrong with the first invalid item.
        most: Items per chunk.
        seconds: How long a chunk is gathered at most, but for its last item.

    Raises:
        SubmitError: An item was not accepted, and `strict`.
        JobError: What an item hands over cannot be stored, for now; or at all, and `strict`.
    """
    chunk, until = Chunk(is_first=True), time.monotonic() + seconds
    for position, item in enumerate(items):
        line = item.number if isinstance(item, Line) else None
        request = item if isinstance(item, JobRequest) else None
        try:
            request = request or _request(item)
            chunk.jobs.append(accept(request))
        except (SubmitError, JobError) as error:
            key = request.key if request else _key_of(item)
            # What may pass is no fault of this item, and would be the next ones' as well.
            if strict or error.retryable:
                error.add_note(f"It is item {position}, key {key!r}.")
                raise
            chunk.invalid.append(
                Answer(position, key, Outcome.INVALID, None, error.code, error.message, line)
            )
        else:
            chunk.job_ids.append(new_packed_id())
            chunk.positions.append(position)
            chunk.lines.append(line)
        if chunk.items >= most or time.monotonic() > until:
            yield chunk
            chunk, until = Chunk(is_first=False), time.monotonic() + seconds
    chunk.is_last = True
    yield chunk


def _request(item: Item) -> JobRequest:
    if isinstance(item, Line):
        return item.request()
    return JobRequest.of_fields(item) if isinstance(item, Mapping) else JobRequest.of(item)


def _key_of(item: Item) -> str | None:
    """The key of an item that is no request."""
    fields = item.fields() if isinstance(item, Line) else item
    key = fields.get("key") if isinstance(fields, Mapping) else None
    return key if isinstance(key, str) else None
