"""Rows by COPY, in its text format: a line each, built and sent while the server takes others."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import cast
from uuid import UUID

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from twofold_schema.ids import PackedId
from twofold_schema.lanes import Measure
from twofold_schema.ledger.new_jobs import NewJob, Terms

# First what is a job's own, then what its terms are.
_JOB_COLUMNS = (
    "id, key, source, publish_to, metadata, width, height, lane, pixels, lattice_pixels,"
    " est_gpu_seconds, parameters, model_revision, tenant, job_class, submission_id, state,"
    " max_attempts, output_prefix, output, created_at, queued_at, scheduled_at, start_by,"
    " finish_by, webhook_id"
)

# New jobs.
_COPY_JOBS = f"COPY jobs ({_JOB_COLUMNS}) FROM STDIN"

# Keys that nobody is believed to hold.
_COPY_KEYS = "COPY job_keys (tenant, key, job_id, fingerprint, expires_at) FROM STDIN"

_NULL = "\\N"
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
#: Of many jobs most have their size and their terms from few others.
_REMEMBERED = 4096
#: The server shall not wait for the first, and each write may wait for the interpreter's lock.
_LINES_PER_WRITE = 1000


def copy_jobs(
    connection: Connection,
    jobs: Iterable[tuple[PackedId, NewJob]],
    *,
    submission_id: UUID | None,
    now: datetime,
) -> None:
    """Write jobs under these ids.

    Args:
        connection: In a transaction.
        jobs: With their ids.
        submission_id: Of all of them.
        now: By the database's clock.
    """
    submission = submission_id and str(submission_id)
    stamp = now.isoformat()

    def line(job: tuple[PackedId, NewJob]) -> str:
        return _own(*job) + _shared(job[1].terms, submission, stamp)

    _copy(connection, _COPY_JOBS, map(line, jobs))


def copy_keys(
    connection: Connection,
    keys: Iterable[tuple[str, str, PackedId, bytes]],
    *,
    expires_at: datetime,
) -> None:
    """Write keys: tenant, key, the job that holds it, and its payload's digest.

    Raises:
        IntegrityError: One of them is held, expired or not.
    """
    expires = expires_at.isoformat()
    _copy(
        connection,
        _COPY_KEYS,
        (
            f"{_text(tenant)}\t{_text(key)}\t{job_id.hex()}\t\\\\x{fingerprint.hex()}\t{expires}\n"
            for tenant, key, job_id, fingerprint in keys
        ),
    )


def _copy(connection: Connection, statement: str, lines: Iterable[str]) -> None:
    lines = iter(lines)
    with _copying(connection, statement) as copy:
        while some := "".join(islice(lines, _LINES_PER_WRITE)):
            copy.write(some)


@contextmanager
def _copying(connection: Connection, statement: str) -> Iterator[psycopg.Copy]:
    """The driver's COPY on SQLAlchemy's connection, with SQLAlchemy's errors."""
    driver = cast("psycopg.Connection", connection.connection.driver_connection)
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            yield copy
    except psycopg.Error as error:
        if driver.broken:
            connection.invalidate(error)
        raise DBAPIError.instance(
            statement,
            None,
            error,
            psycopg.Error,
            connection_invalidated=driver.broken,
            dialect=connection.dialect,
        ) from error


def _own(job_id: PackedId, new_job: NewJob) -> str:
    """The beginning of a job's line, up to its seed."""
    key, publish_to, metadata = new_job.key, new_job.publish_to, new_job.metadata
    return (
        f"{job_id.hex()}\t{_NULL if key is None else _text(key)}\t{_text(new_job.source)}"
        f"\t{_NULL if publish_to is None else _text(publish_to)}"
        f"\t{_text(json.dumps(metadata)) if metadata else '{}'}"
        f"\t{_measured(new_job.measure)}\t{{"
        f'"seed":{"null" if new_job.seed is None else new_job.seed},'
    )


@lru_cache(_REMEMBERED)
def _measured(measure: Measure | None) -> str:
    if measure is None:
        return "\t".join([_NULL] * 6)
    return (
        f"{measure.width}\t{measure.height}\t{_text(measure.lane)}\t{measure.pixels}"
        f"\t{measure.lattice_pixels}\t{measure.est_gpu_seconds!r}"
    )


@lru_cache(_REMEMBERED)
def _shared(terms: Terms, submission: str | None, now: str) -> str:
    """The rest of the line of every job that has these terms, behind its seed."""
    parameters, start_at = terms.parameters, terms.start_at
    state, queued_at = ("queued", now) if start_at is None else ("scheduled", None)
    times = (start_at, terms.start_by, terms.finish_by)
    columns = (
        parameters.model_dump_json(exclude={"seed"}).removeprefix("{"),
        parameters.model_revision,
        terms.tenant,
        str(terms.job_class.rank),
        submission,
        state,
        str(terms.max_attempts),
        terms.output_prefix,
        terms.output.model_dump_json(exclude_defaults=True),
        now,
        queued_at,
        *(None if time is None else time.isoformat() for time in times),
        None if terms.webhook is None else str(terms.webhook),
    )
    return "\t".join(map(_optional, columns)) + "\n"


def _text(value: str) -> str:
    # Most need no escape, and to look is cheaper than to translate.
    plain = "\\" not in value and value.isprintable()
    return value if plain else value.translate(_ESCAPES)


def _optional(value: str | None) -> str:
    return _NULL if value is None else _text(value)
