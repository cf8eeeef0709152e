"""The demo model: whole or refused, and known by its name."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.pictures import picture
from tests.sampling import make

from twofold_schema.errors import ConfigError
from twofold_schema.findings import Status
from twofold_schema.settings import WorkerSettings
from twofold_worker import doctor
from twofold_worker.upscaler import demo, provenance
from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.port import Request

EVERY_FILE = sorted(name for name in provenance.hashes(demo.FOLDER) if name != "README.md")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The demo model, to spoil."""
    return Path(shutil.copytree(demo.FOLDER, tmp_path / "copy"))


def test_it_came_whole_small_and_with_its_card() -> None:
    assert sorted({*demo.check(), demo.SUMS}) == EVERY_FILE
    weights = [path.stat().st_size for path in demo.FOLDER.rglob("*.safetensors")]
    assert len(weights) == 3
    assert sum(weights) < 12_000_000
    assert "cc0-1.0" in (demo.FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in EVERY_FILE if name != demo.SUMS])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_file_that_is_missing_or_damaged_is_named_with_its_sum(
    copy: Path, name: str, how: str
) -> None:
    path = copy / name
    data = path.read_bytes()
    path.unlink()
    if how == "damaged":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    with pytest.raises(ConfigError, match=f"{name} is {how}; .*{demo.check()[name]}"):
        demo.check(copy)


def test_without_its_sums_it_is_refused(copy: Path) -> None:
    (copy / demo.SUMS).unlink()

    with pytest.raises(ConfigError, match=f"{demo.SUMS} cannot be read; install Twofold again"):
        demo.check(copy)


def test_a_folder_of_that_name_is_not_taken_for_it(
    stand_in_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(stand_in_model, tmp_path / "demo")
    monkeypatch.chdir(tmp_path)

    assert _load("demo").revision == provenance.digest(demo.check())
    assert _load("./demo").name == "stand-in"


def test_it_makes_a_picture_twice_as_large_and_gives_its_name() -> None:
    upscaler = _load("demo")
    request = Request(source=np.array(picture(64, 128)), seed=1, steps=2)

    (made,) = make(upscaler, [request], rung=1)

    assert upscaler.name == "demo"
    assert made.pixels.shape == (256, 128, 3)


def test_the_doctor_knows_it() -> None:
    (finding,) = doctor.check_model(WorkerSettings(model="demo", env="dev"))

    assert finding.status is Status.WARNING
    assert "demo model" in finding.what
    assert provenance.digest(demo.check()) in finding.what


def test_the_doctor_compares_it_with_the_revision_as_a_worker_does() -> None:
    other = "sha256:0123456789abcdef"
    settings = WorkerSettings(model="demo", env="dev", model_revision=other)

    (finding,) = doctor.check_model(settings)

    assert finding.status is Status.FAILED
    assert other in finding.what


def _load(model: str) -> DiffusionUpscaler:
    return DiffusionUpscaler.load(model, revision=None, device="cpu", dtype="float32")
