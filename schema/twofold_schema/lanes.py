"""Lanes and costs: pure functions of a job, the same for everyone who computes them.

A lane names what must be equal for jobs to share a batch. It is versioned: when the function
changes, so does the prefix, and jobs with a lane of the old one are measured anew, each once.
"""

from dataclasses import dataclass
from functools import lru_cache

from twofold_schema.errors import TooLarge
from twofold_schema.formats import ResultFormat
from twofold_schema.job import Output, Parameters

VERSION = 2

#: Sides are padded up to a multiple of this, in pixels.
LATTICE = 64

#: Pixels of a picture per latent, along each side.
PIXELS_PER_LATENT = 8

#: The smallest side of latents: below it the UNet's padding fails.
LEAST_LATENTS = 8

# Work of the x2 latent upscaler in TFLOP for a 512x512 source, counted on the published
# configuration: one UNet forward, VAE decode of the result, VAE encode of the source.
_UNET_TFLOP, _DECODE_TFLOP, _ENCODE_TFLOP = 1.281, 10.47, 1.12
_COUNTED_PIXELS = 512 * 512

#: The reference GPU's sustained speed, TFLOP/s: half of what an H200 can do in bf16.
REFERENCE_TFLOPS = 395.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What a picture's size says about its job.

    Attributes:
        width: Of the source, in pixels.
        height: Of the source, in pixels.
        lane: What must be equal to share a batch.
        est_gpu_seconds: Estimated work on the reference GPU, in seconds.
    """

    width: int
    height: int
    lane: str
    est_gpu_seconds: float

    @property
    def pixels(self) -> int:
        """Width times height of the source."""
        return self.width * self.height

    @property
    def lattice_pixels(self) -> int:
        """Width times height of the padded source: what a device must have room for."""
        return lattice_pixels(self.width, self.height)


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLimits:
    """How large a picture may be.

    Attributes:
        max_pixels: Width times height, in pixels.
        max_side: The longer side, in pixels.
    """

    max_pixels: int
    max_side: int

    def check(self, width: int, height: int) -> None:
        """Accept a size.

        Raises:
            TooLarge: It is over a limit.
        """
        if width * height > self.max_pixels or max(width, height) > self.max_side:
            raise TooLarge(
                f"The picture is {width}x{height}; at most {self.max_side} px a side and "
                f"{self.max_pixels} px in all are allowed. Send a smaller one, or ask the operator "
                "to raise TWOFOLD_MAX_SIDE or TWOFOLD_MAX_PIXELS."
            )


def padded(side: int) -> int:
    """The side of the padded picture, in pixels: a fixed function of the picture's own side."""
    return -(-side // LATTICE) * LATTICE


def lattice_pixels(width: int, height: int) -> int:
    """The area of the padded picture, in pixels."""
    return padded(width) * padded(height)


def measure(
    parameters: Parameters,
    width: int,
    height: int,
    *,
    from_latents: bool = False,
    to_latents: bool = False,
) -> Measure:
    """The lane and cost of a job.

    Args:
        parameters: What is asked of the model.
        width: Of the source, in pixels; of latents, of the picture that they stand for.
        height: As `width`.
        from_latents: Whether the source is latents, which need no encoding.
        to_latents: Whether the result is latents, which need no decoding.
    """
    return _measure(
        width,
        height,
        revision=parameters.model_revision,
        reproducible=parameters.reproducible,
        forwards=parameters.steps * (2 if parameters.guidance_scale > 1 else 1),
        encodes=not from_latents,
        decodes=not to_latents,
    )


def measure_job(
    parameters: Parameters, output: Output, width: int, height: int, *, from_latents: bool
) -> Measure:
    """The lane and cost of a job whose result shall be of this kind; the rest is as in `measure`.

    Raises:
        TooLarge: The result's format cannot hold a picture of twice these sides.
    """
    output.check(width, height)
    to_latents = output.format is ResultFormat.LATENTS
    return measure(parameters, width, height, from_latents=from_latents, to_latents=to_latents)


# Many jobs at once are mostly of few kinds.
@lru_cache(4096)
def _measure(
    width: int,
    height: int,
    *,
    revision: str | None,
    reproducible: bool,
    forwards: int,
    encodes: bool,
    decodes: bool,
) -> Measure:
    lane = "/".join(
        (
            str(VERSION),
            revision or "any",
            f"{padded(width)}x{padded(height)}",
            "pinned" if reproducible else "free",
        )
    )
    tflop = _UNET_TFLOP * forwards + _DECODE_TFLOP * decodes + _ENCODE_TFLOP * encodes
    seconds = tflop * padded(width) * padded(height) / _COUNTED_PIXELS / REFERENCE_TFLOPS
    return Measure(width=width, height=height, lane=lane, est_gpu_seconds=seconds)
