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
