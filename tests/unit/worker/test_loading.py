"""Only a whole model is loaded: from a folder, or from the hub at a commit."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from twofold_schema.errors import ConfigError
from twofold_worker.upscaler import standin
from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.port import DeviceLost

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _load(
    model: Path | str,
    revision: str | None = None,
    *,
    device: str = "cpu",
    dtype: str = "auto",
) -> DiffusionUpscaler:
    return DiffusionUpscaler.load(str(model), revision=revision, device=device, dtype=dtype)


def test_it_names_what_it_loaded_by_marker_and_content(
    stand_in_model: Path, tmp_path: Path
) -> None:
    first = _load(stand_in_model)
    assert first.name == "stand-in"
    assert first.revision.startswith("sha256:")
    assert len(first.revision) == len("sha256:") + 16
    moved = tmp_path / "moved"
    shutil.copytree(stand_in_model, moved)
    assert _load(moved).revision == first.revision
    (moved / standin.MARKER).unlink()
    assert _load(moved).name == "moved"
    assert _load(moved).revision != first.revision


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _lack_a_tensor(path: Path) -> None:
    tensors = safetensors.torch.load_file(path)
    tensors.pop(min(tensors))
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def _pickle(path: Path) -> None:
    name = "pytorch_model.bin" if path.parent.name == "text_encoder" else f"{path.stem}.bin"
    torch.save(safetensors.torch.load_file(path), path.with_name(name))
    path.unlink()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        *((spoil, name) for spoil in (_cut, _lack_a_tensor, _pickle) for name in (UNET, VAE, TEXT)),
        (Path.unlink, "model_index.json"),
        (_cut, "model_index.json"),
        (_cut, "unet/config.json"),
        (_cut, "scheduler/scheduler_config.json"),
        (Path.unlink, "tokenizer/tokenizer.json"),
        (Path.unlink, "tokenizer/tokenizer_config.json"),
    ],
)
def test_a_damaged_folder_stops_the_start_and_names_the_setting(
    stand_in_model: Path, tmp_path: Path, spoil: Callable[[Path], None], name: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(stand_in_model, folder)
    spoil(folder / name)
    with pytest.raises(ConfigError, match="TWOFOLD_MODEL"):
        _load(folder)


@pytest.fixture
def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no hub behind it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["nobody/nothing", "/no/such/folder", "not a name"])
def test_a_model_that_is_nowhere_stops_the_start_and_names_both_settings(
    offline_hub: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match=r"TWOFOLD_MODEL.*TWOFOLD_MODEL_REVISION"):
        _load(name, COMMIT)


def test_a_model_in_the_hubs_cache_loads_without_asking_the_hub_and_is_named_by_its_commit(
    stand_in_model: Path, offline_hub: Path, diffusers_log: pytest.LogCaptureFixture
) -> None:
    repository = offline_hub / "models--nobody--upscaler"
    shutil.copytree(stand_in_model, repository / "snapshots" / COMMIT)
    (repository / "snapshots" / COMMIT / standin.MARKER).unlink()
    loaded = _load("nobody/upscaler", COMMIT)
    assert (loaded.name, loaded.revision) == ("nobody/upscaler", COMMIT)
    assert "connect" not in diffusers_log.text


@pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT[:12]])
def test_a_hub_model_that_is_not_pinned_to_a_commit_stops_the_start(
    offline_hub: Path, revision: str | None
) -> None:
    with pytest.raises(ConfigError, match="TWOFOLD_MODEL_REVISION must pin a commit"):
        _load("nobody/upscaler", revision)


@pytest.mark.parametrize(
    ("device", "dtype", "setting"),
    [
        ("tpu9", "auto", "TWOFOLD_DEVICE"),
        ("cuda:99", "auto", "TWOFOLD_DEVICE"),
        ("cpu", "int8", "TWOFOLD_DTYPE"),
    ],
)
def test_an_unknown_device_or_dtype_stops_the_start(
    stand_in_model: Path, device: str, dtype: str, setting: str
) -> None:
    with pytest.raises(ConfigError, match=setting):
        _load(stand_in_model, device=device, dtype=dtype)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="here it does not refuse")
def test_a_device_that_refuses_is_not_taken_for_a_damaged_model(stand_in_model: Path) -> None:
    """Apple's, which torch knows by name everywhere, and has on a Mac only."""
    with pytest.raises(DeviceLost):
        _load(stand_in_model, device="mps")


@pytest.mark.parametrize(
    ("dtype", "loaded"),
    [
        ("auto", torch.float32),
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
    ],
)
def test_all_of_it_is_loaded_in_the_dtype_that_is_asked_for(
    stand_in_model: Path, dtype: str, loaded: torch.dtype
) -> None:
    upscaler = _load(stand_in_model, dtype=dtype)
    assert upscaler.device.type == "cpu"
    assert upscaler.dtype == loaded
    for network in (upscaler._unet, upscaler._vae, upscaler._prompts._text_encoder):
        assert {weight.dtype for weight in network.parameters()} == {loaded}
