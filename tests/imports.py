"""What a command imports."""

from tests.shell import Shell


def imported(twofold: Shell, *arguments: object) -> set[str]:
    """The modules that a command imports, run in a process that has none of them.

    Args:
        twofold: Runs it, with PYTHONPROFILEIMPORTTIME among its settings.
        arguments: Of the command, which has to end well.
    """
    with twofold.begun(*arguments) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    lines = [line for line in said.splitlines() if line.startswith("import time:")]
    assert lines, "PYTHONPROFILEIMPORTTIME is not set"
    return {line.rpartition("|")[2].strip() for line in lines}
