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
        mendable = _of_database(error)
        if mendable is None:
            raise
        _end(mendable)
    sys.exit(0)


def _of_database(error: Exception) -> TwofoldError | None:
    """What is said of a database that is away, or not made for this; None for all else."""
    # A driver that nobody imported before raised nothing, and costs only who has failed.
    import psycopg
    from sqlalchemy.exc import DBAPIError

    from twofold_producer.doctor.database import MIGRATE, NOT_THIS_SCHEMA
    from twofold_schema.database import is_transient
    from twofold_schema.errors import ConfigError, DatabaseUnavailable

    if not isinstance(error, DBAPIError):
        return None
    if is_transient(error):
        return DatabaseUnavailable(f"{DatabaseUnavailable().message} ({error.orig})")
    state = getattr(error.orig, "sqlstate", None)
    reason = str(error.orig).partition("\n")[0]
    if state in NOT_THIS_SCHEMA:
        return ConfigError(f"The database is not of this schema: {reason}. {MIGRATE}")
    if state == psycopg.errors.InsufficientPrivilege.sqlstate:
        return ConfigError(
            f"The role in TWOFOLD_DATABASE_URL may not do this: {reason}. "
            "`twofold doctor --only database` says what to grant."
        )
    return None


def _end(error: TwofoldError) -> NoReturn:
    err.print(f"[bold red]twofold:[/] {error.code}:", end=" ")
    err.print(error.message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(next((status for kind, status in EXIT_CODES if isinstance(error, kind)), 1))
