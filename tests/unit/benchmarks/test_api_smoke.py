"""Every benchmark of the HTTP API runs at tiny size. No times are judged."""

import json
import math
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.api.__main__ import SUITE
from benchmarks.api.asking import Line
from benchmarks.queue.servers import Servers, open_servers
from rich.console import Console

FIGURES = {
    "status-reads": {"status_read_ratio"},
    "bulk": {"bulk_ratio", "service_rss_ratio"},
}


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with open_servers(synced=False) as servers:
        yield servers


@pytest.mark.parametrize("name", SUITE.benchmarks)
def test_a_benchmark_runs_and_its_figures_are_numbers(
    name: str, servers: Servers, tmp_path: Path
) -> None:
    SUITE.run(servers, "tiny", tmp_path, [name], Console(quiet=True))

    written = json.loads((tmp_path / "api.json").read_text())
    assert written["figures"].keys() == FIGURES[name]
    assert all(math.isfinite(figure) and figure > 0 for figure in written["figures"].values())
    assert written["details"][name]["rows"]
    assert (tmp_path / f"api-{name}.png").is_file()
    assert f"![{name}](api-{name}.png)" in (tmp_path / "api.md").read_text()


def test_a_line_reads_each_answer_to_its_end() -> None:
    """However it is cut up, so that none is taken for the next."""
    answers = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno",
    ]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for said in answers:
                    connection.recv(1000)
                    for byte in said:
                        connection.sendall(bytes([byte]))

        thread = threading.Thread(target=answer)
        thread.start()
        with Line(f"http://{host}:{port}", "tfk_x") as line:
            assert [line.ask(line.request("/")) for _ in answers] == [200, 204, 404]
        thread.join()
