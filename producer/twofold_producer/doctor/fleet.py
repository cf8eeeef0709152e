"""The checks of what runs: the keeper, the workers of the fleet, the worker of this host."""

import socket
from collections.abc import Iterator
from datetime import timedelta

from twofold_producer.doctor.configuration import needed
from twofold_producer.doctor.database import asking
from twofold_schema import findings
from twofold_schema.effective import Effective
from twofold_schema.findings import Finding
from twofold_schema.ledger import capacity, reads, vitals
from twofold_schema.settings import KeeperSettings, LimitSettings

KEEPER = "keeper"
WORKERS = "workers"
WORKER = "worker"

#: A keeper that is busy, or between two hosts, may be late this often.
_LATE_LOOKS = 10
_LATE_SECONDS = 30.0
_COUNTED = 1000

_RUN_KEEPER = "Run `twofold keeper`: one or more, always."
_RUN_WORKER = "Run `twofold worker` on a GPU host."


def check_keeper(settings: Effective) -> Iterator[Finding]:
    """Whether somebody promotes, expires and rescues."""
    every = needed(settings, KeeperSettings).keeper_seconds
    patience = timedelta(seconds=max(_LATE_LOOKS * every, _LATE_SECONDS))
    with asking(settings) as connection:
        pulse = vitals.pulse(connection)
    if pulse.age is None:
        yield findings.failed(KEEPER, "No keeper has ever looked after the jobs.", _RUN_KEEPER)
    elif pulse.age > patience:
        yield findings.failed(
            KEEPER, f"No keeper has looked after the jobs for {_span(pulse.age)}.", _RUN_KEEPER
        )
    elif pulse.overdue is not None and pulse.overdue > patience:
        yield findings.failed(
            KEEPER,
            f"A job has waited {_span(pulse.overdue)} to be promoted or expired: the keeper does "
            "not keep up.",
            "Read the keeper's log, or run another one beside it.",
        )
    else:
        yield findings.ok(KEEPER, f"A keeper looked {_span(pulse.age)} ago; nothing is overdue.")


def check_workers(settings: Effective) -> Iterator[Finding]:
    """Who works, with which model, and whether what waits fits."""
    declared = needed(settings, LimitSettings).largest_pool is not None
    with asking(settings) as connection:
        crews = vitals.crews(connection)
        waiting = reads.count_claimable(connection, older_than=timedelta(0), most=_COUNTED)
        # With pools declared the keeper fails what fits none, and the rest waits for its pool.
        unfit = 0 if declared else capacity.count_unfit(connection, most=_COUNTED)
    wait = f"{_up_to(waiting)} queued"
    if not crews and waiting:
        yield findings.warning(WORKERS, f"No worker is live, and jobs wait: {wait}.", _RUN_WORKER)
        return
    if not crews:
        yield findings.ok(WORKERS, "No worker is live, and no job waits.")
        return
    live = "; ".join(_named(crew) for crew in crews)
    models = {(crew.model, crew.model_revision) for crew in crews}
    if len(models) > 1:
        yield findings.warning(
            WORKERS,
            f"Live workers have different models, so that the same job gets different pictures: "
            f"{live}.",
            "Set one TWOFOLD_MODEL and TWOFOLD_MODEL_REVISION for the whole fleet.",
        )
    else:
        yield findings.ok(WORKERS, f"{live}; {wait}.")
    if unfit:
        yield findings.warning(
            WORKERS,
            f"Queued jobs that are too large for every live worker: {_up_to(unfit)}.",
            "Run a worker with more memory; or declare in TWOFOLD_POOLS what your pools can take, "
            "so that the keeper fails what fits none.",
        )


def check_worker(settings: Effective) -> Iterator[Finding]:
    """Whether a worker of this host holds a lease: what a container's health check asks."""
    host = socket.gethostname()
    with asking(settings) as connection:
        crews = vitals.crews(connection, host=host)
    if crews:
        yield findings.ok(WORKER, f"On this host: {'; '.join(_named(crew) for crew in crews)}.")
    else:
        yield findings.skipped(
            WORKER,
            f"No worker of this host ({host}) holds a lease.",
            "If there should be one: run `twofold worker` here, or read its log.",
        )


def _named(crew: vitals.Crew) -> str:
    workers = "worker" if crew.runs == 1 else "workers"
    revision = crew.model_revision[: len("sha256:") + 16]
    room = f", largest_pixels={crew.largest_pixels}" if crew.largest_pixels is not None else ""
    return (
        f"{crew.runs} {workers} on {crew.device} with {crew.model} {revision} "
        f"(Twofold {crew.version}), {crew.holding} jobs in hand{room}"
    )


def _up_to(counted: int) -> str:
    return str(counted) if counted < _COUNTED else f"{_COUNTED} or more"


def _span(time: timedelta) -> str:
    seconds = max(0.0, time.total_seconds())
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
