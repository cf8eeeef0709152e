"""Go on from an exported model: its folder as the checkpoints that `together` begins with."""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call"

from pathlib import Path

import torch
from tools.demo_model import measure, train_settled


def resume(model: Path, folder: Path) -> None:
    """Write what `autoencoder` and `upscaler` end with, from a model's folder."""
    whole = measure.load(model)
    train_settled.stretched(whole.unet, 1 / train_settled.STRETCH)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("autoencoder", whole.vae), ("upscaler", whole.unet)):
        torch.save({"average": part.state_dict()}, folder / f"{name}.pt")
    torch.save((whole.vae.config.scaling_factor / train_settled.STRETCH,), folder / "latents.pt")


def mix(folder: Path, share: float) -> None:
    """Take back a part of what `together` has changed since it began.

    Where a loss of one thing alone has led too far from another, a mean of the weights before and
    after has more of both (Wortsman et al., Robust fine-tuning of zero-shot models, 2022).

    Args:
        folder: Of the training.
        share: Of the weights after; the rest is of those before, 0 to 1.
    """
    saved = torch.load(folder / "together.pt", map_location="cpu")
    before = {
        f"{part}.{name}": weights
        for part, checkpoint in (("vae", "autoencoder"), ("unet", "upscaler"))
        for name, weights in torch.load(folder / f"{checkpoint}.pt")["average"].items()
    }
    saved["average"] = {
        name: torch.lerp(before[name].float(), weights.float(), share)
        for name, weights in saved["average"].items()
    }
    torch.save(saved, folder / "together.pt")
