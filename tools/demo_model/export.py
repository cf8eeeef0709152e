"""From checkpoints to a folder that the stock pipeline, and a worker, can load."""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call, attr-defined"

from pathlib import Path

import diffusers
import torch
from tools.demo_model import parts

from twofold_worker.upscaler import demo, provenance, standin
from twofold_worker.upscaler.weights import Pipeline

_NOT_EXPORTED = {"README.md", demo.SUMS}  # they may lie there from before


def pipeline(vae: parts.Autoencoder, unet: parts.Unet, scale: float) -> Pipeline:
    """The stock pipeline around trained parts.

    Args:
        vae: The autoencoder; gets the scaling factor and loses its variance.
        unet: The K-UNet.
        scale: Its scaling factor.
    """
    parts.without_variance(vae)
    vae.register_to_config(scaling_factor=scale)
    tokenizer = standin.tokenizer()
    text_encoder = standin.text_encoder(tokenizer)
    with torch.no_grad():
        for weight in text_encoder.parameters():
            weight.zero_()  # the model was trained without words: none may change its pictures
    return diffusers.StableDiffusionLatentUpscalePipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=standin.scheduler(),
    )


def export(whole: Pipeline, folder: Path) -> None:
    """Write a pipeline's folder and the sums of its files, readable by every user.

    Its large parts are in half precision.
    """
    whole.vae.half()
    whole.unet.half()
    whole.save_pretrained(folder, safe_serialization=True)
    hashed = provenance.hashes(folder)
    lines = (f"{digest}  {name}\n" for name, digest in hashed.items() if name not in _NOT_EXPORTED)
    (folder / demo.SUMS).write_text("".join(lines), encoding="ascii")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes 0600
