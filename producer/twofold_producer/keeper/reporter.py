"""The end of submissions: once per generation, when no job of a sealed one is left to do.

What came of it lies in storage before the row says so: a keeper that dies in between leaves a
submission that is ended once more, with the same manifests. A retry begins another generation,
whose manifests have other names.
"""

import time
from collections import Counter
from contextlib import ExitStack
from uuid import UUID

import structlog
from sqlalchemy import Engine

from twofold_producer.keeper.manifests import Manifest, line_of
from twofold_schema.artifacts import ArtifactUri, manifest_place
from twofold_schema.errors import JobError, ResultConflict
from twofold_schema.ledger import generations, reads
from twofold_schema.ledger.generations import Generation
from twofold_schema.states import JobState
from twofold_schema.storage.port import Storage

log = structlog.get_logger(__name__)

_SUBMISSIONS_PER_LOOK = 1000
_JOBS_PER_PAGE = 2000
#: What storing a manifest of a million jobs may take in a store that is never silent, in seconds.
_LEAST_PATIENCE = 900.0
#: A submission whose manifests cannot be stored is tried again after so many seconds, doubling up
#: to the second.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0


class Reporter:
    """Ends sealed submissions, and writes what came of them.

    Of each it remembers one job that has not ended, and looks no further while that is so: jobs
    before it have ended, and stay so in this generation.

    Args:
        engine: Of the database.
        storage: Where manifests go.
        results: Below which they lie.
    """

    def __init__(self, engine: Engine, storage: Storage, results: ArtifactUri) -> None:
        self._engine = engine
        self._storage = storage
        self._results = results
        self._patience = _LEAST_PATIENCE + storage.capabilities.silence_seconds
        self._after: UUID | None = None
        self._waits_for: dict[Generation, UUID] = {}
        self._seen: set[Generation] = set()
        self._pauses: dict[UUID, tuple[float, float]] = {}

    def report(self) -> int:
        """End the submissions of the next page whose jobs have all ended; returns how many."""
        with self._engine.connect() as connection:
            page = generations.sealed(connection, after=self._after, limit=_SUBMISSIONS_PER_LOOK)
            heads = {self._waits_for[one] for one in page if one in self._waits_for}
            unfinished = reads.unfinished(connection, heads) if heads else set()
        self._turn(page)
        now = time.monotonic()
        due = [
            one
            for one in page
            if self._waits_for.get(one) not in unfinished
            if self._pauses.get(one.id, (0.0, 0.0))[0] <= now
        ]
        return sum(self._attempt(one) for one in due)

    def _turn(self, page: list[Generation]) -> None:
        """Go on behind this page, or from the start, forgetting what was not met any more."""
        self._seen.update(page)
        if len(page) == _SUBMISSIONS_PER_LOOK:
            self._after = page[-1].id
            return
        self._after = None
        self._waits_for = {one: at for one, at in self._waits_for.items() if one in self._seen}
        ids = {one.id for one in self._seen}
        self._pauses = {one: pause for one, pause in self._pauses.items() if one in ids}
        self._seen = set()

    def _attempt(self, one: Generation) -> bool:
        try:
            return self._has_ended(one) and self._end(one)
        except ResultConflict as conflict:
            log.warning("manifest_taken", submission_id=str(one.id), error=conflict.message)
            with self._engine.begin() as connection:
                generations.skip_generation(connection, one)
        except JobError as error:
            self._put_off(one, f"{error.code}: {error.message}")
        except OSError as error:
            # No room in the temporary folder, say: no reason to end the keeper.
            self._put_off(one, str(error))
        return False

    def _put_off(self, one: Generation, reason: str) -> None:
        _, pause = self._pauses.get(one.id, (0.0, _FIRST_PAUSE / 2))
        pause = min(2 * pause, _LONGEST_PAUSE)
        self._pauses[one.id] = (time.monotonic() + pause, pause)
        log.warning("not_reported", submission_id=str(one.id), error=reason)

    def _has_ended(self, one: Generation) -> bool:
        after = self._waits_for.pop(one, None)
        with self._engine.begin() as connection:
            while True:
                look = generations.look_on(connection, one.id, after=after, limit=_JOBS_PER_PAGE)
                if look.unfinished is not None:
                    self._waits_for[one] = look.unfinished
                    return False
                if look.last is None:
                    return True
                after = look.last

    def _end(self, one: Generation) -> bool:
        with self._engine.begin() as held, ExitStack() as files:
            if not generations.try_hold(held, one.id, idle_seconds=self._patience):
                return False
            results, errors = (files.enter_context(Manifest()) for _ in range(2))
            counts = self._write(one, results, errors)
            if counts is None:
                return False
            metadata = {"submission": str(one.id), "generation": str(one.generation)}
            places = {
                name: manifest_place(self._results, one.id, one.generation, name)
                for name in ("results", "errors")
            }
            results.store(self._storage, places["results"], metadata)
            errors.store(self._storage, places["errors"], metadata)
            with self._engine.begin() as connection:
                return generations.finish(
                    connection,
                    one,
                    results=str(places["results"]),
                    errors=str(places["errors"]),
                    counts=counts,
                )

    def _write(
        self, one: Generation, results: Manifest, errors: Manifest
    ) -> Counter[JobState] | None:
        """Write down what came of each job; None where somebody has ended it, or retried one."""
        counts: Counter[JobState] = Counter()
        with self._engine.begin() as connection:
            if not generations.has_no_end(connection, one):
                return None
            for job in generations.jobs_of(connection, one.id, page=_JOBS_PER_PAGE):
                if not job.state.is_final:
                    return None
                counts[job.state] += 1
                (results if job.result else errors).add(line_of(job))
        return counts
