"""A worker that hangs is ended and replaced, and its job is done by another."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from tests.house import House, eventually
from tests.pictures import encoded

from twofold_schema.states import JobState


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


#: One try of one second: two seconds of silence, and as many for a free connection.
IMPATIENT = {"s3_timeout_seconds": 1, "s3_attempts": 1, "stall_seconds": 1}


def test_an_outlet_stuck_on_s3_is_replaced(house: House) -> None:
    """It is never silent for long, so that no timeout ends it."""
    house.keeper()
    producer = house.producer()
    job_id = producer.submit(encoded()).job_id
    with _bad_puts(house.environment["TWOFOLD_S3_ENDPOINT_URL"], _trickle) as endpoint:
        stuck = house.worker(s3_endpoint_url=endpoint, **IMPATIENT)
        assert stuck.wait(60) == 70, house.logs()
    house.worker()

    (job,) = house.wait_ended([job_id])

    _was_rescued(house, job.state, job.crashes, job.fence)


def test_a_silent_s3_is_no_hang(house: House) -> None:
    """However little patience a worker has with itself: the job is tried again, by the same run."""
    house.keeper()
    job_id = house.producer().submit(encoded()).job_id
    answering = threading.Event()

    def silent(proxy: BaseHTTPRequestHandler) -> bool:
        return not answering.is_set()

    with _bad_puts(house.environment["TWOFOLD_S3_ENDPOINT_URL"], silent) as endpoint:
        house.worker(s3_endpoint_url=endpoint, **IMPATIENT)

        def refused() -> bool:
            (job,) = house.jobs([job_id])
            return bool(job.errors)

        eventually(refused, why=house.logs)
        answering.set()
        (job,) = house.wait_ended([job_id])

    assert [error.code for error in job.errors] == ["storage_unavailable"], house.logs()
    assert (job.state, job.crashes, job.attempts) == (JobState.SUCCEEDED, 0, 2)
    assert len(house.rows("SELECT * FROM runs")) == 1


def _was_rescued(house: House, state: JobState, crashes: int, fence: int) -> None:
    assert (state, crashes, fence) == (JobState.SUCCEEDED, 1, 2), house.logs()
    first, second = house.rows("SELECT state FROM runs ORDER BY started_at")
    assert (first["state"], second["state"]) == ("lost", "live")


def _trickle(proxy: BaseHTTPRequestHandler) -> bool:
    """Answer byte by byte, for ever."""
    with suppress(ConnectionError):
        proxy.wfile.write(b"HTTP/1.1 200 OK\r\nx-patience: ")
        while not threading.Event().wait(0.2):
            proxy.wfile.write(b".")
    return True


@contextmanager
def _bad_puts(endpoint: str, is_bad: Callable[[BaseHTTPRequestHandler], bool]) -> Iterator[str]:
    """An S3 server that answers what is written badly, or not at all, while it is bad."""
    address = urlsplit(endpoint)
    over = threading.Event()

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._pass_on()

        def do_HEAD(self) -> None:
            self._pass_on()

        def do_PUT(self) -> None:
            if is_bad(self):
                over.wait()
            else:
                self._pass_on()

        def _pass_on(self) -> None:
            upstream = http.client.HTTPConnection(address.hostname or "", address.port)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            upstream.request(self.command, self.path, body, headers=dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"connection", "transfer-encoding", "date", "server"}:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            upstream.close()

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
