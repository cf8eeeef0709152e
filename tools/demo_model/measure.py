"""How good the demo model is: on photographs that it never saw, beside what it must beat.

    python -m tools.demo_model.measure --model FOLDER --out FOLDER

writes `demo-model.json` with every figure and `demo-model.png` with the pictures, and prints the
table. What the columns are is said in docs/09-demo-model.md.
"""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call"

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Final

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tools.demo_model import sheets
from torch import Tensor

from twofold_worker.upscaler import demo
from twofold_worker.upscaler.weights import Pipeline

Pixels = NDArray[np.uint8]

#: What scikit-image ships of everyday photographs, none of them trained on.
PHOTOGRAPHS: Final[Mapping[str, Callable[[], Any]]] = {
    "astronaut": data.astronaut,
    "camera": data.camera,
    "cat": data.chelsea,
    "clock": data.clock,
    "coffee": data.coffee,
    "coins": data.coins,
    "motorcycle": lambda: data.stereo_motorcycle()[0],
    "rocket": data.rocket,
}
SIDE: Final = 512
STEPS: Final = 20
_OTHER_SEEDS: Final = range(1, 8)  # `versions` has 0
_SHOWN: Final = ("astronaut", "rocket", "coffee")
_SHEET: Final = (
    ("nearest", "before: half the size"),
    ("doubled", "its latents, decoded, bicubic"),
    ("upscaled", "made by the demo model"),
    ("truth", "the photograph"),
)


@dataclass(frozen=True)
class Score:
    """How close a picture comes to the true one.

    Attributes:
        psnr: In decibels.
        ssim: Structural similarity (Wang et al., 2004), Gaussian window, mean of the channels.
        sharpness: Of the edges, the steepest 2 % of the steps from pixel to pixel: their mean, 1
            for as steep as the true picture's.
        cast: The largest difference of a channel's mean, of 255.
    """

    psnr: float
    ssim: float
    sharpness: float
    cast: float

    @classmethod
    def of(cls, shown: Pixels, truth: Pixels) -> "Score":
        """Compare pictures, uint8 [height, width, 3]."""
        ssim = structural_similarity(
            truth,
            shown,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        return cls(
            psnr=float(peak_signal_noise_ratio(truth, shown)),
            ssim=float(ssim),
            sharpness=_steps(shown) / _steps(truth),
            cast=float(np.abs(shown.mean((0, 1)) - truth.mean((0, 1))).max()),
        )


def photograph(name: str) -> Pixels:
    """The middle of one of `PHOTOGRAPHS`, uint8 [side, side, 3]; of `SIDE`, if it is so large."""
    whole = Image.fromarray(PHOTOGRAPHS[name]()).convert("RGB")
    side = min(*whole.size, SIDE) // 64 * 64
    left, top = (whole.width - side) // 2, (whole.height - side) // 2
    return np.asarray(whole.crop((left, top, left + side, top + side)))


def halved(truth: Pixels) -> Pixels:
    """A picture half as large, by Lanczos."""
    return _resized(truth, len(truth) // 2, Image.Resampling.LANCZOS)


def versions(pipeline: Pipeline, truth: Pixels) -> dict[str, Pixels]:
    """The true picture as each way brings it back, all of its size.

    Returns:
        `rebuilt` is what the autoencoder alone makes of it, the ceiling. All others see its half:
        `doubled` is what the autoencoder makes of that, then bicubic; `upscaled` is the model's
        answer for seed 0; `bicubic` and `nearest` do without a model.
    """
    half, side = halved(truth), len(truth)
    return {
        "rebuilt": rebuilt(pipeline, truth),
        "doubled": _resized(rebuilt(pipeline, half), side, Image.Resampling.BICUBIC),
        "upscaled": upscaled(pipeline, half, seed=0),
        "bicubic": _resized(half, side, Image.Resampling.BICUBIC),
        "nearest": _resized(half, side, Image.Resampling.NEAREST),
    }


def rebuilt(pipeline: Pipeline, picture: Pixels) -> Pixels:
    """What the autoencoder alone makes of a picture."""
    pixels = tensor_of(picture)
    with torch.inference_mode():
        latents = pipeline.vae.encode(pixels).latent_dist.mode()
        shown: Tensor = pipeline.vae.decode(latents).sample
    back = shown[0].clamp(-1, 1).add(1).mul(127.5).round().byte()
    return back.permute(1, 2, 0).numpy()


def upscaled(pipeline: Pipeline, picture: Pixels, *, seed: int) -> Pixels:
    """The stock pipeline's answer, without words."""
    (shown,) = pipeline(
        prompt="",
        image=Image.fromarray(picture),
        num_inference_steps=STEPS,
        guidance_scale=0,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="pil",
    ).images
    return np.asarray(shown)


def tensor_of(picture: Pixels) -> Tensor:
    """A picture in [-1, 1], shape [1, 3, height, width]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float().div(127.5).sub(1)


def load(folder: Path) -> Pipeline:
    """The stock pipeline, on the CPU in float32."""
    pipeline = diffusers.StableDiffusionLatentUpscalePipeline.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _resized(picture: Pixels, side: int, how: Image.Resampling) -> Pixels:
    return np.asarray(Image.fromarray(picture).resize((side, side), how))


def _steps(picture: Pixels) -> float:
    values = picture.astype(np.float32)
    steps = np.sort(np.abs(np.concatenate([np.diff(values, axis=side).ravel() for side in (0, 1)])))
    return float(steps[-len(steps) // 50 :].mean())


def _cost(pipeline: Pipeline) -> dict[str, float]:
    """Seconds of one picture from 256 to 512 pixels, and what the process took at most."""
    half = halved(photograph("astronaut"))
    upscaled(pipeline, half, seed=0)
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        upscaled(pipeline, half, seed=0)
        taken.append(time.perf_counter() - began)
    return {
        "seconds": sorted(taken)[len(taken) // 2],
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "threads": torch.get_num_threads(),
    }


def _mean(scores: Iterable[Score]) -> Score:
    return Score(*(fmean(figures) for figures in zip(*map(astuple, scores), strict=True)))


def _table(rows: Mapping[str, Mapping[str, Score]]) -> str:
    ways = list(next(iter(rows.values())))
    lines = ["| photograph | " + " | ".join(ways) + " |", "| --- |" + " --- |" * len(ways)]
    for name, row in rows.items():
        cells = (f"{row[way].psnr:.2f} / {row[way].ssim:.3f}" for way in ways)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything that docs/09-demo-model.md says."""
    parser = argparse.ArgumentParser(description="Measure the demo model.")
    parser.add_argument("--model", type=Path, default=demo.FOLDER)
    parser.add_argument("--out", type=Path, required=True, help="where figures and pictures go")
    asked = parser.parse_args(arguments)
    pipeline = load(asked.model)
    cost = _cost(pipeline)  # before scikit-image's photographs fill the memory
    rows: dict[str, dict[str, Score]] = {}
    spread: dict[str, float] = {}
    shown: list[dict[str, Pixels]] = []
    for name in track(PHOTOGRAPHS, "Measuring"):
        truth = photograph(name)
        made = versions(pipeline, truth)
        rows[name] = {way: Score.of(picture, truth) for way, picture in made.items()}
        others = [upscaled(pipeline, halved(truth), seed=seed) for seed in _OTHER_SEEDS]
        scores = [rows[name]["upscaled"], *(Score.of(picture, truth) for picture in others)]
        spread[name] = pstdev(score.psnr for score in scores)
        if name in _SHOWN:
            shown.append({caption: {**made, "truth": truth}[way] for way, caption in _SHEET})
    means = {way: _mean(row[way] for row in rows.values()) for way in rows["cat"]}
    figures = {
        "cost": cost,
        "mean": {way: asdict(score) for way, score in means.items()},
        "seeds_psnr_deviation": spread,
        "photographs": {
            name: {way: asdict(score) for way, score in row.items()} for name, row in rows.items()
        },
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "demo-model.json").write_text(json.dumps(figures, indent=1) + "\n")
    sheets.photographs(shown, asked.out / "demo-model.png")
    print(_table({**rows, "**mean**": means}))  # noqa: T201 - for whoever runs it
    print(json.dumps({"cost": cost, "mean": figures["mean"]}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
