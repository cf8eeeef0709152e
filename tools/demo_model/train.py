"""Train a small model that upscales, from pictures that code draws. What it is for: README.md.

    python -m tools.demo_model.train autoencoder FOLDER --steps 8000
    python -m tools.demo_model.train upscaler FOLDER --steps 12000
    python -m tools.demo_model.train together FOLDER --steps 12000
    python -m tools.demo_model.train settled FOLDER --steps 4000
    python -m tools.demo_model.train export FOLDER --out MODEL

The first draws the pictures, too. `resume FOLDER --model MODEL` stands for the first two, and
begins with a model that was exported; `mix FOLDER` takes back a part of what `together` changed.
Each training may be interrupted, and goes on when it is started again. `--minutes` instead of
`--steps` trains as long as there is time; only steps can be repeated. A GPU is used where there is
one.
"""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call"

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from tools.demo_model import (
    crops,
    export,
    parts,
    pictures,
    resumed,
    sheets,
    train_autoencoder,
    train_settled,
    train_together,
    train_upscaler,
)
from tools.demo_model.arithmetic import placed
from tools.demo_model.run import Plan, Run, log
from torch import Tensor, nn
from torch.nn import functional

_SHOWN = 6  # pictures on a sheet of samples, none of them trained on


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    asked = _arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(asked.seed)
    _STAGES[asked.what](asked)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("what", choices=list(_STAGES))
    parser.add_argument("folder", type=Path, help="where pictures and checkpoints lie")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="how long to train")
    length.add_argument("--minutes", type=float, help="train as long as this")
    parser.add_argument("--rate", type=float, default=2e-3, help="the first learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=640, help="how many to draw")
    parser.add_argument("--pairs", type=int, default=4800, help="how many to encode")
    parser.add_argument("--model", type=Path, help="the exported folder to resume from")
    parser.add_argument("--share", type=float, default=0.85, help="of what was learned, to keep")
    parser.add_argument("--out", type=Path, help="a new folder to export to")
    asked = parser.parse_args(arguments)
    if asked.what == "export":
        if asked.out is None:
            parser.error("name --out")
    elif asked.what == "resume":
        if asked.model is None:
            parser.error("name --model")
    elif asked.what != "mix" and asked.steps is None and asked.minutes is None:
        parser.error("name --steps or --minutes")
    return asked


def _autoencoder(asked: argparse.Namespace) -> None:
    drawn = pictures.draw_all(asked.folder, asked.seed, asked.pictures)
    vae = parts.autoencoder()
    run = _run(asked, vae)
    run.train(train_autoencoder.loss_of(vae, drawn, run, asked.seed))
    truth = _unseen(asked)
    with torch.no_grad():
        vae = _trained_autoencoder(asked)
        rebuilt = parts.decode(vae, parts.encode(vae, truth))
    sheets.samples([truth, rebuilt], asked.folder / "autoencoder.samples.png")


def _upscaler(asked: argparse.Namespace) -> None:
    vae = _trained_autoencoder(asked)
    latents = train_upscaler.Latents.encoded(
        asked.folder / "latents.pt",
        vae,
        pictures.draw_all(asked.folder, asked.seed, asked.pictures),
        seed=asked.seed,
        count=asked.pairs,
        device=_device(),
    )
    unet = parts.upscaler()
    run = _run(asked, unet)
    run.train(train_upscaler.loss_of(unet, vae, latents, run, asked.seed))
    unet.load_state_dict(run.average)
    _show(asked, vae, unet, latents.scale)


def _resume(asked: argparse.Namespace) -> None:
    resumed.resume(asked.model, asked.folder)


def _mix(asked: argparse.Namespace) -> None:
    before = _untrained_together(asked).cpu().state_dict()
    resumed.mix(asked.folder / "together.pt", before, asked.share)


def _together(asked: argparse.Namespace) -> None:
    both = _untrained_together(asked)
    scale = _scale(asked)
    run = _run(asked, both)
    drawn = pictures.draw_all(asked.folder, asked.seed, asked.pictures)
    run.train(train_together.loss_of(both, drawn, scale, run, asked.seed))
    both.load_state_dict(run.average)
    _show(asked, both.vae, both.unet, scale)


def _settled(asked: argparse.Namespace) -> None:
    teacher = _trained_together(asked)
    unet = parts.upscaler()
    unet.load_state_dict(teacher.unet.state_dict())
    train_settled.stretched(unet, train_settled.STRETCH)
    scale = _scale(asked)
    run = _run(asked, unet)
    drawn = pictures.draw_all(asked.folder, asked.seed, asked.pictures)
    run.train(
        train_settled.loss_of(unet, teacher, pictures=drawn, scale=scale, run=run, seed=asked.seed)
    )


def _export(asked: argparse.Namespace) -> None:
    vae = _trained_together(asked).cpu().vae
    unet = _trained_upscaler(asked, "settled")
    whole = export.pipeline(vae, unet, train_settled.STRETCH * _scale(asked))
    export.export(whole, asked.out)
    log.info("exported to %s", asked.out)


def _run(asked: argparse.Namespace, model: nn.Module) -> Run:
    path = asked.folder / f"{asked.what}.pt"
    return Run(path, model, Plan(asked.steps, asked.minutes), asked.rate, _device())


def _show(
    asked: argparse.Namespace, vae: parts.Autoencoder, unet: parts.Unet, scale: float
) -> None:
    """Write a sheet: what is true, what doubling does, and what the model makes of it."""
    truth = _unseen(asked)
    with torch.no_grad():
        small = parts.encode(vae, crops.halved(truth))
        height, width = (2 * side for side in small.shape[2:])
        noise = torch.randn(len(small), parts.LATENTS, height, width, device=small.device)
        best = train_upscaler.first_answer(unet, noise, small * scale)
        upscaled = parts.decode(vae, best / scale)
        doubled = functional.interpolate(parts.decode(vae, small), scale_factor=2, mode="bicubic")
    sheets.samples([truth, doubled, upscaled], asked.folder / f"{asked.what}.samples.png")


def _trained_autoencoder(asked: argparse.Namespace) -> parts.Autoencoder:
    vae = parts.autoencoder()
    vae.load_state_dict(_average(asked.folder / "autoencoder.pt"))
    placed(vae, _device())
    return vae.eval()


def _trained_upscaler(asked: argparse.Namespace, stage: str) -> parts.Unet:
    unet = parts.upscaler()
    unet.load_state_dict(_average(asked.folder / f"{stage}.pt"))
    return unet


def _untrained_together(asked: argparse.Namespace) -> train_together.Together:
    unet = _trained_upscaler(asked, "upscaler")
    return train_together.Together(_trained_autoencoder(asked).train(), unet)


def _trained_together(asked: argparse.Namespace) -> train_together.Together:
    both = train_together.Together(parts.autoencoder(), parts.upscaler())
    both.load_state_dict(_average(asked.folder / "together.pt"))
    placed(both, _device())
    return both.eval()


def _average(checkpoint: Path) -> dict[str, Tensor]:
    average: dict[str, Tensor] = torch.load(checkpoint, map_location="cpu")["average"]
    return average


def _scale(asked: argparse.Namespace) -> float:
    scale: float = torch.load(asked.folder / "latents.pt", mmap=True)[-1]
    return scale


def _unseen(asked: argparse.Namespace) -> Tensor:
    """Pictures in [-1, 1] that follow those that were trained on."""
    numbers = range(asked.pictures, asked.pictures + _SHOWN)
    drawn = torch.stack([torch.from_numpy(pictures.draw(asked.seed, number)) for number in numbers])
    return drawn.permute(0, 3, 1, 2).float().div(127.5).sub(1).to(_device())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_STAGES = {
    "autoencoder": _autoencoder,
    "upscaler": _upscaler,
    "resume": _resume,
    "together": _together,
    "mix": _mix,
    "settled": _settled,
    "export": _export,
}

if __name__ == "__main__":
    main()
