"""The service on loopback, over real servers, and keys to it."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import pytest
from sqlalchemy import Engine
from tests.house import House, eventually

from twofold_producer.api import app
from twofold_producer.client import Client
from twofold_schema.api_key import Scope
from twofold_schema.ledger import api_keys
from twofold_schema.settings import (
    ApiSettings,
    BrokerSettings,
    DatabaseSettings,
    LimitSettings,
    StorageSettings,
)

#: A key's secret, by tenant and scopes.
Issue = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Served:
    """The service, and who may ask it.

    Attributes:
        url: Of the service.
        house: Its servers.
        issue: Makes a key: `issue("acme", "read", "submit")`; of tenant None for everybody's.
    """

    url: str
    house: House
    issue: Issue

    def client(self, tenant: str | None = "default", *scopes: str, **options: object) -> Client:
        """A client with a key of its own, for everything unless scopes are named."""
        return Client(self.url, self.issue(tenant, *scopes), **options)  # type: ignore[arg-type]

    def http(self, tenant: str | None = "default", *scopes: str) -> httpx2.Client:
        """The same, request by request."""
        headers = {"Authorization": f"Bearer {self.issue(tenant, *scopes)}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30)


@contextmanager
def serving(environment: Mapping[str, str]) -> Iterator[str]:
    """The URL of a service that ends with the block."""
    settings = ApiSettings.load({"TWOFOLD_API_PORT": "0", **environment})
    service = app.build(
        settings,
        DatabaseSettings.load(environment),
        BrokerSettings.load(environment),
        StorageSettings.load(environment),
        LimitSettings.load(environment),
    )
    server = app.server(service, settings)
    thread = threading.Thread(target=server.run, name="api")
    thread.start()
    try:
        eventually(lambda: server.started or not thread.is_alive())
        (listener,) = server.servers[0].sockets
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@pytest.fixture
def issue(engine: Engine) -> Issue:
    def make(tenant: str | None = "default", *scopes: str) -> str:
        with engine.begin() as connection:
            made = api_keys.create(
                connection,
                "of a test",
                tenant=tenant,
                scopes=[Scope(scope) for scope in scopes or ("admin",)],
                reason="a test",
                who="a test",
            )
        return made.secret

    return make


@pytest.fixture
def served(house: House, issue: Issue) -> Iterator[Served]:
    with serving(house.environment) as url:
        yield Served(url, house, issue)
