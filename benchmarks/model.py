"""The real pipeline with random weights, in full size and small, and what is compared with it."""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call, attr-defined, no-any-return"

import time
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.loads import crop
from twofold_worker.upscaler import standin
from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.port import Pixels, Request, Upscaler

# diffusers' pipelines hide their methods and parts from type checkers.
Pipeline: TypeAlias = Any

_TEXT_WIDTH, _TEXT_LAYERS, _TEXT_HEADS, _TEXT_TOKENS = 768, 12, 12, 77


def build(size: str, device: torch.device, dtype: torch.dtype) -> Pipeline:
    """A pipeline with random weights, made on its device.

    Args:
        size: "full" for the real configuration; else the stand-in's.
        device: Where to.
        dtype: Of its weights.
    """
    import diffusers

    words = standin.tokenizer()
    torch.manual_seed(20)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            full = size == "full"
            pipeline = diffusers.StableDiffusionLatentUpscalePipeline(
                vae=_vae() if full else standin.vae(),
                text_encoder=_text_encoder(words) if full else standin.text_encoder(words),
                tokenizer=words,
                unet=_unet() if full else standin.unet(),
                scheduler=standin.scheduler(),
            )
    finally:
        torch.set_default_dtype(before)
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.eval().requires_grad_(requires_grad=False)
    return pipeline.to(device, dtype)


def _unet() -> Any:  # noqa: ANN401 - see `Pipeline`
    return standin.unet(
        (384, 384, 768, 768), head_width=64, sample_size=128, layers=4, text_width=_TEXT_WIDTH
    )


def _vae() -> Any:  # noqa: ANN401 - see `Pipeline`
    return standin.vae((128, 256, 512, 512), layers=2, groups=32, sample_size=512)


def _text_encoder(words: Any) -> Any:  # noqa: ANN401 - see `Pipeline`
    from transformers import CLIPTextConfig, CLIPTextModel

    # The vocabulary is the stand-in's, the embedding as long as the real one's.
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=_TEXT_WIDTH,
        intermediate_size=4 * _TEXT_WIDTH,
        num_hidden_layers=_TEXT_LAYERS,
        num_attention_heads=_TEXT_HEADS,
        max_position_embeddings=_TEXT_TOKENS,
        hidden_act="quick_gelu",
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return CLIPTextModel(config)


def upscaler(pipeline: Pipeline) -> Upscaler:
    """The worker's own way with a pipeline; it may change the pipeline's parts."""
    return DiffusionUpscaler(pipeline, name="random", revision="random-weights")


def snippet(pipeline: Pipeline, pictures: list[Pixels], steps: int, *, seed: int = 33) -> None:
    """The model card's call: guidance 0, no prompt, pictures as they come out of the pipeline."""
    device = pipeline.device
    pipeline(
        prompt=[""] * len(pictures),
        image=[Image.fromarray(picture) for picture in pictures],
        num_inference_steps=steps,
        guidance_scale=0,
        generator=[torch.Generator(device).manual_seed(seed + n) for n in range(len(pictures))],
        output_type="pil",
    )


def reload(folder: Path, device: torch.device, dtype: torch.dtype) -> Pipeline:
    """A pipeline loaded as the model card does, from a folder."""
    import diffusers

    pipeline = diffusers.StableDiffusionLatentUpscalePipeline.from_pretrained(
        folder, dtype=dtype, local_files_only=True
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def flops_per_image(model: Upscaler, *, side: int, steps: int) -> float:
    """What a picture costs: counted in one run of each part; 1 multiply-add is 2."""
    counted = {}
    with FlopCounterMode(display=False) as counter:
        sample = model.begin(Request(source=crop(0, side, side), seed=0, steps=1))
    counted["encode"] = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        model.step([sample], rung=1)
    counted["step"] = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        model.finish(sample)
    counted["decode"] = counter.get_total_flops()
    return float(counted["encode"] + steps * counted["step"] + counted["decode"])


def matmul_rate(device: torch.device, *, seconds: float = 1.0) -> float:
    """FLOP/s of a large matrix product: bfloat16 on a GPU, float32 on a CPU."""
    on_gpu = device.type == "cuda"
    side, dtype = (8192, torch.bfloat16) if on_gpu else (1024, torch.float32)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        left @ right
    wait(device)
    rates = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        begin = time.perf_counter()
        for _ in range(5):
            left @ right
        wait(device)
        rates.append(5 * 2 * side**3 / (time.perf_counter() - begin))
    # The best: the device's rate, not what else the machine did.
    return max(rates)


def wait(device: torch.device) -> None:
    """Return when the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
