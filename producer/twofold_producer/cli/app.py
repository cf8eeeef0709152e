"""What the commands share: where they print, and what their exit codes mean."""

import getpass
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.text import Text

from twofold_producer.cli.commands import Every
from twofold_schema.errors import (
    ApiKeyNotFound,
    ConfigError,
    DeliveryNotFound,
    InvalidApiKey,
    InvalidOperation,
    InvalidRequest,
    InvalidWebhook,
    JobNotFound,
    OperationNotFound,
    ScopeMissing,
    SubmissionNotFound,
    SubmitError,
    WaitTimeout,
    WebhookNotFound,
)

#: Something that was to be submitted was not accepted.
EXIT_NOT_ACCEPTED = 2
#: Some of the jobs that were waited for did not succeed.
EXIT_JOBS_FAILED = 3
#: The API key is none that is in force, or not for this.
EXIT_NOT_ALLOWED = 4
#: What was named is not there.
EXIT_NOT_FOUND = 5
EXIT_INTERRUPTED = 130
#: By kind of error; 1 for every other one.
EXIT_CODES = (
    (ConfigError, 2),
    (SubmitError, EXIT_NOT_ACCEPTED),
    (InvalidOperation, 2),
    (InvalidRequest, 2),
    (InvalidApiKey, EXIT_NOT_ALLOWED),
    (ScopeMissing, EXIT_NOT_ALLOWED),
    (ApiKeyNotFound, EXIT_NOT_FOUND),
    (InvalidWebhook, 2),
    (JobNotFound, EXIT_NOT_FOUND),
    (OperationNotFound, EXIT_NOT_FOUND),
    (SubmissionNotFound, EXIT_NOT_FOUND),
    (WebhookNotFound, EXIT_NOT_FOUND),
    (DeliveryNotFound, EXIT_NOT_FOUND),
    (WaitTimeout, 124),
)

# C0, DEL and C1: the last begin a terminal's commands as ESC does.
_CONTROLS = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}

# Whoever reads a pipe or a file wants whole lines.
_UNFOLDED = None if sys.stdout.isatty() else 10_000

out = Console(highlight=False, width=_UNFOLDED)
err = Console(stderr=True, highlight=False)

app = typer.Typer(
    cls=Every,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 well, 1 error, 2 usage, setting, or something was not accepted, 3 some "
    "jobs did not succeed, 4 the API key is not in force or not for this, 5 not found, 124 wait "
    "timed out, 130 interrupted.",
)


@app.callback()
def _twofold() -> None:
    """Make pictures twice as large, many at a time."""
    # `twofold --help` needs none of these.
    from twofold_producer.cli import door

    # Nothing keeps a log that goes over HTTP, and it starts faster without.
    if not door.goes_over_http():
        _keep_log()


def _keep_log() -> None:
    """Keep data alone on standard output: a log that nobody configured is written there.

    Commands that serve write theirs in full, and configure it again.
    """
    from twofold_schema import log
    from twofold_schema.settings import LogSettings

    try:
        settings = LogSettings.load()
    except ConfigError:
        # The command says so, if it needs settings at all, or lists all that is wrong.
        settings = LogSettings()
    if "log_level" not in settings.model_fields_set:
        settings = settings.model_copy(update={"log_level": "warning"})
    log.configure(settings)


def login_name() -> str:
    """Who runs this command, as the audit shall name him unless he says otherwise."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # As in a container, whose user has a number only.
        return f"uid {os.getuid()}"


WhoOption = Annotated[
    str, typer.Option(default_factory=login_name, help="Who asks; the login name unless stated.")
]
AskerOption = Annotated[
    str | None,
    typer.Option(
        "--who", help="Who asks; the login name unless stated. Over HTTP the API key says it."
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def agree(question: str, *, yes: bool) -> None:
    """Ask whoever sits at the terminal; without a yes the command ends.

    Args:
        question: With what will happen.
        yes: It was said beforehand.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{question} Nobody can be asked here: say --yes.")
    typer.confirm(question, abort=True, err=True)


def printable(text: str) -> str:
    r"""Text that moves no cursor and colours nothing, whoever wrote it: controls as `\x1b`."""
    return text.translate(_CONTROLS)


def cell(text: str, style: str = "") -> Text:
    """Text of a table, or of a line, in which nothing is markup or a terminal's command."""
    return Text(printable(text), style)


def given(context: typer.Context) -> set[str]:
    """The parameters that the command line states, by their names in Python."""
    origins = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, origin in origins.items() if origin and origin.name == "COMMANDLINE"}


def say_more(context: typer.Context, last: UUID) -> None:
    """Say how to see the next page: the same command, from the last id of this one."""
    words, stated = context.command_path.split(), given(context) - {"before"}
    for parameter in context.command.params:
        if parameter.name not in stated:
            continue
        # An argument has none.
        option = [name for name in parameter.opts if name.startswith("--")][:1]
        value = context.params[parameter.name]
        for one in value if isinstance(value, list) else [value]:
            words += option if one is True else [*option, str(one)]
    words += ["--before", str(last)]
    err.print(f"More: {shlex.join(words)}", style="dim", markup=False, soft_wrap=True)


def pairs(stated: Sequence[str]) -> dict[str, str]:
    """Metadata as it is given on a command line, `NAME=VALUE` each."""
    split = [one.partition("=") for one in stated]
    for said, (name, found, _) in zip(stated, split, strict=True):
        if not (name and found):
            raise typer.BadParameter(f"{said!r} is no pair; write NAME=VALUE")
    return {name: value for name, _, value in split}
