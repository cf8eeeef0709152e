"""Worker processes that are told to serve the demo model, and must not."""

import os
import shutil
from pathlib import Path

from tests.house import House

from twofold_worker.upscaler import demo

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_a_worker_over_a_damaged_one_says_so_and_ends(house: House, tmp_path: Path) -> None:
    package = Path(demo.__file__).parents[1]
    damaged = Path(shutil.copytree(package, tmp_path / "site" / package.name))
    weights = damaged / demo.FOLDER.relative_to(package) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    program = f"import sys; sys.path.insert(0, {str(damaged.parent)!r}); import runpy; \
runpy.run_module('twofold_worker.app', run_name='__main__')"

    worker = house.process(["-c", program], model="demo", env="dev")

    assert worker.wait(60) == os.EX_CONFIG, house.logs()
    assert f"{WEIGHTS} is damaged; its sha256 must be {demo.check()[WEIGHTS]}" in house.logs()


def test_production_refuses_it(house: House) -> None:
    worker = house.process(["-m", "twofold_worker"], model="demo")

    assert worker.wait(60) == os.EX_CONFIG, house.logs()
    assert "TWOFOLD_ENV is wrong: must be dev for TWOFOLD_MODEL=demo" in house.logs()
