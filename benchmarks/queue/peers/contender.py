"""What every contender does."""

from typing import Any, Final, Protocol

from benchmarks.queue.crew import Shift

#: Jobs that one client takes, or has in hand, at once.
BATCH: Final = 32

#: What a peer's job carries: as much as tells a worker what to upscale.
PAYLOAD: Final[dict[str, Any]] = {
    "source": "s3://twofold/uploads/album/0001.png",
    "output_prefix": "s3://twofold/results",
    "width": 512,
    "height": 512,
    "parameters": {"steps": 20, "guidance_scale": 0.0, "seed": 7, "prompt": ""},
}


class Contender(Protocol):
    """A queue. Can be pickled: it works in other processes than the one that made it."""

    @property
    def name(self) -> str:
        """As the tables call it, with its version."""

    def prepare(self) -> None:
        """Make its tables."""

    def submit(self, jobs: int) -> None:
        """Put jobs into the queue, in the fastest way that its documentation knows."""

    def processes(self, clients: int) -> int:
        """How many processes `work` is begun in for so many clients."""

    def work(self, shift: Shift) -> None:
        """Take and end jobs that do nothing, until the shift is over."""

    def left(self) -> int:
        """How many jobs have not ended."""
