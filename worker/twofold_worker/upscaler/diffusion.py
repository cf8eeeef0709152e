"""The real model, as diffusers loads it, sampled by our own loop."""

import gc
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import diffusers
import numpy as np
import torch
import transformers
from torch import Tensor

from twofold_schema.errors import ModelOutputInvalid
from twofold_schema.lanes import LATTICE, PIXELS_PER_LATENT
from twofold_schema.settings import DEMO_MODEL
from twofold_worker.upscaler import attention, autoencoder, demo, provenance, sampling, weights
from twofold_worker.upscaler.port import (
    BatchTooLarge,
    DeviceLost,
    Latents,
    Made,
    Pixels,
    Request,
    Sample,
)
from twofold_worker.upscaler.prompts import Prompts
from twofold_worker.upscaler.resampling import depthwise
from twofold_worker.upscaler.standin import is_stand_in
from twofold_worker.vram import Mode

Answer = TypeVar("Answer")

#: What libraries below torch, and its allocator on the CPU, say when memory has run out.
_OUT_OF_MEMORY: Final = (
    "CUDNN_STATUS_NOT_SUPPORTED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "unable to find an engine to execute this computation",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDA driver error: out of memory",
    "DefaultCPUAllocator: can't allocate memory",
)


@dataclass(slots=True, kw_only=True, eq=False)
class DiffusionSample(Sample):
    """A sample's tensors, on the device.

    Attributes:
        latents: With the noise that is left, float32 [1, 4, 2h, 2w].
        conditions: The source's latents, enlarged, [slots, 4, 2h, 2w] in the model's dtype.
        words: What the prompts mean, [slots, 77, width]; with CFG the negative one comes first.
        times: What the time embedding is conditioned on, [slots, 128 + width].
        schedule: Where its steps are.
        scale: Of the guidance, float32 [1].
        careful: Whether it is decoded in single precision.
    """

    latents: Tensor
    conditions: Tensor
    words: Tensor
    times: Tensor
    schedule: sampling.Schedule
    scale: Tensor
    careful: bool


class DiffusionUpscaler:
    """The latent upscaler on one device; see `Upscaler` for what it promises.

    One thread may call it, for ever or in turn.

    Attributes:
        name: "demo" for the model that comes with Twofold, "stand-in" for the stand-in's random
            weights, else the hub id or the folder's name.
        revision: The hub commit, or `sha256:` and 16 hex digits over a local folder's files.
        device: Where it runs.
        dtype: Of its weights, and of what goes through them; samples are kept in float32.
    """

    def __init__(self, pipeline: weights.Pipeline, *, name: str, revision: str) -> None:
        self.name = name
        self.revision = revision
        self.device: torch.device = pipeline.device
        self.dtype: torch.dtype = pipeline.dtype
        depthwise(pipeline.unet)
        if self.device.type == "cuda":
            # On a CPU it would be faster, too, but the last bits would not be the pipeline's.
            pipeline.unet.to(memory_format=torch.channels_last)
            pipeline.vae.to(memory_format=torch.channels_last)
        self._unet = pipeline.unet
        self._compiled_unet = pipeline.unet
        self._compiled: set[tuple[tuple[int, int], int]] = set()
        self._vae = pipeline.vae
        self._scheduler = pipeline.scheduler
        self._prompts = Prompts(
            pipeline.tokenizer, pipeline.text_encoder, device=self.device, dtype=self.dtype
        )
        self._schedules: dict[int, sampling.Schedule] = {}
        self._steps_ahead: deque[torch.cuda.Event] = deque()

    @classmethod
    def load(
        cls, model: str, *, revision: str | None, device: str, dtype: str
    ) -> "DiffusionUpscaler":
        """Load the weights, from safetensors only, straight to the device.

        Args:
            model: "demo", a local folder, or a hub id (fetched unless it is in the hub's cache).
            revision: The hub commit; a model that changes under a running fleet would break what
                `reproducible` promises. Of a folder the digest, if it shall be compared; a commit
                is ignored there.
            device: "auto" (CUDA where there is one, else the CPU) or a name known to torch.
            dtype: "float32", "bfloat16", "float16", or "auto": float32 on the CPU, bfloat16 on
                CUDA, float16 where bfloat16 is not native.

        Raises:
            ConfigError: A value is not known here, or the model is missing, damaged or another one.
            DeviceUnseen: torch sees no such device.
            DeviceLost: The device refuses.
            torch.OutOfMemoryError: The weights do not fit the device.
        """
        place = weights.device_named(device)
        weights.touch(place)
        number = weights.dtype_named(dtype, place)
        folder, name, found = _found(model, revision)
        if place.type == "cpu":
            # Kernels split a batch among their threads. With another number of them than a power
            # of two, a picture was seen to depend on its slot.
            torch.set_num_threads(1 << (torch.get_num_threads().bit_length() - 1))
        # Logs are lines; a bar that redraws itself fills them with noise.
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        return cls(weights.assemble(folder, number, place), name=name, revision=found)

    def warm_up(self) -> None:
        """Run one small request, so that the first job pays for nothing but itself."""
        source = np.zeros((LATTICE, LATTICE, 3), np.uint8)
        sample = self.begin(Request(source=source, seed=0, steps=1))
        self.step([sample], rung=1)
        self.finish(sample)

    def enter(self, mode: Mode) -> None:
        """Run in a mode from now on; back in the plain one every bit is as before."""
        for network in (self._unet, self._vae):
            attention.slice_attention(network, on=mode.sliced_attention)
        self._prompts.rest(torch.device("cpu") if mode.text_encoder_off else self.device)

    def compile(
        self,
        size: tuple[int, int],
        rungs: Sequence[int],
        *,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        """Compile the UNet for one more size, now: faster steps for minutes at the start.

        Its roundings are others than before, so that a fleet whose pinned pictures shall be equal
        compiles the same sizes everywhere.

        Args:
            size: Height and width of padded sources, in pixels.
            rungs: Each is a compilation of its own.
            backend: Of torch's compiler.

        Raises:
            BatchTooLarge: A rung does not fit. It stays uncompiled, and so do those after it.
        """
        if not self._compiled:
            self._compiled_unet = torch.compile(self._unet, dynamic=False, backend=backend)
        # The compiler has no public name for it.
        torch._dynamo.config.recompile_limit += len(rungs)  # noqa: SLF001
        sides = [side // PIXELS_PER_LATENT for side in size]
        request = Request(source=np.zeros((4, *sides), np.float32), seed=0, steps=1)
        for rung in rungs:
            self._compiled.add((size, rung))
            try:
                self.step([self.begin(request)], rung=rung)
            except BaseException:
                self._compiled.remove((size, rung))
                raise

    def begin(self, request: Request, *, careful: bool = False) -> DiffusionSample:
        """Encode the source and the prompts, draw the noise; see `Upscaler.begin`."""
        if not (_is_picture(request.source) or _is_latents(request.source)):
            shape = f"{request.source.dtype} {request.source.shape}"
            raise ValueError(f"{shape} is no RGB or latents on the lattice")
        return self._tried(lambda: self._begun(request, careful=careful))

    def step(self, samples: Sequence[Sample], *, rung: int) -> None:
        """Bring each sample one step on; see `Upscaler.step`."""
        own = [s for s in samples if isinstance(s, DiffusionSample) and not s.is_done]
        if len(set(own)) != len(samples):
            raise ValueError("a sample is another engine's, done, or there twice")
        if not 1 <= sum(sample.request.slots for sample in own) <= rung:
            raise ValueError(f"{len(samples)} samples do not fit a rung of {rung}")
        if len({sample.latents.shape for sample in own}) > 1:
            raise ValueError("the samples of a batch are of one size")
        moved = self._tried(lambda: self._moved(own, rung))
        for number, sample in enumerate(own):
            sample.latents = moved[number : number + 1]
            sample.step += 1

    def finish(self, sample: Sample) -> Made:
        """Decode a sample that is done; see `Upscaler.finish`."""
        if not (isinstance(sample, DiffusionSample) and sample.is_done):
            raise ValueError("only a sample that is done can be finished")
        made = self._tried(lambda: self._made(sample))
        if made is None:
            raise ModelOutputInvalid
        return made

    def _begun(self, request: Request, *, careful: bool) -> DiffusionSample:
        generator = torch.Generator("cpu").manual_seed(request.seed)
        with torch.inference_mode():
            if request.source.dtype == np.uint8:
                with self._autoencoder(careful=careful) as vae:
                    small = autoencoder.encode(
                        vae, request.source.astype(np.uint8, copy=False), generator
                    ).to(self.dtype)
            else:
                small = autoencoder.given(
                    request.source.astype(np.float32, copy=False), self.device, self.dtype
                )
            conditions = sampling.condition(small)
            _, channels, height, width = conditions.shape
            noise = sampling.noise(height, width, channels, generator).to(self.device)
            meanings = [self._prompts.meaning(text) for text in _texts(request)]
            schedule = self._schedule(request.steps)
            return DiffusionSample(
                request=request,
                latents=noise * schedule.initial_sigma,
                conditions=conditions.expand(len(meanings), -1, -1, -1),
                words=torch.cat([meaning.words for meaning in meanings]),
                times=sampling.time_condition(torch.cat([meaning.pooled for meaning in meanings])),
                schedule=schedule,
                scale=torch.tensor([request.guidance_scale], device=self.device),
                careful=careful,
            )

    def _moved(self, samples: Sequence[DiffusionSample], rung: int) -> Tensor:
        """The samples' latents after a step, [samples, 4, 2h, 2w]."""
        with torch.inference_mode():
            slots = [sample.request.slots for sample in samples]
            table = torch.cat([s.schedule.table[s.step : s.step + 1] for s in samples])
            before = torch.cat([sample.latents for sample in samples])
            latents = _filled(_repeated(before, slots), rung, 0.0)
            at = sampling.Coefficients(*_filled(_repeated(table, slots), rung, 1.0).unbind(1))
            conditions = _filled(torch.cat([s.conditions for s in samples]), rung, 0.0)
            # Others are not compiled now: for minutes, and by a thread without the settings for it.
            is_compiled = (samples[0].request.size, rung) in self._compiled
            raw = (self._compiled_unet if is_compiled else self._unet)(
                sampling.seen(latents, conditions, at),
                at.time,
                encoder_hidden_states=_filled(torch.cat([s.words for s in samples]), rung, 0.0),
                timestep_cond=_filled(torch.cat([s.times for s in samples]), rung, 0.0),
                return_dict=False,
            )[0]
            answers = torch.split(sampling.answer(raw, latents, at)[: sum(slots)], slots)
            best = torch.cat(
                [_best(sample, rows) for sample, rows in zip(samples, answers, strict=True)]
            )
            moved = sampling.euler(before, best, sampling.Coefficients(*table.unbind(1)))
        self._keep_pace()
        return moved

    def _made(self, sample: DiffusionSample) -> Made | None:
        """What became of a sample; None where it is not finite."""
        latents, wanted = sample.latents, sample.request.wants_latents
        with torch.inference_mode(), self._autoencoder(careful=sample.careful) as vae:
            if not latents.isfinite().all():
                return None
            shown = autoencoder.coarse(latents) if wanted else latents
            pixels, finite = autoencoder.decode(vae, shown)
            own = autoencoder.taken(latents) if wanted else None
        return Made(pixels=pixels, latents=own) if finite else None

    def _autoencoder(self, *, careful: bool) -> AbstractContextManager[autoencoder.Vae]:
        if careful and self.dtype != torch.float32:
            return autoencoder.single_precision(self._vae)
        return nullcontext(self._vae)

    def _schedule(self, steps: int) -> sampling.Schedule:
        if steps not in self._schedules:
            self._schedules[steps] = sampling.schedule(self._scheduler, steps, self.device)
        return self._schedules[steps]

    def _keep_pace(self) -> None:
        """Let the device fall behind by one step at most: who comes next waits no longer."""
        if self.device.type != "cuda":
            return
        # Who waits for it sleeps: codecs need the core.
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        self._steps_ahead.append(event)
        if len(self._steps_ahead) > 1:
            self._steps_ahead.popleft().synchronize()

    def _tried(self, run: Callable[[], Answer]) -> Answer:
        """Do something on the device, and give what it raises the port's name."""
        try:
            return run()
        except torch.OutOfMemoryError as error:
            failure: Exception = BatchTooLarge(str(error))
        except torch.AcceleratorError as error:
            failure = DeviceLost(str(error))
        except RuntimeError as error:
            if not any(sign in str(error) for sign in _OUT_OF_MEMORY):
                raise
            failure = BatchTooLarge(str(error))
        # Outside of `except`: its traceback would keep the batch's tensors alive.
        if isinstance(failure, BatchTooLarge):
            gc.collect()
            torch.cuda.empty_cache()
        raise failure


def _found(model: str, revision: str | None) -> tuple[Path, str, str]:
    """A model's folder, its name as people read it, and its revision."""
    if model == DEMO_MODEL:
        folder, name, found = demo.FOLDER, model, provenance.digest(demo.check())
    elif Path(model).is_dir():
        folder = Path(model).resolve()
        name = "stand-in" if is_stand_in(folder) else folder.name
        found = provenance.digest(provenance.hashes(folder))
    else:
        folder = weights.fetch(model, revision)
        return folder, model, folder.name  # the hub's cache names a snapshot by its commit
    provenance.check(folder, found, revision)
    return folder, name, found


def _texts(request: Request) -> list[str]:
    """The prompts that a request's slots see."""
    if request.guidance_scale == 0:
        return [""]
    return [request.negative_prompt, request.prompt][-request.slots :]


def _repeated(values: Tensor, slots: Sequence[int]) -> Tensor:
    """Each sample's row once for each of its slots."""
    if max(slots) == 1:
        return values
    parts = zip(torch.split(values, 1), slots, strict=True)
    return torch.cat([row for row, count in parts for _ in range(count)])


def _filled(rows: Tensor, rung: int, value: float) -> Tensor:
    """Rows, and as many made up ones as a rung has empty places."""
    if len(rows) == rung:
        return rows
    return torch.cat([rows, rows.new_full((rung - len(rows), *rows.shape[1:]), value)])


def _best(sample: DiffusionSample, answers: Tensor) -> Tensor:
    if sample.request.slots == 1:
        return answers
    return sampling.guided(answers[:1], answers[1:], sample.scale)


def _is_picture(source: Pixels | Latents) -> bool:
    *sides, channels = source.shape
    return source.dtype == np.uint8 and channels == 3 and _on_lattice(sides, LATTICE)


def _is_latents(source: Pixels | Latents) -> bool:
    channels, *sides = source.shape
    lattice = LATTICE // PIXELS_PER_LATENT
    return source.dtype == np.float32 and channels == 4 and _on_lattice(sides, lattice)


def _on_lattice(sides: Sequence[int], lattice: int) -> bool:
    return len(sides) == 2 and all(side and side % lattice == 0 for side in sides)
