"""The service in a process of its own, with a route beside its own that does nothing.

python -m benchmarks.api.serving, with the URLs of Postgres and Redis as two lines of input; prints
where it listens, and ends with its input.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Response

from benchmarks.queue.servers import Database
from twofold_producer.api import app
from twofold_producer.api.caller import Reader
from twofold_schema import log
from twofold_schema.api_key import Scope
from twofold_schema.ledger import api_keys
from twofold_schema.settings import (
    ApiSettings,
    BrokerSettings,
    DatabaseSettings,
    LimitSettings,
    LogSettings,
    StorageSettings,
)

#: Asked for by a key like every other route, and answered with nothing.
NOTHING: Final = "/v1/nothing"
_ROOT: Final = Path(__file__).parents[2]
#: One statement of a large bulk may take longer than one of a service.
_PATIENCE_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Served:
    """A service that is asked.

    Attributes:
        url: Where it listens.
        key: An API key for everything of the default tenant.
        pid: Of its process.
    """

    url: str
    key: str
    pid: int

    def peak_kib(self) -> int:
        """How much memory its process had at most."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
        raise RuntimeError("this system does not say how much memory a process had at most")


@contextmanager
def serving(database: Database, broker_url: str) -> Iterator[Served]:
    """A service of a database, which ends with the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.api.serving"],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # What it says of each request is written, and read by nobody.
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None  # noqa: S101 - as asked for
        assert process.stdout is not None  # noqa: S101 - as asked for
        process.stdin.write(f"{database.url}\n{broker_url}\n")
        process.stdin.flush()
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError("the service does not start")
        yield Served(url, _key_of(database), process.pid)
        process.stdin.close()


def _key_of(database: Database) -> str:
    engine = database.connect()
    try:
        with engine.begin() as connection:
            return api_keys.create(
                connection,
                "of a benchmark",
                tenant="default",
                scopes=[Scope.ADMIN],
                reason="a benchmark",
                who="a benchmark",
            ).secret
    finally:
        engine.dispose()


async def nothing(_: Reader) -> Response:
    """What any route costs that asks for a key."""
    return Response(status_code=204)


def _service(database_url: str, broker_url: str, settings: ApiSettings) -> FastAPI:
    service = app.build(
        settings,
        DatabaseSettings.model_validate(
            {"database_url": database_url, "database_timeout_seconds": _PATIENCE_SECONDS}
        ),
        BrokerSettings.model_validate({"broker_url": broker_url}),
        StorageSettings(),
        LimitSettings(),
    )
    service.add_api_route(NOTHING, nothing, status_code=204)
    return service


def main() -> None:
    """Serve until the input ends."""
    log.configure(LogSettings())
    database_url, broker_url = (sys.stdin.readline().strip() for _ in range(2))
    settings = ApiSettings(api_port=0)
    server = app.server(_service(database_url, broker_url, settings), settings)
    thread = threading.Thread(target=server.run, name="api")
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    sys.stdout.write(f"http://{host}:{port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    # Listeners would be waited for.
    server.should_exit = server.force_exit = True
    thread.join()


if __name__ == "__main__":
    main()
