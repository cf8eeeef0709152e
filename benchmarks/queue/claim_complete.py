"""Claim and complete of jobs that do nothing, against peers and a bare SKIP LOCKED loop."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Final

from benchmarks.queue import rows
from benchmarks.queue.bench import Bench, Scale
from benchmarks.queue.crew import Crew, Sample, middle_rate
from benchmarks.queue.keeping import kept
from benchmarks.queue.peers import (
    Awa,
    BareLoop,
    Celery,
    Contender,
    PgQueuer,
    Procrastinate,
    Twofold,
)
from benchmarks.queue.peers.contender import BATCH
from benchmarks.report import Report

_SETTLE_SECONDS: Final = 30.0
#: A fast contender is not given more, however short its drain is then.
_MOST_JOBS: Final = 200_000


def measure(bench: Bench) -> Report:
    """Jobs a second of every contender at every number of clients, in interleaved rounds.

    Raises:
        RuntimeError: A contender fails, stands still or leaves jobs behind.
    """
    scale = bench.scale
    with contenders(bench) as everyone:
        rates: dict[str, dict[int, list[float]]] = {
            one.name: {clients: [] for clients in scale.clients} for one in everyone
        }
        plan = [
            (clients, number, one)
            for clients in scale.clients
            for number in range(scale.rounds + 1)  # the first is to see how many jobs it takes
            for one in everyone
        ]
        jobs: dict[str, int] = {}
        for clients, number, one in bench.each(plan, "claim-complete"):
            if number:
                found = middle_rate(drained(one, jobs[one.name], clients))
                rates[one.name][clients].append(found)
            else:
                jobs[one.name] = _jobs_of_a_drain(one, clients, scale)
        return _report(everyone, rates)


@contextmanager
def contenders(bench: Bench) -> Iterator[list[Contender]]:
    """Everyone, each in a database of its own."""
    servers = bench.servers
    with ExitStack() as parts:
        own = parts.enter_context(servers.database())
        engine = own.connect()
        waiting, _ = rows.plant(engine)
        engine.dispose()
        parts.enter_context(kept(own))
        everyone: list[Contender] = [
            Twofold(database=own, waiting=waiting, batch=BATCH),
            Twofold(database=own, waiting=waiting, batch=BATCH, starts=True),
            Twofold(database=own, waiting=waiting, batch=1),
            Celery(redis_url=servers.redis_url, pool="prefork"),
            Celery(redis_url=servers.redis_url, pool="solo"),
        ]
        everyone += [
            kind(parts.enter_context(servers.database(migrated=False)))
            for kind in (BareLoop, Procrastinate, PgQueuer, Awa)
        ]
        for one in everyone:
            one.prepare()
        yield everyone


def _jobs_of_a_drain(contender: Contender, clients: int, scale: Scale) -> int:
    """How many jobs it has done when the drain has lasted as long as it is meant to.

    A client is slow at first: it imports, connects and has statements planned. So that this is not
    what is measured, a drain that was too short is no measure of the next.
    """
    jobs = scale.warm_jobs
    while True:
        samples = drained(contender, jobs, clients)
        took = samples[-1][0] - samples[0][0]
        if took >= scale.drain_seconds / 2 or jobs == _MOST_JOBS:
            return jobs
        wanted = int(middle_rate(samples) * scale.drain_seconds)
        if wanted <= jobs:
            return jobs
        jobs = min(wanted, _MOST_JOBS)


def drained(contender: Contender, jobs: int, clients: int) -> list[Sample]:
    """How so many jobs got done.

    Raises:
        RuntimeError: Some were left, or done more than once.
    """
    contender.submit(jobs)
    with Crew(contender.work, clients=clients, processes=contender.processes(clients)) as crew:
        crew.begin()
        samples = crew.drain(jobs)
        deadline = time.monotonic() + _SETTLE_SECONDS
        # A handler's return is not yet the end of its job.
        while left := contender.left():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{contender.name} has left {left} of {jobs} jobs")
            time.sleep(0.05)
    if crew.shift.done != jobs:
        raise RuntimeError(f"{contender.name} did {crew.shift.done} jobs of {jobs}")
    return samples


def _report(everyone: Sequence[Contender], rates: dict[str, dict[int, list[float]]]) -> Report:
    at = {
        name: {clients: median(found) for clients, found in own.items()}
        for name, own in rates.items()
    }
    ours, of_bare = at[everyone[0].name], at[_only(everyone, BareLoop)]
    celery = [one.name for one in everyone if isinstance(one, Celery)]
    peers = [one.name for one in everyone if isinstance(one, (Procrastinate, PgQueuer, Awa))]

    def against(names: Sequence[str]) -> dict[int, float]:
        """At each number of clients, against the fastest of these there."""
        return {clients: own / max(at[n][clients] for n in names) for clients, own in ours.items()}

    ratios = {
        "celery": against(celery),
        "best_peer": against(peers),
        "bare_loop": {clients: own / of_bare[clients] for clients, own in ours.items()},
    }
    # The worst of all numbers of clients is what can be promised.
    figures = {
        f"claim_complete_ratio_to_{name}": min(found.values()) for name, found in ratios.items()
    }
    table = [
        {
            "queue": name,
            **{f"jobs/s, {clients} clients": found for clients, found in own.items()},
            **{
                f"twofold is, {clients}": f"{ours[clients] / found:.2g}x"
                for clients, found in own.items()
            },
        }
        for name, own in at.items()
    ]
    worst = min(ratios["best_peer"], key=lambda clients: ratios["best_peer"][clients])
    nearest = max(peers, key=lambda name: at[name][worst])
    details = {
        "jobs_per_second": at,
        "rounds": rates,
        "ratios": ratios,
        "best_peer": nearest,
        "notes": [f"The best Postgres peer, at {worst} clients, where it is nearest: {nearest}."],
    }
    return Report(figures=figures, details=details, rows=table)


def _only(everyone: Sequence[Contender], kind: type) -> str:
    (name,) = (one.name for one in everyone if isinstance(one, kind))
    return name
