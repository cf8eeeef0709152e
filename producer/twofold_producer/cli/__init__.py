"""The command `twofold`. Data goes to standard output, everything else to standard error."""

import sys
from typing import NoReturn

from twofold_producer.cli.app import EXIT_CODES, app, err
from twofold_schema.errors import TwofoldError

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line; errors become one line and an exit code."""
    try:
        app(prog_name="twofold")
    except TwofoldError as error:
        _end(error)
    except Exception as error:
        lost = _lost_database(error)
        if lost is None:
            raise
        _end(lost)
    sys.exit(0)


def _lost_database(error: Exception) -> TwofoldError | None:
    """What is said of a database that is away; None where it is something else."""
    # A driver that nobody imported before raised nothing, and costs only who has failed.
    from sqlalchemy.exc import DBAPIError

    from twofold_schema.database import is_transient
    from twofold_schema.errors import DatabaseUnavailable

    if isinstance(error, DBAPIError) and is_transient(error):
        return DatabaseUnavailable(f"{DatabaseUnavailable().message} ({error.orig})")
    return None


def _end(error: TwofoldError) -> NoReturn:
    err.print(f"[bold red]twofold:[/] {error.code}:", end=" ")
    err.print(error.message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(next((status for kind, status in EXIT_CODES if isinstance(error, kind)), 1))
