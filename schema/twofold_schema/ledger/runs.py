"""A run: one life of one worker process, and its lease."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from twofold_schema.errors import RunLost
from twofold_schema.job import Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Who runs, where, with what.

    Attributes:
        lease: How long the run keeps its jobs without a heartbeat.
        model: The model's name as people read it.
        max_lattice_pixels: The largest padded source, in pixels, that the device has room for; None
            where no limit is known: then the run is offered everything.
    """

    id: UUID
    host: str
    pid: int
    device: str
    version: str
    model: str
    model_revision: str
    lease: timedelta
    max_lattice_pixels: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """A run as its row has it. Times are the database's.

    Attributes:
        holding: How many jobs it has in its hands.
        draining: Whether it takes no more, or was told so.
        max_lattice_pixels: As of `Run`.
    """

    id: UUID
    host: str
    pid: int
    device: str
    version: str
    model: str
    model_revision: str
    holding: int
    draining: bool
    max_lattice_pixels: int | None
    started_at: datetime
    lease_expires_at: datetime


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a heartbeat brings back.

    Attributes:
        drain: Whether the run was told to finish what it has and stop.
        held: The jobs that are `running` under this run, and whether each was called off.
    """

    drain: bool
    held: dict[Claim, bool]


# Begins a run with a full lease, or finds that it did and only the reply was lost.
_REGISTER = text("""
    INSERT INTO runs (id, host, pid, device, version, model, model_revision,
                      max_lattice_pixels, lease_seconds, lease_expires_at)
    VALUES (:id, :host, :pid, :device, :version, :model, :model_revision,
            :max_lattice_pixels, :lease_seconds,
            clock_timestamp() + :lease_seconds * interval '1 second')
    ON CONFLICT (id) DO NOTHING
""")

# Prolongs a lease that nobody has declared lost, even one that ran out meanwhile: until rescue
# looks, nothing was given away.
_RENEW = text("""
    UPDATE runs
    SET lease_expires_at = clock_timestamp() + lease_seconds * interval '1 second',
        holding = :holding
    WHERE id = :id AND state IN ('live', 'draining')
    RETURNING drain_requested_at IS NOT NULL AS drain
""")

# What the ledger believes that a run holds.
_HELD = text("""
    SELECT id, fence, cancel_requested_at IS NOT NULL AS flagged
    FROM jobs WHERE state = 'running' AND run_id = :id
""")

# Tells runs to finish what they have and stop.
_ORDER_DRAIN = text("""
    UPDATE runs SET drain_requested_at = coalesce(drain_requested_at, clock_timestamp())
    WHERE id = :id AND state IN ('live', 'draining')
""")

# The run claims no more.
_DRAIN = text("UPDATE runs SET state = 'draining' WHERE id = :id AND state = 'live'")

# The run has ended in good order, or says that it is broken: rescue takes what it still holds.
_END = text("""
    UPDATE runs SET state = :state, holding = 0, ended_at = clock_timestamp()
    WHERE id = :id AND state IN ('live', 'draining')
""")

# Live runs that hold nothing: as many tickets are worth sending.
_IDLE = text("""
    SELECT count(*) FROM runs
    WHERE state = 'live' AND holding = 0 AND lease_expires_at > clock_timestamp()
""")


# Runs that hold a lease, the longest first.
_AT_WORK = text("""
    SELECT id, host, pid, device, version, model, model_revision, holding,
           state = 'draining' OR drain_requested_at IS NOT NULL AS draining, max_lattice_pixels,
           started_at, lease_expires_at
    FROM runs WHERE state IN ('live', 'draining') AND lease_expires_at > clock_timestamp()
    ORDER BY started_at, id
""")


def register(connection: Connection, run: Run) -> None:
    """Begin a run; its lease starts now. Safe to repeat."""
    connection.execute(
        _REGISTER,
        {
            "id": run.id,
            "host": run.host,
            "pid": run.pid,
            "device": run.device,
            "version": run.version,
            "model": run.model,
            "model_revision": run.model_revision,
            "max_lattice_pixels": run.max_lattice_pixels,
            "lease_seconds": run.lease.total_seconds(),
        },
    )


def renew(connection: Connection, run_id: UUID, *, holding: int) -> Renewal:
    """Prolong a run's lease and read what it is believed to hold.

    Args:
        connection: In a transaction of its own.
        run_id: Of the run.
        holding: How many jobs the run has in its hands.

    Raises:
        RunLost: Rescue has declared the run lost; it must exit.
    """
    row = connection.execute(_RENEW, {"id": run_id, "holding": holding}).one_or_none()
    if row is None:
        raise RunLost
    held = connection.execute(_HELD, {"id": run_id})
    return Renewal(
        drain=row.drain,
        held={Claim(job_id=job.id, fence=job.fence, run_id=run_id): job.flagged for job in held},
    )


def order_drain(connection: Connection, run_id: UUID) -> None:
    """Tell a run to finish what it has and stop; it hears with its next heartbeat."""
    connection.execute(_ORDER_DRAIN, {"id": run_id})


def drain(connection: Connection, run_id: UUID) -> None:
    """Stop a run's claims; its lease goes on. Safe to repeat."""
    connection.execute(_DRAIN, {"id": run_id})


def stop(connection: Connection, run_id: UUID) -> None:
    """End a run in good order; what it still holds goes back uncharged. Safe to repeat."""
    connection.execute(_END, {"id": run_id, "state": "stopped"})


def give_up(connection: Connection, run_id: UUID) -> None:
    """End a run that is broken; its started jobs are suspects. Safe to repeat."""
    connection.execute(_END, {"id": run_id, "state": "lost"})


def count_idle(connection: Connection) -> int:
    """How many live runs hold nothing."""
    return int(connection.execute(_IDLE).scalar_one())


def at_work(connection: Connection) -> Sequence[RunReport]:
    """Runs that hold a lease, the longest first."""
    return [RunReport(**row) for row in connection.execute(_AT_WORK).mappings()]
