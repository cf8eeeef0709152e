"""What both trainings share: the schedule, averaged weights, checkpoints, progress, the curve."""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from tools.demo_model import sheets
from tools.demo_model.arithmetic import placed
from torch import Tensor, nn

log = logging.getLogger("demo_model")

_SAVE_SECONDS = 120.0
_LOG_SECONDS = 15.0
_LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Plan:
    """How long to train: a number of steps (repeatable), or minutes (whatever fits)."""

    steps: int | None
    minutes: float | None

    def progress(self, step: int, seconds: float) -> float:
        """From 0 to 1: how much of the training is done."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        return min(1.0, seconds / (60 * (self.minutes or 1)))


class SpareCores:
    """As many threads as there are cores that nobody else is using, looked at now and then.

    A step is as slow as its slowest thread, and one that shares its core with others' work may
    be many times slower than the rest.
    """

    def __init__(self) -> None:
        self._seen = (time.monotonic(), *_cpu_seconds())

    def use(self) -> None:
        """Set torch's threads for the next steps."""
        then, all_before, own_before = self._seen
        now = time.monotonic()
        if now - then < _LOOK_SECONDS:
            return
        everyone, own = _cpu_seconds()
        self._seen = (now, everyone, own)
        cores = os.cpu_count() or 1
        others = max(0.0, (everyone - all_before) - (own - own_before)) / (now - then)
        torch.set_num_threads(max(1, int(cores - others + 0.7)))


def _cpu_seconds() -> tuple[float, float]:
    """What all programs have used of the processor, and this one; zeros where unknown.

    What runs at a lower priority gives way, and does not count.
    """
    own = os.times()
    try:
        with Path("/proc/stat").open() as file:
            user, _, system = (int(number) for number in file.readline().split()[1:4])
    except OSError:
        return (0.0, 0.0)
    return ((user + system) / os.sysconf("SC_CLK_TCK"), own.user + own.system)


@dataclass
class Run:
    """One training, which can be interrupted and goes on where its last checkpoint was."""

    path: Path
    model: nn.Module
    plan: Plan
    rate: float
    device: torch.device
    step: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        placed(self.model, self.device)
        parameters = [part for part in self.model.parameters() if part.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameters, self.rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self._spare = SpareCores()
        self.average = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        if self.path.exists():
            saved = torch.load(self.path, map_location=self.device)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.average = saved["average"]
            self.step, self.seconds, self.curve = saved["step"], saved["seconds"], saved["curve"]

    def train(self, loss_of: Callable[[float], Tensor]) -> None:
        """Train to the plan's end.

        Args:
            loss_of: Draws a batch and computes its loss; gets the progress.
        """
        begun, saved, logged = time.monotonic() - self.seconds, time.monotonic(), 0.0
        recent: list[float] = []
        for progress in self._progress():
            self._spare.use()
            loss = loss_of(progress)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * _cosine(progress, self.step)
            if torch.isfinite(norm):
                self.optimizer.step()
            self._take_average()
            self.step += 1
            now = time.monotonic()
            self.seconds = now - begun
            recent.append(loss.item())
            if now - logged > _LOG_SECONDS:
                self.curve.append((self.step, self.seconds, sum(recent) / len(recent)))
                log.info(
                    "step %d, %.0f s, %.1f %%, loss %.5f, %d threads",
                    self.step, self.seconds, 100 * progress, self.curve[-1][2],
                    torch.get_num_threads(),
                )  # fmt: skip
                recent, logged = [], now
            if now - saved > _SAVE_SECONDS:
                self.save()
                saved = now
        self.save()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all, and the curve beside it."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
        }
        half_done = self.path.with_suffix(".half")
        torch.save(state, half_done)
        half_done.replace(self.path)
        self.path.with_suffix(".json").write_text(json.dumps(self.curve))
        sheets.curve(self.curve, self.path.with_suffix(".curve.png"))

    def _take_average(self) -> None:
        share = max(2e-3, 10 / (self.step + 10))
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, share)

    def _progress(self) -> Iterator[float]:
        console = Console(stderr=True)
        with Progress(console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task(self.path.stem, total=1.0)
            while (progress := self.plan.progress(self.step, self.seconds)) < 1:
                yield progress
                bar.update(task, completed=progress)


def _cosine(progress: float, step: int) -> float:
    """The learning rate's share: a short warm-up, then half a cosine."""
    return min(1.0, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * progress)) + 1e-3
