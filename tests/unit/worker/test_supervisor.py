"""Which processes there are to be, and on which GPUs."""

import pytest

from twofold_schema.settings import WorkerSettings
from twofold_worker.supervisor import devices


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
