"""The stand-in is the real pipeline's classes, the same on every build, and says what it is."""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call"

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionLatentUpscalePipeline

from twofold_schema.errors import ConfigError
from twofold_worker.upscaler import standin


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_stock_pipeline_loads_it_from_safetensors_with_the_real_lattice(tmp_path: Path) -> None:
    standin.build(tmp_path / "model")
    pipeline = StableDiffusionLatentUpscalePipeline.from_pretrained(
        tmp_path / "model", use_safetensors=True, local_files_only=True
    )
    assert pipeline.vae_scale_factor == 8
    assert pipeline.tokenizer.model_max_length == 77
    assert list(pipeline.tokenizer("é 🐈").input_ids).count(pipeline.tokenizer.eos_token_id) == 1


def test_every_build_is_the_same_and_leaves_torchs_random_state_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    standin.build(tmp_path / "one")
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    standin.build(tmp_path / "two")
    assert _contents(tmp_path / "one") == _contents(tmp_path / "two")


def test_it_carries_a_marker_and_other_users_can_read_all_of_it(tmp_path: Path) -> None:
    assert not standin.is_stand_in(tmp_path)
    standin.build(tmp_path / "model")
    assert standin.is_stand_in(tmp_path / "model")
    for path in [tmp_path / "model", *(tmp_path / "model").rglob("*")]:
        wanted = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
        assert path.stat().st_mode & wanted == wanted


def test_a_complete_folder_is_left_alone(tmp_path: Path) -> None:
    standin.build(tmp_path / "model")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "model").rglob("*")}
    standin.build(tmp_path / "model")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "model").rglob("*")} == times


def test_a_folder_with_other_things_is_refused_and_nothing_is_left_beside_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("keep")
    with pytest.raises(ConfigError, match="new or empty folder"):
        standin.build(tmp_path / "mine")
    assert _contents(tmp_path) == {"mine/precious": b"keep"}
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


def test_the_command_builds_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "twofold_worker.upscaler.standin", str(tmp_path / "a" / "b")]
    subprocess.run(command, check=True, capture_output=True)
    assert standin.is_stand_in(tmp_path / "a" / "b")
