"""The example goes from a text to latents to a job, and stays in latent space until the worker."""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call, attr-defined"

from pathlib import Path

import diffusers
import pytest
from PIL import Image
from tests.house import House

from twofold_schema.artifacts import ArtifactUri
from twofold_schema.settings import LimitSettings
from twofold_worker.codec.source import Latents, decode
from twofold_worker.upscaler import standin

SIDE = 64


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion of the real classes with next to no weights, all of them random."""
    folder = tmp_path_factory.mktemp("painter")
    tokenizer = standin.tokenizer()
    with standin._own_random_state():
        pipeline = diffusers.StableDiffusionPipeline(
            vae=standin.vae(),
            text_encoder=standin.text_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=diffusers.UNet2DConditionModel(
                sample_size=SIDE // 8,
                block_out_channels=(8, 16),
                norm_num_groups=4,
                layers_per_block=1,
                attention_head_dim=4,
                cross_attention_dim=standin.TEXT_WIDTH,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            ),
            scheduler=diffusers.DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def test_the_example_paints_submits_and_fetches(
    house: House, painter: Path, stand_in_model: Path, tmp_path: Path
) -> None:
    house.worker("--model", model=stand_in_model)
    arguments = ["examples/text_to_twice.py", f"--model={painter}", f"--side={SIDE}", "--steps=2"]
    example = house.process([*arguments, f"--out={tmp_path / 'twice'}", "a cat", "a dog"])

    assert example.wait(120) == 0, house.logs()

    for number in range(2):
        with Image.open(tmp_path / "twice" / f"{number}.png") as image:
            assert image.size == (2 * SIDE, 2 * SIDE)
    rows = house.rows("SELECT source FROM jobs")
    assert len(rows) == 2
    producer = house.producer()
    for row in rows:
        stored = producer.storage.read(ArtifactUri.parse(row["source"]), max_bytes=10**5).data
        decoded = decode(stored, LimitSettings().size)
        assert isinstance(decoded, Latents), "it went through pixels"
