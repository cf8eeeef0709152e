"""A worker that hangs is ended and replaced, and its job is done by another."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from tests.house import House
from tests.pictures import encoded

from twofold_schema.job import JobState


@pytest.mark.parametrize("hang", ["sleep", "gil"])
def test_a_hanging_engine_is_replaced(house: House, hang: str) -> None:
    """Sleeping for ever, or holding the GIL so that not even the heartbeat beats."""
    house.keeper()
    marker = house.marker("has-hung")
    job_id = house.producer().submit(encoded()).job_id
    house.supervised(f"--hang={hang}", f"--marker={marker}", stall_seconds=1)

    (job,) = house.wait_ended([job_id])

    assert marker.exists()
    _was_rescued(house, job.state, job.crashes, job.fence)


def test_an_outlet_stuck_on_s3_is_replaced(house: House) -> None:
    house.keeper()
    producer = house.producer()
    job_id = producer.submit(encoded()).job_id
    with _silent_puts(house.environment["TWOFOLD_S3_ENDPOINT_URL"]) as endpoint:
        stuck = house.worker(s3_endpoint_url=endpoint, stall_seconds=1)
        assert stuck.wait(60) == 70, house.logs()
    house.worker()

    (job,) = house.wait_ended([job_id])

    _was_rescued(house, job.state, job.crashes, job.fence)


def _was_rescued(house: House, state: JobState, crashes: int, fence: int) -> None:
    assert (state, crashes, fence) == (JobState.SUCCEEDED, 1, 2), house.logs()
    first, second = house.rows("SELECT state FROM runs ORDER BY started_at")
    assert (first["state"], second["state"]) == ("lost", "live")


@contextmanager
def _silent_puts(endpoint: str) -> Iterator[str]:
    """An S3 server that serves what is read and never answers what is written."""
    address = urlsplit(endpoint)
    over = threading.Event()

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            upstream = http.client.HTTPConnection(address.hostname or "", address.port)
            upstream.request("GET", self.path, headers=dict(self.headers))
            answer = upstream.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"connection", "transfer-encoding", "date", "server"}:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            upstream.close()

        def do_PUT(self) -> None:
            over.wait()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.daemon_threads = True
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        over.set()
        server.shutdown()
        serving.join()
