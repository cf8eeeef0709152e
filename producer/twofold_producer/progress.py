"""How far work is, for whoever waits for it at a terminal."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console

#: Told how many of how many jobs have ended.
OnProgress: TypeAlias = Callable[[int, int], None]

_LINE_EVERY_SECONDS: Final = 10.0
#: More often nobody sees it, and a hundred thousand jobs are told one by one.
_DRAW_EVERY_SECONDS: Final = 0.05


class Bar:
    """A bar on a terminal, a line now and then elsewhere, on standard error; for `with`.

    Args:
        what: Is being done, in a word.
        done: How a line goes on after "3 of 7".
        console: To print on.
    """

    def __init__(self, what: str, *, done: str, console: "Console | None" = None) -> None:
        # Only who is shown something pays for this import.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._console = console or Console(stderr=True, highlight=False)
        self._drawn = self._console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._drawn,
            # What goes to a file or a pipe must not come to the terminal instead.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._bar.add_task(what, total=None)
        self._done = done
        # A bar is drawn at once; the first line waits for its turn.
        self._told = -math.inf if self._drawn else time.monotonic()
        self._count: int | None = None

    def tell(self, count: int, total: int | None, *, what: str | None = None) -> None:
        """Show how many of how many are done; None for nobody knows how many.

        Args:
            count: How many are done.
            total: How many there are.
            what: Is being done from here on.
        """
        now, ended = time.monotonic(), count == total
        every = _DRAW_EVERY_SECONDS if self._drawn else _LINE_EVERY_SECONDS
        if count == self._count or not (ended or now - self._told > every):
            return
        self._told, self._count = now, count
        if self._drawn:
            self._bar.update(self._task, completed=count, total=total, description=what)
        else:
            self._console.print(f"{count} of {'unknown' if total is None else total} {self._done}")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()


@contextmanager
def watched(
    what: str, *, done: str, progress: bool | None, go_on: Callable[[], str]
) -> Iterator[OnProgress]:
    """Show how far work is; whoever interrupts it is told how to go on, and interrupts it.

    Args:
        what: Is being done, in a word.
        done: As for `Bar`.
        progress: None shows it on a terminal alone; False shows and tells nothing.
        go_on: What an interrupt leaves, and how to come back to it, in a line.
    """
    try:
        if progress or (progress is None and sys.stderr.isatty()):
            with Bar(what, done=done) as bar:
                yield bar.tell
        else:
            yield _unseen
    except KeyboardInterrupt:
        if progress is not False:
            # Behind the terminal's own ^C.
            begin = "\n" if sys.stderr.isatty() else ""
            sys.stderr.write(f"{begin}{go_on()}\n")
        raise


def _unseen(_: int, __: int) -> None:
    return
