"""Finding and loading the model's files: a folder or the hub in, a whole pipeline out."""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call"

import re
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from safetensors import SafetensorError

from twofold_schema.errors import ConfigError
from twofold_worker.upscaler.port import DeviceLost, DeviceUnseen

# diffusers' pipelines hide their methods and parts from type checkers.
Pipeline: TypeAlias = Any

# What diffusers, transformers and tokenizers were seen to raise for folders with missing, cut,
# emptied or foreign files; running out of memory happens later, outside of this net.
_DAMAGED: Final = (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def device_named(name: str) -> torch.device:
    """A device by name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: torch does not know it.
        DeviceUnseen: torch does not see it.
    """
    try:
        device = torch.device(
            name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        )
    except RuntimeError as error:
        raise ConfigError(
            f"TWOFOLD_DEVICE is {name!r}; use auto, cpu, cuda or cuda:<n>."
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceUnseen(
            f"TWOFOLD_DEVICE is {name!r}, which torch {torch.__version__} does not see; look at "
            "`nvidia-smi` and CUDA_VISIBLE_DEVICES, or use cpu."
        )
    return device


def touch(device: torch.device) -> None:
    """Use a device for the first time, so that its errors are not taken for the model's.

    Raises:
        DeviceLost: It refuses.
        torch.OutOfMemoryError: It is full.
    """
    try:
        torch.ones(1, device=device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise DeviceLost(str(error)) from error


def dtype_named(name: str, device: torch.device) -> torch.dtype:
    """A dtype by name; "auto" is float32 on the CPU, on CUDA bfloat16, or float16 if not native.

    Raises:
        ConfigError: The name is none of these.
    """
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if name not in _DTYPES:
        raise ConfigError(f"TWOFOLD_DTYPE is {name!r}; use auto, {', '.join(_DTYPES)}.")
    return _DTYPES[name]


def cached(model: str, revision: str | None) -> Path | None:
    """The folder of a hub model in the hub's cache; None if it is not in there.

    Raises:
        ConfigError: The revision is no commit.
    """
    try:
        return _snapshot(model, _commit(model, revision), local_files_only=True)
    except FileNotFoundError:
        return None


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def fetch(model: str, revision: str | None) -> Path:
    """The folder of a hub model in the hub's cache, named by its commit; fetched if need be.

    The cache is asked first: with a commit in it, a start needs no network.

    Raises:
        ConfigError: The revision is no commit, or neither the cache nor the hub has it.
    """
    commit = _commit(model, revision)
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # renamed by versions

    try:
        return cached(model, commit) or _snapshot(model, commit, local_files_only=False)
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise ConfigError(
            f"TWOFOLD_MODEL is {model!r} at TWOFOLD_MODEL_REVISION {revision!r}: there is no such "
            "folder here, and the hub and its cache do not have it with safetensors weights; "
            f"correct either setting, or fetch the model while online. ({error})"
        ) from error


def _commit(model: str, revision: str | None) -> str:
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ConfigError(
            f"TWOFOLD_MODEL is {model!r}, which is no folder here, so TWOFOLD_MODEL_REVISION must "
            f"pin a commit of the hub, 40 hex digits; it is {revision!r}."
        )
    return revision


def _snapshot(model: str, commit: str, *, local_files_only: bool) -> Path:
    from diffusers import DiffusionPipeline

    return Path(
        DiffusionPipeline.download(
            model, revision=commit, use_safetensors=True, local_files_only=local_files_only
        )
    )


def inspect(folder: Path) -> None:
    """See whether a pipeline folder is whole, reading no more of its weights than their names.

    Raises:
        ConfigError: As `assemble`.
    """
    assemble(folder, torch.float32, torch.device("meta"))


def assemble(folder: Path, dtype: torch.dtype, device: torch.device) -> Pipeline:
    """Load a pipeline folder, whole or not at all.

    The files are mapped, and each tensor goes from there straight to its place.

    The models are loaded one by one, because the pipeline's own loader leaves tensors that the
    files lack unset or random, with a warning at most.

    Args:
        folder: Of the pipeline.
        dtype: Of its numbers.
        device: Where to. "meta" shows only whether all fits together: of each tensor no more than
            its name and shape is read, and the pipeline cannot be run.

    Raises:
        ConfigError: A file is missing, damaged, of another model, or not safetensors.
    """
    from diffusers import (
        AutoencoderKL,
        StableDiffusionLatentUpscalePipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel

    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    how = {"use_safetensors": True, "local_files_only": True, "dtype": dtype}
    place = {"device_map": device}
    parts = {}
    try:
        for part, kind in kinds.items():
            parts[part], found = kind.from_pretrained(
                folder, subfolder=part, output_loading_info=True, **how, **place
            )
            if found["missing_keys"]:
                raise ValueError(f"{part} lacks {min(found['missing_keys'])}")
        pipeline = StableDiffusionLatentUpscalePipeline.from_pretrained(folder, **parts, **how)
        # Without its files the tokenizer loads all the same, empty.
        tokenizer, text = pipeline.tokenizer, pipeline.text_encoder.config
        known = (len(tokenizer), tokenizer.model_max_length)
        if known != (text.vocab_size, text.max_position_embeddings):
            raise ValueError("tokenizer and text_encoder do not fit together")
    except _DAMAGED as error:
        raise ConfigError(
            f"TWOFOLD_MODEL: {folder} is not a whole x2 latent upscaler with safetensors weights; "
            f"fetch it again or name another. ({error})"
        ) from error
    return pipeline
