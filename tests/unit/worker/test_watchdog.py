"""What a look of the watchdog says of the process; that it ends one, `tests/faults` shows."""

import pytest

from twofold_worker.progress import Progress
from twofold_worker.watchdog import Stalled, Watchdog


class Process:
    """What a watchdog looks after, and what it was told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.heard: list[str] = []
        self.stops = False
        self.progress = Progress(60, lambda: self.now)
        self.watchdog = Watchdog(
            lease_seconds=60,
            progress=self.progress,
            draining=lambda: self.stops,
            drain=lambda: self.heard.append("drain"),
            broken=lambda error: self.heard.append(repr(error)),
            alive=lambda: self.heard.append("alive"),
        )


def test_the_order_to_end_is_passed_on_with_every_look() -> None:
    """A signal that came before Celery could hear it is repeated, whatever servers are away."""
    process = Process()
    process.watchdog._look()
    process.stops = True
    process.watchdog._look()
    process.watchdog._look()
    assert process.heard == ["alive", "alive", "drain", "alive", "drain"]


def test_a_stage_that_stands_still_is_no_sign_of_life() -> None:
    process = Process()
    with process.progress.step("upscale"):
        process.now += 61
        with pytest.raises(Stalled, match="upscale"):
            process.watchdog._look()
    assert process.heard == []


def test_a_database_that_answers_nobody_leaves_the_process_alive() -> None:
    process = Process()
    with process.progress.asking("heartbeat"), process.progress.asking("ledger"):
        process.now += 1_000_000
        process.watchdog._look()
    assert process.heard == ["alive"]
