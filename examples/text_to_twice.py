"""From a text to a picture twice as large, in latent space until the worker.

    python examples/text_to_twice.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 "a cat"

Stable Diffusion paints latents. They are submitted as they are, without being decoded to pixels
here and encoded again there, which would cost time and detail. The settings are read from the
environment, as `twofold dev` prints them. Needs `pip install 'twofold[worker]'`.
"""

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from twofold_producer import Producer
from twofold_schema.artifacts import ArtifactUri


def main() -> None:
    """Paint, submit, wait, fetch."""
    parser = argparse.ArgumentParser(description="Paint a text, twice as large.")
    parser.add_argument("prompt", nargs="+", help="one picture each")
    parser.add_argument("--model", required=True, help="Stable Diffusion 1 or 2: folder or hub id")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--side", type=int, default=512, help="of the painted picture, in pixels")
    parser.add_argument("--out", type=Path, default=Path("twice"))
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    painter = StableDiffusionPipeline.from_pretrained(options.model)  # type: ignore[no-untyped-call]
    painter.to(device)
    latents = painter(
        options.prompt,
        num_inference_steps=options.steps,
        height=options.side,
        width=options.side,
        output_type="latent",
    ).images  # [B, 4, side/8, side/8]

    options.out.mkdir(exist_ok=True)
    with Producer() as producer:
        submission = producer.submit_many(latents, strict=True)
        for number, job in enumerate(producer.wait(submission)):
            if job.result is None:
                raise SystemExit(f"{job.id} {job.state}: {job.error and job.error.message}")
            result = ArtifactUri.parse(job.result.uri)
            path = options.out / f"{number}.png"
            path.write_bytes(producer.storage.read(result, max_bytes=job.result.size_bytes).data)
            print(f"{path}: {job.result.width}x{job.result.height}")


if __name__ == "__main__":
    main()
