"""The worker."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from twofold_schema.environment import Settings
from twofold_schema.lanes import LATTICE
from twofold_schema.settings.reading import Seconds, readable

#: What TWOFOLD_MODEL calls the model that comes with Twofold, and what its results are made by.
DEMO_MODEL = "demo"

_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")


def _power_of_two(number: int) -> int:
    if number.bit_count() != 1:
        raise ValueError("must be a power of two")
    return number


def _sizes(text: str) -> list[tuple[int, int]]:
    """Heights and widths.

    Raises:
        ValueError: It is not `WIDTHxHEIGHT,WIDTHxHEIGHT`, all on the lattice.
    """
    sizes = []
    for entry in filter(None, (entry.strip() for entry in text.split(","))):
        written = _SIZE.fullmatch(entry)
        if written is None:
            raise ValueError(f"{entry!r} is no size; write WIDTHxHEIGHT,WIDTHxHEIGHT")
        width, height = int(written[1]), int(written[2])
        if not width or not height or width % LATTICE or height % LATTICE:
            raise ValueError(f"{entry} is no padded source; its sides are multiples of {LATTICE}")
        sizes.append((height, width))
    return sizes


class WorkerSettings(Settings):
    """One worker process: one device, one model.

    Attributes:
        model: A folder, or the id of a model on the Hugging Face hub; or `demo`, the small one that
            comes with Twofold.
        model_revision: The hub's commit. For a folder, `sha256:` and the 16 digits that `twofold
            doctor` prints, if its files shall be compared with them; a commit says nothing there.
        env: `production`, or `dev`, for machines that may serve the demo model.
        device: `auto`, `cpu`, `cuda` or `cuda:N`. `auto` is each GPU that is visible when the
            worker starts, and the CPU where none is.
        dtype: `auto` is bfloat16 on a GPU and float32 on a CPU.
        compile_sizes: Padded sources, `WIDTHxHEIGHT,WIDTHxHEIGHT` in pixels, for which the UNet is
            compiled at the start: minutes for faster steps. The same fleet-wide, or pinned pictures
            differ. Takes gcc and g++. Empty for none.
        processes: Worker processes to keep; 0 for one per visible GPU, else one.
        max_batch: Most slots of a step on the device; the worker measures how many fit and are
            worth it.
        memory_budget: What the process may have of the device: up to 1 a share of it, above 1
            bytes; unset for all but a reserve.
        cache_dir: Where what was learned of the device is kept from one start to the next; unset
            for nowhere.
        pinned_rung: The batch size of reproducible jobs, a power of two from 2 to 32, the same
            fleet-wide. A job with guidance above 1 takes two of it.
        preview_side: The longer side of the small picture stored beside each result, in pixels; 0
            for none.
        io_threads: Threads that fetch and decode, and as many that encode and store.
        poll_seconds: How long work may wait when no ticket comes.
        lease_seconds: How long a silent run keeps its jobs.
        stall_seconds: The least time that a stage may stand still while it holds work; ten times
            its slowest step so far when that is more.
        run_deadline_seconds: How long one claim may last, whatever the lease says.
        stop_seconds: What a stopping process may take before it is killed. What it has not ended
            after four fifths of it is given back.
    """

    model: str = "stabilityai/sd-x2-latent-upscaler"
    model_revision: str | None = None
    env: Annotated[Literal["production", "dev"], Field(validate_default=True)] = "production"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile_sizes: Annotated[str, readable(_sizes)] = ""
    processes: Annotated[int, Field(ge=0, le=64)] = 0
    max_batch: Annotated[int, Field(ge=1, le=32)] = 32
    memory_budget: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    cache_dir: Path | None = None
    pinned_rung: Annotated[int, Field(ge=2, le=32), AfterValidator(_power_of_two)] = 4
    preview_side: Annotated[int, Field(ge=0, le=2048)] = 256
    io_threads: Annotated[int, Field(ge=1, le=64)] = 8
    poll_seconds: Seconds = 2.0
    lease_seconds: Seconds = 30.0
    stall_seconds: Seconds = 120.0
    run_deadline_seconds: Seconds = 900.0
    stop_seconds: Seconds = 60.0

    @property
    def compiled_sizes(self) -> list[tuple[int, int]]:
        """Heights and widths of the padded sources for which the UNet is compiled, in pixels."""
        return _sizes(self.compile_sizes)

    @field_validator("env")
    @classmethod
    def _not_for_show(cls, env: str, info: ValidationInfo) -> str:
        if env != "dev" and info.data.get("model") == DEMO_MODEL:
            raise ValueError(
                f"must be dev for TWOFOLD_MODEL={DEMO_MODEL}, which is for trying only; set it, or "
                "name the real model"
            )
        return env
