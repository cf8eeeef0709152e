"""What the commands share: where they print, and what their exit codes mean."""

import sys

import typer
from rich.console import Console

from twofold_schema.errors import (
    ConfigError,
    JobNotFound,
    SubmissionNotFound,
    SubmitError,
    WaitTimeout,
)

#: Something that was to be submitted was not accepted.
EXIT_NOT_ACCEPTED = 2
#: Some of the jobs that were waited for did not succeed.
EXIT_JOBS_FAILED = 3
EXIT_INTERRUPTED = 130
#: By kind of error; 1 for every other one.
EXIT_CODES = (
    (ConfigError, 2),
    (SubmitError, EXIT_NOT_ACCEPTED),
    (JobNotFound, 5),
    (SubmissionNotFound, 5),
    (WaitTimeout, 124),
)

# Whoever reads a pipe or a file wants whole lines.
_UNFOLDED = None if sys.stdout.isatty() else 10_000

out = Console(highlight=False, width=_UNFOLDED)
err = Console(stderr=True, highlight=False)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make pictures twice as large, many at a time.",
    epilog="Exit codes: 0 well, 1 error, 2 usage, setting, or something was not accepted, 3 some "
    "jobs did not succeed, 5 not found, 124 wait timed out, 130 interrupted.",
)
