"""Bulk submit against COPY of the very same tuples, against peers' bulks, and its memory."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import psycopg
from psycopg import sql

from benchmarks.queue.bench import Bench
from benchmarks.queue.peers import Awa, Celery, Contender, PgQueuer, Procrastinate
from benchmarks.queue.producing import producer_of, requests
from benchmarks.queue.servers import Database
from benchmarks.report import Report

_OURS: Final = "twofold, submit_many"
_AGAIN: Final = "twofold, every key exists already"
_COPY: Final = "COPY of the same tuples"
_CHECKED: Final = "COPY, foreign keys checked"
_ROOT: Final = Path(__file__).parents[2]


def measure(bench: Bench) -> Report:
    """Jobs a second into the tables, and how the producer's memory grows with their number.

    Raises:
        RuntimeError: What was submitted is not there.
    """
    scale, servers = bench.scale, bench.servers
    times: dict[str, list[float]] = {name: [] for name in (_OURS, _AGAIN, _COPY, _CHECKED)}
    with ExitStack() as parts:
        own, copied = (parts.enter_context(servers.database()) for _ in range(2))
        peers: list[Contender] = [
            kind(parts.enter_context(servers.database(migrated=False)))
            for kind in (Procrastinate, PgQueuer, Awa)
        ]
        celery = Celery(redis_url=servers.redis_url, pool="prefork")
        for peer in (*peers, celery):
            peer.prepare()
            peer.submit(1)  # what is imported and compiled once is not measured
        rates: dict[str, list[float]] = {peer.name: [] for peer in (*peers, celery)}
        for _ in bench.each(range(scale.rounds), "submit"):
            _empty(own)
            with producer_of(own.url, servers.redis_url) as producer:
                producer.submit_many(requests(1, "warm"))
                for name in (_OURS, _AGAIN):
                    begin = time.perf_counter()
                    producer.submit_many(requests(scale.submitted, "bench"))
                    times[name].append(time.perf_counter() - begin)
            for name, seconds in _copied(own, copied, scale.submitted).items():
                times[name].append(seconds)
            for peer, jobs in (
                *((peer, scale.submitted) for peer in peers),
                (celery, scale.submitted_singly),
            ):
                rates[peer.name].append(jobs / _timed(partial(peer.submit, jobs)))
        few, many = (_peak_kib(bench, items) for items in scale.remembered)
    return _report(bench, times, rates, (few, many))


def _copied(own: Database, copied: Database, jobs: int) -> dict[str, float]:
    """Seconds for COPY of what the ledger's tables hold; of it nothing stays in memory."""
    tables, seconds = _read(own), dict[str, float]()
    _check(tables, jobs)
    for name, checks in ((_COPY, False), (_CHECKED, True)):
        _empty(copied)
        seconds[name] = _copy(copied, tables, checks_keys=checks)
    return seconds


@dataclass(frozen=True, slots=True)
class _Table:
    """What a submit wrote into a table: columns, and rows in the order in which they lie."""

    columns: tuple[str, ...]
    tuples: list[tuple[Any, ...]]


def _read(database: Database) -> dict[str, _Table]:
    """Every table with rows, those that triggers wrote too, referenced ones first."""
    with database.plain() as connection:
        return {
            name: found
            for name in _tables(connection)
            if (found := _contents(connection, name)).tuples
        }


def _tables(connection: psycopg.Connection) -> list[str]:
    names = connection.execute(
        "SELECT c.relname FROM pg_class AS c "
        "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' "
        "AND c.relname <> 'alembic_version' "
        "ORDER BY EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND conrelid = c.oid), 1"
    )
    return [name for (name,) in names]


def _contents(connection: psycopg.Connection, table: str) -> _Table:
    columns = connection.execute(
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = 'public' AND table_name = %s AND is_generated = 'NEVER' "
        "ORDER BY ordinal_position",
        [table],
    ).fetchall()
    # JSON as the text that it is sent as: encoding it is no part of a COPY.
    chosen = [
        sql.SQL("{}::text").format(sql.Identifier(name))
        if kind == "jsonb"
        else sql.Identifier(name)
        for name, kind in columns
    ]
    found = connection.execute(
        sql.SQL("SELECT {} FROM {} ORDER BY ctid").format(
            sql.SQL(", ").join(chosen), sql.Identifier(table)
        )
    ).fetchall()
    return _Table(tuple(name for name, _ in columns), found)


def _check(tables: dict[str, _Table], jobs: int) -> None:
    """Every job once, though it was submitted twice, and the one that warmed up."""
    for table in ("jobs", "job_keys"):
        if (found := len(tables[table].tuples)) != jobs + 1:
            raise RuntimeError(f"there are {found} {table}, not {jobs + 1}")


def _copy(database: Database, tables: dict[str, _Table], *, checks_keys: bool) -> float:
    """Seconds for COPY of all tuples, in one transaction.

    Triggers are off. So is the check of foreign keys, which Postgres makes by triggers too, unless
    it is asked for.
    """
    with database.plain() as connection:
        for name in _tables(connection):
            kind = sql.SQL("USER" if checks_keys else "ALL")
            table = sql.Identifier(name)
            for order in ("ENABLE TRIGGER ALL", "DISABLE TRIGGER {kind}"):
                connection.execute(
                    sql.SQL("ALTER TABLE {table} " + order).format(table=table, kind=kind)
                )
        statements = {
            name: sql.SQL("COPY {} ({}) FROM STDIN").format(
                sql.Identifier(name), sql.SQL(", ").join(map(sql.Identifier, table.columns))
            )
            for name, table in tables.items()
        }

        def copy() -> None:
            with connection.transaction():
                for name, statement in statements.items():
                    with connection.cursor().copy(statement) as rows:
                        for row in tables[name].tuples:
                            rows.write_row(row)

        return _timed(copy)


def _empty(database: Database) -> None:
    """No rows, and nothing left to write from before."""
    with database.plain() as connection:
        names = sql.SQL(", ").join(map(sql.Identifier, _tables(connection)))
        connection.execute(sql.SQL("TRUNCATE {}").format(names))
        connection.execute("CHECKPOINT")


def _peak_kib(bench: Bench, items: int) -> int:
    """The most memory that a producer's process had for a bulk of so many items, in KiB."""
    with bench.servers.database() as database:
        asked = subprocess.run(
            [sys.executable, "-m", "benchmarks.queue.producing", str(items)],
            input=f"{database.url}\n{bench.servers.redis_url}\n",
            capture_output=True,
            text=True,
            check=False,
            cwd=_ROOT,
        )
    if asked.returncode:
        raise RuntimeError(f"the producer of {items} items failed:\n{asked.stderr}")
    return int(asked.stdout)


def _timed(act: Callable[[], None]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def _report(
    bench: Bench,
    times: dict[str, list[float]],
    peers: dict[str, list[float]],
    peaks: Sequence[int],
) -> Report:
    jobs = bench.scale.submitted
    per_second = {name: jobs / median(seconds) for name, seconds in times.items()}
    per_second |= {name: median(rates) for name, rates in peers.items()}

    def share(name: str) -> float:
        return median(c / t for c, t in zip(times[_COPY], times[name], strict=True))

    figures = {
        "submit_ratio_to_copy": share(_OURS),
        "resubmit_ratio_to_copy": share(_AGAIN),
        "producer_rss_ratio_1m": peaks[1] / peaks[0],
    }
    rows = [
        {"what": name, "jobs/s": rate, "of COPY": f"{rate / per_second[_COPY]:.0%}"}
        for name, rate in per_second.items()
    ]
    details = {
        "jobs": jobs,
        "jobs_per_second": per_second,
        "seconds": times,
        "producer_peak_mib": {
            str(items): peak / 1024
            for items, peak in zip(bench.scale.remembered, peaks, strict=True)
        },
        "notes": [
            "A producer's peak memory: "
            + ", ".join(
                f"{peak / 1024:.0f} MiB for {items} items"
                for items, peak in zip(bench.scale.remembered, peaks, strict=True)
            )
            + "."
        ],
    }
    return Report(figures=figures, details=details, rows=rows)
