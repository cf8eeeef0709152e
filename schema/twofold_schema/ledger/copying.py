"""Rows by COPY, in its text format: a line each, built and sent while the server takes others."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import cast
from uuid import UUID

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from twofold_schema.ledger.new_jobs import NewJob

_JOB_COLUMNS = (
    "id, tenant, job_class, key, submission_id, state, max_attempts, source, output_prefix, output,"
    " publish_to, width, height, lane, pixels, lattice_pixels, est_gpu_seconds, parameters,"
    " metadata, model_revision, created_at, queued_at, scheduled_at, start_by, finish_by"
)

# New jobs.
_COPY_JOBS = f"COPY jobs ({_JOB_COLUMNS}) FROM STDIN"

# Keys that nobody is believed to hold.
_COPY_KEYS = "COPY job_keys (tenant, key, job_id, fingerprint, expires_at) FROM STDIN"

_NULL = "\\N"
_UNMEASURED = "\t".join([_NULL] * 6)
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
#: The driver takes up to 128 KiB at once gladly, and the server shall not wait for the first.
_LINES_PER_WRITE = 64


def copy_jobs(
    connection: Connection,
    jobs: Iterable[tuple[UUID, NewJob]],
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
    submission = _NULL if submission_id is None else str(submission_id)
    stamp = now.isoformat()
    _copy(
        connection,
        _COPY_JOBS,
        (_job_line(job_id, new_job, submission, stamp) for job_id, new_job in jobs),
    )


def copy_keys(
    connection: Connection,
    keys: Iterable[tuple[str, str, UUID, bytes]],
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
            f"{_text(tenant)}\t{_text(key)}\t{job_id}\t\\\\x{fingerprint.hex()}\t{expires}\n"
            for tenant, key, job_id, fingerprint in keys
        ),
    )


def _copy(connection: Connection, statement: str, lines: Iterable[str]) -> None:
    lines = iter(lines)
    with _copying(connection, statement) as copy:
        while some := list(islice(lines, _LINES_PER_WRITE)):
            copy.write("".join(some))


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


def _job_line(job_id: UUID, new_job: NewJob, submission: str, now: str) -> str:
    measure = new_job.measure
    measured = (
        f"{measure.width}\t{measure.height}\t{_text(measure.lane)}\t{measure.pixels}"
        f"\t{measure.lattice_pixels}\t{measure.est_gpu_seconds!r}"
        if measure
        else _UNMEASURED
    )
    parameters = new_job.parameters
    start_at = new_job.start_at
    state, queued_at = ("queued", now) if start_at is None else ("scheduled", _NULL)
    return (
        f"{job_id}\t{_text(new_job.tenant)}\t{new_job.job_class.rank}\t{_optional(new_job.key)}"
        f"\t{submission}\t{state}\t{new_job.max_attempts}\t{_text(new_job.source)}"
        f"\t{_text(new_job.output_prefix)}"
        f"\t{_text(new_job.output.model_dump_json(exclude_defaults=True))}"
        f"\t{_optional(new_job.publish_to)}\t{measured}\t{_text(parameters.model_dump_json())}"
        f"\t{_json(new_job.metadata)}\t{_optional(parameters.model_revision)}\t{now}\t{queued_at}"
        f"\t{_time(start_at)}\t{_time(new_job.start_by)}\t{_time(new_job.finish_by)}\n"
    )


def _text(value: str) -> str:
    # Most need no escape, and to look is cheaper than to translate.
    plain = "\\" not in value and value.isprintable()
    return value if plain else value.translate(_ESCAPES)


def _optional(value: str | None) -> str:
    return _NULL if value is None else _text(value)


def _json(pairs: Mapping[str, str] | None) -> str:
    return _text(json.dumps(pairs)) if pairs else "{}"


def _time(time: datetime | None) -> str:
    return _NULL if time is None else time.isoformat()
