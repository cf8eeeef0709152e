"""What docs/09-demo-model.md says of the demo model's pictures stays true.

The figures are in docs/demo-model.json.
"""

from collections.abc import Mapping
from statistics import fmean

import pytest
from tools.demo_model import measure
from tools.demo_model.measure import Score

from twofold_worker.upscaler import demo


@pytest.fixture(scope="module")
def scores() -> list[Mapping[str, Score]]:
    """For each photograph, how close each way comes to it."""
    pipeline = measure.load(demo.FOLDER)
    truths = [measure.photograph(name) for name in measure.PHOTOGRAPHS]
    return [
        {way: Score.of(shown, truth) for way, shown in measure.versions(pipeline, truth).items()}
        for truth in truths
    ]


def test_the_autoencoder_keeps_photographs(scores: list[Mapping[str, Score]]) -> None:
    assert fmean(row["rebuilt"].psnr for row in scores) >= 26


def test_upscaling_beats_bicubic_of_what_its_latents_show(
    scores: list[Mapping[str, Score]],
) -> None:
    assert fmean(row["upscaled"].psnr - row["doubled"].psnr for row in scores) >= 0.7
    assert fmean(row["upscaled"].ssim - row["doubled"].ssim for row in scores) >= 0.02


def test_what_it_makes_is_as_close_as_it_was(scores: list[Mapping[str, Score]]) -> None:
    """The gain above could also come of a worse autoencoder."""
    assert fmean(row["upscaled"].psnr for row in scores) >= 25.1
    assert fmean(row["upscaled"].ssim for row in scores) >= 0.692


def test_edges_are_sharper(scores: list[Mapping[str, Score]]) -> None:
    assert fmean(row["upscaled"].sharpness / row["doubled"].sharpness for row in scores) > 1.15


def test_no_picture_gets_a_cast(scores: list[Mapping[str, Score]]) -> None:
    assert max(row["upscaled"].cast for row in scores) < 4
