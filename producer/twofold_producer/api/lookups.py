"""Reads of single jobs: those that are asked for while one is under way are read together.

A trip to the database costs more than a row does; who asks alone waits for neither more nor less
than before. What is answered was read after it was asked for. No thread takes part: to wake one and
to hear from it would cost as much as the trip.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

from twofold_schema.async_reader import AsyncReader
from twofold_schema.job import Job
from twofold_schema.ledger import reads

#: So many are read at once at most; the others come next.
_MOST: Final = 100

#: Jobs that were found, by who asked for them and their ids.
_Found: TypeAlias = Mapping[tuple[str | None, UUID], Job]


@dataclass(frozen=True, slots=True)
class _Asked:
    tenant: str | None
    job_id: UUID
    answer: asyncio.Future[Job]


class Lookups:
    """Reads jobs. Only its event loop may use it.

    Args:
        reader: Of the database, for nobody else.
    """

    def __init__(self, reader: AsyncReader) -> None:
        self._reader = reader
        self._asked: list[_Asked] = []
        self._reading: asyncio.Task[None] | None = None

    async def job(self, job_id: UUID, tenant: str | None) -> Job:
        """One job of a tenant's, or of anybody's.

        Raises:
            JobNotFound: There is none.
        """
        asked = _Asked(tenant, job_id, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(), name="lookups")
        return await asked.answer

    async def _read(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked[:_MOST], self._asked[_MOST:]
                await self._answer([one for one in asked if not one.answer.done()])
        finally:
            self._reading = None

    async def _answer(self, asked: Sequence[_Asked]) -> None:
        try:
            found = await self._look(asked)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is of those who asked
            for one in asked:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        for one in asked:
            if one.answer.done():  # whoever asked has gone
                continue
            job = found.get((one.tenant, one.job_id))
            if job is None:
                one.answer.set_exception(reads.not_found(one.job_id))
            else:
                one.answer.set_result(job)

    async def _look(self, asked: Sequence[_Asked]) -> _Found:
        by_tenant = defaultdict[str | None, set[UUID]](set)
        for one in asked:
            by_tenant[one.tenant].add(one.job_id)
        found: dict[tuple[str | None, UUID], Job] = {}
        for tenant, job_ids in by_tenant.items():
            jobs = await reads.look_up(self._reader, job_ids, tenant=tenant)
            found |= {(tenant, job_id): job for job_id, job in jobs.items()}
        return found

    async def close(self) -> None:
        """End; who still waits is let go."""
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading
        await self._reader.close()
