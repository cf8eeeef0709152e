"""The command line imports what a command needs, when it is run."""

from pathlib import Path

import pytest
from tests.imports import imported
from tests.shell import Shell
from typer.main import get_command

from twofold_producer.cli.app import app
from twofold_producer.cli.commands import Every, Late

#: What only those need who reach the servers themselves.
SERVERS = {"sqlalchemy", "psycopg", "celery", "kombu", "redis", "boto3", "botocore", "PIL"}

NOTED = {"PYTHONPROFILEIMPORTTIME": "1"}


def commands() -> list[Late]:
    group = get_command(app)
    assert isinstance(group, Every)
    found = [command for command in group.commands.values() if isinstance(command, Late)]
    assert len(found) == len(group.commands) > 15
    return found


@pytest.mark.parametrize("command", commands(), ids=lambda command: str(command.name))
def test_each_is_there_and_its_help_is_what_the_overview_says(command: Late) -> None:
    found = command.loaded()
    whole = " ".join((found.help or "").partition("\n\n")[0].split())
    assert whole == command.help


def test_help_imports_no_command(tmp_path: Path) -> None:
    modules = imported(Shell(NOTED, tmp_path), "--help")
    assert "twofold_producer.cli.commands" in modules
    assert modules & (SERVERS | {"httpx2", "pydantic", "twofold_producer.cli.jobs"}) == set()


def test_one_that_needs_the_database_has_its_driver(tmp_path: Path) -> None:
    """That the measure can fail."""
    assert {"sqlalchemy", "psycopg"} <= imported(Shell(NOTED, tmp_path), "collect", "--help")


def test_a_name_that_is_nearly_right_is_guessed(tmp_path: Path) -> None:
    told = Shell({}, tmp_path)("colect")
    assert (told.returncode, "Did you mean 'collect'?" in told.stderr) == (2, True)
