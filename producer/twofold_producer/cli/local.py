"""`twofold dev` and `twofold demo`: everything on one machine."""

import os
import shlex
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twofold_producer.cli.app import EXIT_JOBS_FAILED, err, out
from twofold_producer.dev import STAND_IN
from twofold_schema.environment import PREFIX
from twofold_schema.settings import DEMO_MODEL

if TYPE_CHECKING:
    from twofold_producer.dev.stack import Stack

_SMALL = {DEMO_MODEL: "a small one, trained on drawn pictures,", STAND_IN: "random weights"}

DataOption = Annotated[
    Path | None, typer.Option(help="Keep jobs and pictures here for the next start.")
]
ModelOption = Annotated[str, typer.Option(help="demo, stand-in, or the folder of a model.")]


def dev(
    *,
    data: DataOption = None,
    model: ModelOption = DEMO_MODEL,
    processes: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
) -> None:
    """Run everything on this machine until Ctrl-C: no Docker, GPU or cloud account."""
    # Only who starts servers pays for these imports.
    from twofold_producer.dev.stack import Stack

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Stack.start(data, model=model, processes=processes, on_step=_say) as stack:
        if stop.is_set():
            return
        _describe(stack, model)
        while not stop.wait(1.0):
            stack.check()
        err.print("Stopping.")


def demo(
    images: Annotated[
        list[Path] | None, typer.Argument(help="PNG or JPEG files; none for drawn ones.")
    ] = None,
    *,
    out_folder: Annotated[Path, typer.Option("--out", help="Where results go.")] = Path("demo-out"),
    model: ModelOption = DEMO_MODEL,
) -> None:
    """Start everything, upscale pictures, show before and after, end everything."""
    from twofold_producer.dev import demo as show
    from twofold_producer.dev.stack import Stack

    with Stack.start(model=model, on_step=_say) as stack:
        # The producer below reads its settings where every other program does, and is to find none
        # there that were meant for another Twofold.
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            del os.environ[name]
        os.environ.update(stack.environment)
        failures, sheet = show.run(list(images or ()), out_folder, err)
    out.print(f"Results: {out_folder.resolve()}", soft_wrap=True)
    if sheet:
        out.print(f"Before and after: {sheet.resolve()}", soft_wrap=True)
    if model in _SMALL:
        err.print(
            f"These were made by the {model} model: {_SMALL[model]} in the real model's classes. "
            "They show that the way works, not what the real model can do.",
            style="yellow",
        )
    if failures:
        raise typer.Exit(EXIT_JOBS_FAILED)


def _say(step: str) -> None:
    err.print(f"Starting {step} …", style="dim")


def _describe(stack: "Stack", model: str) -> None:
    settings = "\n".join(
        f"  export {name}={shlex.quote(text)}" for name, text in stack.environment.items()
    )
    logs = "\n".join(f"  {name}: {path}" for name, path in stack.logs().items())
    err.print(f"Twofold runs, on this machine only, with the {model} model. Not for production.")
    err.print("\nIn another terminal:", markup=False)
    out.print(settings, markup=False, soft_wrap=True)
    out.print("  twofold submit picture.png --wait", markup=False)
    err.print(f"\nLogs:\n{logs}\nFiles: {stack.folder}\n", markup=False, soft_wrap=True)
    err.print("Ctrl-C ends all of it.")
