"""Go on from weights that are there: an exported model's, or those before a training."""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Mapping
from pathlib import Path

import torch
from tools.demo_model import measure, train_settled
from torch import Tensor


def resume(model: Path, folder: Path) -> None:
    """Write what `autoencoder` and `upscaler` end with, from a model's folder."""
    whole = measure.load(model)
    train_settled.stretched(whole.unet, 1 / train_settled.STRETCH)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("autoencoder", whole.vae), ("upscaler", whole.unet)):
        torch.save({"average": part.state_dict()}, folder / f"{name}.pt")
    torch.save((whole.vae.config.scaling_factor / train_settled.STRETCH,), folder / "latents.pt")


def mix(checkpoint: Path, before: Mapping[str, Tensor], share: float) -> None:
    """Take back a part of what a training has changed; once more takes back more.

    Where a loss of one thing alone has led too far from another, a mean of the weights before and
    after has more of both (Wortsman et al., Robust fine-tuning of zero-shot models, 2022).

    Args:
        checkpoint: Of the training.
        before: The weights that it began with, on the CPU.
        share: Of the weights after; the rest is of those before, 0 to 1.
    """
    saved = torch.load(checkpoint, map_location="cpu")
    saved["average"] = {
        name: torch.lerp(before[name], weights, share) for name, weights in saved["average"].items()
    }
    torch.save(saved, checkpoint)
