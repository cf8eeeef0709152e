"""Every benchmark of the queue runs at tiny size, with every peer. No times are judged."""

import io
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from benchmarks.queue import rows
from benchmarks.queue.__main__ import SUITE
from benchmarks.queue.bench import SCALES, Bench
from benchmarks.queue.claim_complete import drained
from benchmarks.queue.crew import Crew, Shift, middle_rate, rate
from benchmarks.queue.peers import Twofold
from benchmarks.queue.servers import Servers, open_servers
from rich.console import Console

#: As the issue of promises calls them.
FIGURES = {
    "submit": {"submit_ratio_to_copy", "resubmit_ratio_to_copy", "producer_rss_ratio_1m"},
    "claim-complete": {
        "claim_complete_ratio_to_celery",
        "claim_complete_ratio_to_best_peer",
        "claim_complete_ratio_to_bare_loop",
    },
    "finished-rows": {"claim_median_ratio_10m", "claim_buffers_ratio_10m"},
    "held-snapshot": {"claim_rate_ratio_held_snapshot"},
    "counts": {"overview_ms_10m"},
    "growth": set[str](),
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

    written = json.loads((tmp_path / "queue.json").read_text())
    assert written["figures"].keys() == FIGURES[name]
    assert all(math.isfinite(figure) and figure > 0 for figure in written["figures"].values())
    assert written["details"][name]["rows"]
    assert written["machine"]["redis"]["appendonly"] == "yes"
    assert written["machine"]["postgres"]["synchronous_commit"] == "on"
    assert (tmp_path / f"queue-{name}.png").is_file()
    assert f"![{name}](queue-{name}.png)" in (tmp_path / "queue.md").read_text()


def test_how_far_it_is_can_be_read_where_no_bar_moves(servers: Servers) -> None:
    said = io.StringIO()
    bench = Bench(servers=servers, scale=SCALES["tiny"], console=Console(file=said))

    assert list(bench.each("abc", "letters")) == ["a", "b", "c"]
    assert "letters: 1 of 3" in said.getvalue()
    assert "letters: 2" not in said.getvalue()


def test_jobs_that_are_left_behind_are_seen(servers: Servers) -> None:
    with servers.database() as database:
        engine = database.connect()
        waiting, _ = rows.plant(engine)
        engine.dispose()
        ours = Twofold(database=database, waiting=waiting, batch=8)

        drained(ours, 40, 2)
        assert ours.left() == 0

        ours.submit(8)
        with pytest.raises(RuntimeError, match="did 48 jobs of 40"):
            drained(ours, 40, 1)


def test_finished_rows_are_as_many_as_were_asked_for_and_made_once(servers: Servers) -> None:
    bench = Bench(servers=servers, scale=SCALES["tiny"], console=Console(quiet=True))

    database, _ = rows.filled(bench, 700)
    assert rows.filled(bench, 700)[0] is database

    with database.plain() as connection:
        found = connection.execute(
            "SELECT count(*), count(DISTINCT id), count(DISTINCT result ->> 'uri'), "
            "max(finished_at) - min(finished_at) > interval '29 days' "
            "FROM jobs WHERE state = 'succeeded' AND key LIKE 'done-%'"
        ).fetchone()
    assert found == (700, 700, 700, True)


@dataclass(frozen=True)
class _Fails:
    begins: bool

    def __call__(self, shift: Shift) -> None:
        if self.begins:
            shift.begin()
        raise ValueError("as it was told")


@pytest.mark.parametrize("begins", [True, False])
def test_a_client_that_fails_is_heard(*, begins: bool) -> None:
    def drain() -> None:
        with Crew(_Fails(begins), clients=1) as crew:
            crew.begin()
            crew.drain(1)

    with pytest.raises(RuntimeError, match="as it was told"):
        drain()


def _count_to(shift: Shift) -> None:
    shift.begin()
    for _ in range(10):
        shift.did(1)
    while not shift.over:
        time.sleep(0.01)
    shift.tell("done")


def test_a_crew_counts_together() -> None:
    with Crew(_count_to, clients=3) as crew:
        crew.begin()
        samples = crew.drain(30)

    assert samples[-1][1] == crew.shift.done == 30
    assert crew.answers == ["done"] * 3


def test_the_middle_rate_leaves_out_starts_and_stragglers() -> None:
    steady = [(second + 5.0, 100 * second) for second in range(11)]
    samples = [(0.0, 0), *steady, (60.0, 1000)]

    assert middle_rate(samples) == pytest.approx(100)
    assert rate(samples) == pytest.approx(1000 / 60)
