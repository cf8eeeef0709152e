"""Runs benchmarks of the engine.

python -m benchmarks.engine --device timed|cpu|cuda|auto --size tiny|small|full [NAME …]
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import diffusers
import torch
import transformers
from rich.console import Console

from benchmarks import bare, capped, cold_start, dispatch, end_to_end, memory, mixed, report
from benchmarks.report import Book, Report
from benchmarks.subject import TIMED, Subject

BENCHMARKS: Final[dict[str, Callable[[Subject], Report]]] = {
    "bare": bare.measure,
    "mixed": mixed.measure,
    "end-to-end": end_to_end.measure,
    "memory": memory.measure,
    "capped": capped.measure,
    "dispatch": dispatch.measure,
    "cold-start": cold_start.measure,
}

#: A timed device has no memory to measure and no weights to load; a CPU cannot be capped.
_SKIPPED: Final = {TIMED: {"memory", "cold-start"}, "cpu": {"capped"}}

_RESULTS: Final = Path(__file__).parent / "results"


def run(subject: Subject, folder: Path, names: list[str], console: Console) -> None:
    """Measure, and write what was found: numbers, and pictures of them."""
    from benchmarks import plots

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    if subject.size == "tiny":
        # Threads that wait for each other on a busy machine take longer than one.
        torch.set_num_threads(1)
    elif subject.torch_device.type == "cpu":
        # As a worker does: kernels split a batch evenly among a power of two.
        torch.set_num_threads(1 << (torch.get_num_threads().bit_length() - 1))
    book = Book(
        name=f"engine-{subject.name}",
        title=f"Engine on {_machine(subject)['device']}",
        writer="benchmarks.engine",
        machine=_machine(subject),
    )
    for name in names or BENCHMARKS:
        if name in _SKIPPED.get(subject.device, set()):
            continue
        found = BENCHMARKS[name](subject)
        report.show(console, f"{name} on {subject.name}", found)
        folder.mkdir(parents=True, exist_ok=True)
        book.write(folder, name, found, plots.draw(name, found, subject, folder))


def _machine(subject: Subject) -> dict[str, object]:
    """Where and with what it is measured."""
    on_gpu = subject.device == "cuda"
    return report.machine(subject.size) | {
        "device": torch.cuda.get_device_name() if on_gpu else subject.name,
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if on_gpu else None,
    }


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--device", choices=["auto", TIMED, "cpu", "cuda"], default="auto")
    parser.add_argument("--size", choices=["tiny", "small", "full"])
    parser.add_argument("--out", type=Path, default=_RESULTS)
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else TIMED
    size = options.size or ("full" if device == "cuda" else "small")
    run(Subject(device=device, size=size), options.out, options.names, Console(width=100))


if __name__ == "__main__":
    main()
