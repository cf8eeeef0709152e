"""A tiny model with the real one's classes and random weights, for machines without the real one.

The parts are those of `stabilityai/sd-x2-latent-upscaler`, made as narrow as their classes allow;
the widths are bound by diffusers: the K blocks normalise in groups of 32 channels, the time
embedding is twice the first width and must equal the last, `time_cond_proj_dim` is 128 plus the
text encoder's hidden size, and four VAE levels make `vae_scale_factor` 8 as in the real model.

    python -m twofold_worker.upscaler.standin FOLDER
"""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call, attr-defined"

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from twofold_schema.errors import ConfigError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

MARKER: Final = "STAND-IN.txt"
_MARKER_TEXT: Final = "Random weights of Twofold's stand-in model: its pictures mean nothing.\n"
_SEED: Final = 20
TEXT_WIDTH: Final = 32
_TEXT_TOKENS: Final = 77
_START: Final = "<|startoftext|>"
_END: Final = "<|endoftext|>"


def is_stand_in(folder: Path) -> bool:
    """Whether a model folder was written by `build`."""
    return (folder / MARKER).is_file()


def build(folder: Path) -> None:
    """Write the stand-in's pipeline folder, or leave a complete one as it is.

    The folder appears whole or not at all, is readable by every user, and holds the same weights
    on every call with the same torch; torch's global random state is left as it was.

    Args:
        folder: Where to; its parents are made. It must not exist, be empty, or be a stand-in.

    Raises:
        ConfigError: The folder holds something else.
    """
    if is_stand_in(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    half_done = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _save(half_done)
        half_done.replace(folder)
    except OSError as error:
        # Another process may have finished first; its folder is as good as this one.
        if not is_stand_in(folder):
            raise ConfigError(
                f"The stand-in model cannot be written to {folder}: {error.strerror}; "
                "name a new or empty folder."
            ) from error
    finally:
        shutil.rmtree(half_done, ignore_errors=True)


def _save(folder: Path) -> None:
    import diffusers

    words = tokenizer()
    with _own_random_state():
        pipeline = diffusers.StableDiffusionLatentUpscalePipeline(
            vae=vae(),
            text_encoder=text_encoder(words),
            tokenizer=words,
            unet=unet(),
            scheduler=scheduler(),
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    (folder / MARKER).write_text(_MARKER_TEXT)
    # safetensors writes 0600 and mkdtemp 0700; workers may run as another user than the builder.
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


@contextlib.contextmanager
def _own_random_state() -> Iterator[None]:
    import torch

    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the GPU's generators too, which are not restored here.
        torch.default_generator.manual_seed(_SEED)
        yield


def tokenizer() -> "CLIPTokenizer":
    """CLIP's byte-level tokenizer with single bytes for words.

    The end token has the highest id: with CLIP's historical `eos_token_id=2` the text encoder
    pools at the largest id.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), _START, _END]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        model_max_length=_TEXT_TOKENS,
    )


def text_encoder(tokenizer: "CLIPTokenizer") -> "CLIPTextModel":
    """A narrow CLIP text encoder with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=_TEXT_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def scheduler() -> "EulerDiscreteScheduler":
    """The real model's scheduler."""
    import diffusers

    return diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="sample",
        interpolation_type="log_linear",
    )


def unet(
    widths: tuple[int, ...] = (32, 32, 64, 64),
    *,
    head_width: int = 8,
    sample_size: int = 16,
    layers: int = 1,
    text_width: int = TEXT_WIDTH,
) -> "UNet2DConditionModel":
    """A K-UNet with random weights, as wide as its four levels are said to be."""
    import diffusers

    return diffusers.UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=8,
        out_channels=5,
        block_out_channels=widths,
        layers_per_block=layers,
        attention_head_dim=head_width,
        cross_attention_dim=text_width,
        time_cond_proj_dim=128 + text_width,
        down_block_types=("KDownBlock2D", *["KCrossAttnDownBlock2D"] * 3),
        mid_block_type=None,
        up_block_types=(*["KCrossAttnUpBlock2D"] * 3, "KUpBlock2D"),
        norm_num_groups=None,
        act_fn="gelu",
        time_embedding_type="fourier",
        timestep_post_act="gelu",
        resnet_time_scale_shift="scale_shift",
        conv_in_kernel=1,
        conv_out_kernel=1,
        only_cross_attention=False,
    )


def vae(
    widths: tuple[int, ...] = (8, 8, 16, 16),
    *,
    layers: int = 1,
    groups: int = 4,
    sample_size: int = 64,
) -> "AutoencoderKL":
    """An autoencoder with random weights, as wide as its four levels are said to be."""
    import diffusers

    return diffusers.AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=layers,
        latent_channels=4,
        norm_num_groups=groups,
        sample_size=sample_size,
        scaling_factor=0.18215,
    )


def main() -> None:
    """Build the stand-in where the command line says."""
    parser = argparse.ArgumentParser(description="Write the stand-in model's folder.")
    parser.add_argument("folder", type=Path)
    build(parser.parse_args().folder)


if __name__ == "__main__":
    main()
