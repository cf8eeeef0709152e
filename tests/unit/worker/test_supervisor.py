"""Which processes there are to be, and on which GPUs."""

from pathlib import Path

import pytest

from twofold_schema.settings import WorkerSettings
from twofold_worker.supervisor import Child, devices


def on(gpu: str) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": gpu, "TWOFOLD_DEVICE": "cuda"}


@pytest.mark.parametrize(
    ("visible", "settings", "environments"),
    [
        ("0,1", {}, [on("0"), on("1")]),
        ("GPU-a, MIG-b", {"device": "cuda"}, [on("GPU-a"), on("MIG-b")]),
        ("0,1", {"processes": 3}, [on("0"), on("1"), on("0")]),
        ("1,-1,0", {}, [on("1")]),
        ("-1", {"processes": 2}, [{}, {}]),
        ("", {}, [{}]),
        ("0,1", {"device": "cpu"}, [{}]),
        ("0,1", {"device": "cuda:1"}, [{}]),
    ],
)
def test_each_visible_gpu_has_a_process_that_may_use_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
    visible: str,
    settings: dict[str, object],
    environments: list[dict[str, str]],
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices(WorkerSettings.model_validate(settings)) == environments


@pytest.mark.parametrize(
    ("stated", "heeded"),
    [
        ({}, "expandable_segments:True,"),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, "backend:native,"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, ",backend:native"),
    ],
)
def test_device_memory_grows_in_place_unless_something_else_is_stated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stated: dict[str, str], heeded: str
) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    for name, value in stated.items():
        monkeypatch.setenv(name, value)
    told = tmp_path / "told"
    tell = f'printf %s "$PYTORCH_ALLOC_CONF,$PYTORCH_CUDA_ALLOC_CONF" > {told}'
    child = Child({}, ["sh", "-c", tell], first_pause=1.0)
    child.start()
    assert child.process is not None
    child.process.wait(30)
    assert told.read_text() == heeded
    assert child.bury() == 0
