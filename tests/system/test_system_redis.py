"""The Redis server of the system is preferred to the one in a wheel."""

import shutil

import pytest
import redis
from tests.house import ROOT

from twofold_producer.dev.redis import Redis

pytestmark = pytest.mark.system


def test_the_servers_on_the_path_is_the_one_that_runs() -> None:
    program = shutil.which("redis-server")
    if program is None or str(ROOT) in program:
        pytest.fail("redis-server is not installed; run `make system-packages`")
    with Redis.start() as server, redis.Redis.from_url(server.url) as client:
        assert client.info()["executable"] == program
