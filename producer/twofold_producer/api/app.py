"""The service: its parts, and what every request goes through."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any, Final

import anyio.to_thread
import structlog
import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from twofold_producer.api import (
    description,
    events,
    fleet,
    health,
    identity,
    jobs,
    operations,
    problems,
    queues,
    submissions,
    uploads,
)
from twofold_producer.api.bulks import Bulks
from twofold_producer.api.caller import Gate
from twofold_producer.api.counts import Counts
from twofold_producer.api.edge import Edge
from twofold_producer.api.follower import Follower
from twofold_producer.api.lookups import Lookups
from twofold_producer.api.service import Service
from twofold_producer.api.watch import Watch
from twofold_producer.producer import Producer
from twofold_schema import database
from twofold_schema.async_reader import AsyncReader
from twofold_schema.settings import (
    ApiSettings,
    BrokerSettings,
    DatabaseSettings,
    LimitSettings,
    StorageSettings,
)

log = structlog.get_logger(__name__)

_KEEP_ALIVE_SECONDS: Final = 75
#: A thread that has heard from the database waits so long for the one that serves listeners, at
#: every trip: Python's own 5 ms would be most of what a request takes.
_SWITCH_SECONDS: Final = 0.0005
_LAST_WORDS_SECONDS: Final = 30
_DESCRIPTION: Final = (
    "Make pictures twice as large, many at a time. Every request but those for health has an API "
    "key: `Authorization: Bearer tfk_…`. Errors are problem+json; their `code` is what to compare."
)


class Described(FastAPI):
    """An application whose description has all that its routes refer to."""

    def openapi(self) -> dict[str, Any]:
        """What it takes and answers, as OpenAPI 3.1."""
        if self.openapi_schema is None:
            description.complete(super().openapi())
        return super().openapi()


def describe() -> FastAPI:
    """The service without its parts: what its routes are, and how requests go to them."""
    app = Described(
        title="Twofold",
        version=version("twofold"),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    for room in (jobs, submissions, events, queues, operations, fleet, uploads, identity):
        app.include_router(room.router, responses=description.KEYED)
    app.include_router(health.router, responses=description.EVERY)
    problems.install(app)
    return app


def build(
    settings: ApiSettings,
    database_settings: DatabaseSettings,
    broker: BrokerSettings,
    storage: StorageSettings,
    limits: LimitSettings,
) -> FastAPI:
    """The service; connections are made when it starts."""
    app = describe()

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        patience = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.api_threads
        engine = database.connect(database_settings)
        producer = Producer(
            database_settings=database_settings, broker=broker, storage=storage, limits=limits
        )
        gate = Gate(engine)
        follower = Follower(engine)
        watch = Watch(gate)
        lookups = Lookups(AsyncReader(database_settings))
        app.state.service = Service(
            settings=settings,
            places=storage,
            producer=producer,
            engine=engine,
            gate=gate,
            follower=follower,
            watch=watch,
            lookups=lookups,
            counts=Counts(engine),
            bulks=Bulks(),
        )
        tasks = [
            asyncio.create_task(follower.run(), name="follower"),
            asyncio.create_task(watch.run(), name="watch"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            await lookups.close()
            producer.close()
            engine.dispose()
            sys.setswitchinterval(patience)

    app.router.lifespan_context = life
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["ETag", "Location", "Retry-After", "X-Request-Id"],
        )
    app.add_middleware(
        Edge,
        max_body_bytes=settings.api_max_body_bytes,
        max_manifest_bytes=settings.api_max_manifest_bytes,
        trust_proxy=bool(settings.api_trusted_proxies),
    )
    return app


class Server(uvicorn.Server):
    """A server that says where it listens, once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        for listening in self.servers:
            host, port, *_ = listening.sockets[0].getsockname()
            log.info("listening", url=f"http://{host}:{port}")


def server(app: FastAPI, settings: ApiSettings) -> Server:
    """A server of the service, on its address."""
    return Server(
        uvicorn.Config(
            app,
            host=settings.api_host,
            port=settings.api_port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.api_trusted_proxies),
            forwarded_allow_ips=settings.api_trusted_proxies or None,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_LAST_WORDS_SECONDS,
        )
    )


def openapi() -> dict[str, Any]:
    """What the service takes and answers, as OpenAPI 3.1."""
    return describe().openapi()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(openapi(), indent=1) + "\n")
