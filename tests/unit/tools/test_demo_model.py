"""The training of the demo model runs from drawing to a folder that a worker can load."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tools.demo_model import crops, measure, pictures, resumed, train, train_together

from twofold_worker.upscaler import demo
from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.port import Request


@pytest.fixture
def own_torch() -> Iterator[None]:
    """Whatever a training sets in torch, for its whole process, is as it was afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


def test_the_same_picture_is_drawn_for_the_same_number() -> None:
    first, again, other = (pictures.draw(1, number) for number in (0, 0, 1))
    assert first.shape == (pictures.SIDE, pictures.SIDE, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_training_looks_as_the_measure_does() -> None:
    """At a picture's half, but for Pillow's rounding, and at how alike two pictures are."""
    truth = measure.photograph("coffee")
    half = measure.halved(truth)
    shown = np.asarray(Image.fromarray(half).resize(truth.shape[:2], Image.Resampling.BICUBIC))

    own_half = crops.halved(measure.tensor_of(truth)).add(1).mul(127.5)[0].permute(1, 2, 0).numpy()
    alike = train_together.similarity(measure.tensor_of(shown), measure.tensor_of(truth))

    assert np.abs(own_half - half).mean() < 0.3
    assert float(alike) == pytest.approx(measure.Score.of(shown, truth).ssim, abs=1e-5)


def test_a_mix_lies_between_the_weights_before_and_after(tmp_path: Path) -> None:
    checkpoint = tmp_path / "together.pt"
    torch.save({"average": {"weight": torch.tensor([4.0])}}, checkpoint)

    resumed.mix(checkpoint, {"weight": torch.tensor([0.0])}, 0.75)

    assert torch.load(checkpoint)["average"]["weight"].tolist() == [3.0]


@pytest.mark.usefixtures("own_torch")
def test_a_training_goes_on_from_the_model_that_is_shipped(tmp_path: Path) -> None:
    work, few = str(tmp_path), "--pictures=2"
    shipped = measure.load(demo.FOLDER)

    train.main(["resume", work, f"--model={demo.FOLDER}"])
    train.main(["together", work, "--steps=1", "--rate=1e-9", few])
    train.main(["mix", work, "--share=0.5"])
    train.main(["settled", work, "--steps=1", "--rate=1e-9", few])
    train.main(["export", work, f"--out={tmp_path / 'model'}"])

    again = measure.load(tmp_path / "model")
    assert again.vae.config.scaling_factor == pytest.approx(shipped.vae.config.scaling_factor)
    picture = pictures.draw(1, 0)[:64, :64]
    np.testing.assert_allclose(
        measure.upscaled(again, picture, seed=0).astype(int),
        measure.upscaled(shipped, picture, seed=0).astype(int),
        atol=2,
    )


@pytest.mark.usefixtures("own_torch")
def test_a_training_begins_goes_on_and_ends_in_a_model_that_a_worker_loads(tmp_path: Path) -> None:
    work, model = str(tmp_path / "work"), tmp_path / "model"
    few = ["--pictures=4", "--pairs=4"]

    train.main(["autoencoder", work, "--steps=1", *few])
    train.main(["autoencoder", work, "--steps=2", *few])
    train.main(["upscaler", work, "--steps=2", *few])
    train.main(["together", work, "--steps=2", *few])
    train.main(["settled", work, "--steps=2", *few])
    train.main(["export", work, f"--out={model}"])

    for name in ("autoencoder", "upscaler", "together"):
        with Image.open(tmp_path / "work" / f"{name}.samples.png") as sheet:
            assert sheet.height == 6 * pictures.SIDE
    upscaler = DiffusionUpscaler.load(str(model), revision=None, device="cpu", dtype="float32")
    sample = upscaler.begin(Request(source=pictures.draw(1, 9)[:64, :64], seed=1, steps=1))
    upscaler.step([sample], rung=1)
    made = upscaler.finish(sample)
    assert made.pixels.shape == (128, 128, 3)
    assert math.isfinite(float(made.pixels.mean()))
    assert sum(path.stat().st_size for path in model.rglob("*.safetensors")) < 12_000_000
