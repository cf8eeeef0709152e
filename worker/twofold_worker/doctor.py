"""The worker's part of `twofold doctor`: the model's files and the device.

    python -m twofold_worker.doctor [model] [device]

prints one JSON object per finding, as it comes.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from twofold_schema import findings
from twofold_schema.effective import Effective
from twofold_schema.environment import process_environment
from twofold_schema.errors import ConfigError
from twofold_schema.findings import Finding
from twofold_schema.settings import DEMO_MODEL, WorkerSettings
from twofold_worker.upscaler import demo, provenance
from twofold_worker.upscaler.standin import is_stand_in

if TYPE_CHECKING:
    from twofold_worker.upscaler.gauge import Gauge

MODEL: Final = "model"
DEVICE: Final = "device"

_HUB_ID: Final = "stabilityai/sd-x2-latent-upscaler"
_GIB: Final = 2**30


def check_model(settings: WorkerSettings) -> Iterator[Finding]:
    """Whether the model is here, whole, and what the hub gave out."""
    # Only who looks at models pays for these imports.
    from twofold_worker.upscaler import weights

    if settings.model == DEMO_MODEL:
        yield _demo(settings)
        return
    local = Path(settings.model).is_dir()
    try:
        folder = (
            Path(settings.model).resolve()
            if local
            else weights.cached(settings.model, settings.model_revision)
        )
        if folder is None:
            yield _not_here(settings, offline=weights.offline())
            return
        weights.inspect(folder)
    except ConfigError as error:
        # A path that is no folder here is looked for on the hub, but was not meant so.
        meant = local or settings.model.startswith(("/", ".", "~"))
        yield findings.failed(MODEL, error.message, _fetch(settings, local=meant))
        return
    hashed = provenance.hashes(folder)
    for name, found in hashed.items():
        if name.endswith(".safetensors"):
            yield _weights(settings, folder, name, found)
    if local:
        yield _folder(settings, folder, provenance.digest(hashed))


def check_device(settings: WorkerSettings) -> Iterator[Finding]:
    """Whether torch sees the device, and the real model fits it."""
    from twofold_worker.upscaler import gauge

    if settings.device == "auto" and not gauge.sees_gpu() and gauge.driver_version():
        yield findings.warning(
            DEVICE,
            f"Here is an NVIDIA driver, but torch {gauge.torch_version()} sees no GPU: the worker "
            "would wait for one, or with a torch for CPUs use the CPU.",
            "Install a torch for CUDA that this driver knows (https://pytorch.org/get-started), "
            "and look at CUDA_VISIBLE_DEVICES.",
        )
    try:
        for seen in gauge.gauge(settings.device, settings.dtype):
            small = settings.model == DEMO_MODEL or is_stand_in(Path(settings.model))
            yield _device(seen, small=small)
    except ConfigError as error:
        yield findings.failed(
            DEVICE, error.message, "Correct TWOFOLD_DEVICE, or look at `nvidia-smi`."
        )
    except RuntimeError as error:
        yield findings.failed(
            DEVICE,
            f"The device refuses to work: {' '.join(str(error).split())[:300]}",
            "Look at `nvidia-smi`; driver, GPU and this build of torch must fit together.",
        )


def _demo(settings: WorkerSettings) -> Finding:
    try:
        found = provenance.digest(demo.check())
        provenance.check(demo.FOLDER, found, settings.model_revision)
    except ConfigError as error:
        return findings.failed(
            MODEL, error.message, "Install Twofold again, or correct TWOFOLD_MODEL_REVISION."
        )
    return findings.warning(
        MODEL,
        f"The demo model ({found}) is whole. It is for trying: the real one does far better.",
        f"For real pictures: {_fetch(settings, local=True)}",
    )


def _not_here(settings: WorkerSettings, *, offline: bool) -> Finding:
    here = f"{settings.model} at {settings.model_revision} is not in the hub's cache"
    mend = f"`hf download {settings.model} --revision {settings.model_revision}`, while online."
    if offline:
        return findings.failed(MODEL, f"{here}, and HF_HUB_OFFLINE forbids to fetch it.", mend)
    return findings.warning(
        MODEL,
        f"{here}: a worker fetches it when it starts, and cannot while the hub is away.",
        mend,
    )


def _weights(settings: WorkerSettings, folder: Path, name: str, found: str) -> Finding:
    recorded = provenance.recorded(folder, name)
    if recorded is None:
        return findings.ok(MODEL, f"{name}: sha256 {found}; the hub left no record to compare.")
    if recorded != found:
        return findings.failed(
            MODEL,
            f"{name} is not what the hub gave out: its sha256 is {found}, the hub recorded "
            f"{recorded}.",
            _fetch(settings, local=Path(settings.model).is_dir()),
        )
    return findings.ok(MODEL, f"{name}: sha256 {found}, as the hub recorded it.")


def _folder(settings: WorkerSettings, folder: Path, found: str) -> Finding:
    try:
        provenance.check(folder, found, settings.model_revision)
    except ConfigError as error:
        return findings.failed(MODEL, error.message, _fetch(settings, local=True))
    if is_stand_in(folder):
        return findings.warning(
            MODEL,
            f"{folder} is the stand-in ({found}): random weights, whose pictures are noise.",
            f"For real pictures: {_fetch(settings, local=True)}",
        )
    if (settings.model_revision or "").startswith(provenance.DIGEST):
        return findings.ok(MODEL, f"{folder} is whole, and {found} as TWOFOLD_MODEL_REVISION says.")
    return findings.ok(
        MODEL, f"{folder} is whole. Set TWOFOLD_MODEL_REVISION={found} to have it compared."
    )


def _device(seen: "Gauge", *, small: bool) -> Finding:
    free = "unknown" if seen.free_bytes is None else f"{seen.free_bytes / _GIB:.1f}"
    what = f"{seen.name}; {free} of {seen.total_bytes / _GIB:.1f} GiB free; {seen.dtype}."
    if not seen.native:
        return findings.warning(
            DEVICE, f"{what} It has no {seen.dtype} of its own.", "Set TWOFOLD_DTYPE=auto."
        )
    # The stand-in and the demo model are small enough for anything.
    if not small and seen.free_bytes is not None and seen.free_bytes < seen.needed_bytes:
        return findings.warning(
            DEVICE,
            f"{what} The model and one picture of 512 pixels need {seen.needed_bytes / _GIB:.1f}.",
            "End what else uses its memory, unless that is a worker of Twofold that runs already; "
            "or use a larger device.",
        )
    return findings.ok(DEVICE, what)


def _fetch(settings: WorkerSettings, *, local: bool) -> str:
    if not local:
        return (
            f"`hf download {settings.model} --revision COMMIT`, TWOFOLD_MODEL_REVISION=COMMIT; or "
            "let TWOFOLD_MODEL name a folder."
        )
    return (
        f"`hf download {_HUB_ID} --revision COMMIT --local-dir FOLDER --force-download`, "
        "TWOFOLD_MODEL=FOLDER."
    )


_CHECKS: Mapping[str, Callable[[WorkerSettings], Iterator[Finding]]] = {
    MODEL: check_model,
    DEVICE: check_device,
}


def main() -> int:
    """Print what is found; returns the exit status, which says nothing of the findings."""
    parser = argparse.ArgumentParser(
        prog="twofold_worker.doctor", description="Look at the model's files and the device."
    )
    parser.add_argument("names", nargs="*", metavar="model|device", choices=[[], *_CHECKS])
    names = parser.parse_args().names or list(_CHECKS)
    # An unknown name elsewhere in the settings is no matter of the worker's.
    settings = Effective.of(process_environment()).part(WorkerSettings)
    said = sys.stdout
    # Whatever a library prints is no finding.
    with contextlib.redirect_stdout(sys.stderr):
        for name in names:
            began = time.monotonic()
            for finding in _CHECKS[name](settings):
                ended = time.monotonic()
                plain = replace(finding, seconds=ended - began).to_json()
                said.write(json.dumps(plain) + "\n")
                said.flush()
                began = ended
    return 0


if __name__ == "__main__":
    sys.exit(main())
