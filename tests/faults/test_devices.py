"""A GPU that is gone is missed by its own process only, and no CPU stands in for it."""

import os
import sys
from pathlib import Path

import pytest
from tests.house import House, eventually
from tests.pictures import encoded

from twofold_schema.settings import WorkerSettings
from twofold_schema.states import JobState
from twofold_worker.supervisor import Supervisor

SOON = 60
LOST, WELL = "GPU-lost", "GPU-well"


@pytest.mark.parametrize(("device", "by_file"), [("auto", False), ("cuda", True)])
def test_a_lost_gpu_is_tried_again_while_the_others_work(
    house: House, device: str, *, by_file: bool
) -> None:
    setting = {"device": device}
    if by_file:
        file = house.marker("device")
        file.write_text(device)
        setting = {"device_file": str(file)}
    house.environment["CUDA_VISIBLE_DEVICES"] = f"{LOST},{WELL}"
    supervisor = house.supervised(f"--lost={LOST}", model="demo", env="dev", **setting)
    eventually(lambda: house.logs().count("worker_without_device") >= 2, why=house.logs)
    (job,) = house.wait_ended([house.producer().submit(encoded()).job_id])
    (run,) = house.rows("SELECT state FROM runs")
    house.signal(supervisor, "TERM")

    assert job.state is JobState.SUCCEEDED
    assert run["state"] == "live"
    assert supervisor.wait(SOON) == 0, house.logs()


def test_a_gpu_that_is_asked_for_where_none_is_stops_the_supervisor(house: House) -> None:
    house.environment["CUDA_VISIBLE_DEVICES"] = ""
    supervisor = house.supervised("--model", device="cuda", model="demo", env="dev")

    assert supervisor.wait(SOON) == os.EX_CONFIG, house.logs()
    assert "TWOFOLD_DEVICE" in house.logs()
    assert house.logs().count("worker_started") == 1


def test_a_run_names_the_device_that_it_is_on(house: House) -> None:
    house.environment["CUDA_VISIBLE_DEVICES"] = ""
    house.worker("--model", device="auto", model="demo", env="dev")
    house.wait_ready()

    assert house.rows("SELECT device FROM runs") == [{"device": "cpu"}]


#: Takes the first word of a file for its exit status, and is heard before if that says so; leaves
#: the other words to its successors.
LIVES = """
import os, pathlib, sys
lives = pathlib.Path(sys.argv[1])
now, *later = lives.read_text().split()
lives.write_text(" ".join(later))
if now.startswith("heard-"):
    os.write(int(sys.argv[2].removeprefix("--liveness=")), b".")
sys.exit(int(now.removeprefix("heard-")))
"""


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(
    ("lives", "status", "left"),
    [
        (f"{os.EX_CONFIG} 0", os.EX_CONFIG, "0"),
        (f"heard-1 {os.EX_CONFIG} 0", 0, ""),
        (f"{os.EX_UNAVAILABLE} 0", os.EX_CONFIG, "0"),
        (f"heard-1 {os.EX_UNAVAILABLE} 0", 0, ""),
    ],
)
def test_what_ends_a_process_that_worked_is_no_wrong_setting(
    tmp_path: Path, lives: str, status: int, left: str
) -> None:
    file = tmp_path / "lives"
    file.write_text(lives)
    command = [sys.executable, "-c", LIVES, str(file)]

    assert Supervisor(WorkerSettings(device="cpu"), command, first_pause=0.05).run() == status
    assert file.read_text() == left
