"""What goes over HTTP of who works, and how many should."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel

from twofold_schema.wire.base import ATTRIBUTES


class WorkerReport(BaseModel):
    """A run that holds a lease; see `RunReport`."""

    model_config = ATTRIBUTES

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


class Autoscale(BaseModel):
    """What waits for GPUs, as an autoscaler reads it: every number is there, 0 included.

    Attributes:
        queued_gpu_seconds: What queued jobs are estimated to take; one of unknown size counts as a
            guess.
        queued_jobs: How many they are.
        oldest_seconds: How long the one has been queued that has been for longest; 0 for none.
        workers: Runs that hold a lease and are not draining.
        wanted_workers: So many would be done with what is queued in `drain_seconds`.
    """

    queued_gpu_seconds: float
    queued_jobs: int
    oldest_seconds: float
    workers: int
    wanted_workers: int
