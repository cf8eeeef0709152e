"""A producer that submits a generator's jobs; as a program, in a process whose memory is read.

python -m benchmarks.queue.producing ITEMS, with the URLs of Postgres and Redis as two lines of
input; prints the process's peak memory in KiB.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from twofold_producer.producer import Producer
from twofold_producer.submit.request import JobRequest
from twofold_schema.settings import (
    BrokerSettings,
    DatabaseSettings,
    LimitSettings,
    StorageSettings,
)

#: One statement of a large bulk may take longer than one of a service.
_PATIENCE_SECONDS = 600.0


def requests(items: int, name: str) -> Iterator[JobRequest]:
    """Requests with keys for pictures of stated size, as a service makes them from its rows."""
    for number in range(items):
        yield JobRequest(
            source=f"s3://twofold/uploads/album/{number:08d}.png",
            key=f"{name}-{number:08d}",
            width=512,
            height=768,
        )


def producer_of(database_url: str, broker_url: str) -> Producer:
    """A producer with settings of its own; close it."""
    return Producer(
        database_settings=DatabaseSettings.model_validate(
            {"database_url": database_url, "database_timeout_seconds": _PATIENCE_SECONDS}
        ),
        broker=BrokerSettings.model_validate({"broker_url": broker_url}),
        storage=StorageSettings(),
        limits=LimitSettings(),
    )


def _peak_kib() -> int:
    # Not getrusage, which also counts what the parent had when it forked.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise RuntimeError("this system does not say how much memory a process had at most")


def main() -> None:
    """Submit, and say what it took."""
    database_url, broker_url = sys.stdin.read().split()
    with producer_of(database_url, broker_url) as producer:
        producer.submit_many(requests(int(sys.argv[1]), "bench"))
    sys.stdout.write(f"{_peak_kib()}\n")


if __name__ == "__main__":
    main()
