"""What commands there are, and where; each is imported when it is run or asked for its help.

So `twofold --help` imports none of them, and who goes over HTTP no database's driver.
"""

from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


class Late(TyperCommand):
    """A command of which only name and help are known before it is imported.

    Args:
        name: On the command line.
        place: The module in this package, and the function there, or the `typer.Typer` of a group.
        words: The first paragraph of its help.
    """

    def __init__(self, name: str, place: str, words: str) -> None:
        super().__init__(name, help=words)
        self._place = place

    def loaded(self) -> Any:  # noqa: ANN401 - typer keeps the class of its commands to itself
        """The command itself."""
        module, _, name = self._place.partition(":")
        found = getattr(import_module(f"{__package__}.{module}"), name)
        if isinstance(found, typer.Typer):
            return get_command(found)
        alone = typer.Typer(add_completion=False)
        alone.command(self.name)(found)
        return get_command(alone)

    def make_context(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - passed on
        """A context of the command itself, which is what is run, or completed, from here on."""
        return self.loaded().make_context(*arguments, **options)


class Every(TyperGroup):
    """All commands."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - passed on
        super().__init__(**options)
        for name, place, words in _TABLE:
            self.add_command(Late(name, place, words))


_TABLE: Final = (
    (
        "submit",
        "submit:submit",
        "Submit pictures; print the jobs, or with --wait the places of their results.",
    ),
    ("jobs", "course:app", "Look at jobs and change their course."),
    ("submissions", "submissions:app", "Look at what was submitted together."),
    ("operations", "operations:app", "What was asked for by filter, and by whom."),
    (
        "pause",
        "pauses:pause",
        "Let no worker take more of a tenant's jobs, of a class's, of both, or any at all.",
    ),
    (
        "resume",
        "pauses:resume",
        "End the pause of exactly this scope; ends with 5 if there is none.",
    ),
    ("pauses", "pauses:pauses", "List what is paused, longest first."),
    ("tenants", "tenants:app", "What tenants are due, may do, and have."),
    ("keys", "keys:app", "API keys: who may ask over HTTP."),
    ("webhooks", "webhooks:app", "Who is told what happened, and what arrives."),
    (
        "keeper",
        "serve:keeper",
        "Promote, expire, rescue, ring, operate, add up, publish, collect, tell, until SIGTERM.",
    ),
    ("api", "serve:api", "Serve the HTTP API until SIGTERM. Run one or more."),
    (
        "worker",
        "serve:worker_app",
        "Run GPU worker processes until SIGTERM. `twofold worker --help` has its options.",
    ),
    (
        "doctor",
        "doctor:doctor",
        "Look at settings, servers, storage, model and device; say how to mend what is not well.",
    ),
    (
        "collect",
        "collect:collect",
        "Delete results that no row names, and list them. The keeper does the same by itself.",
    ),
    ("db", "check:app", "The job table."),
    ("config", "config:app", "The settings."),
    (
        "dev",
        "local:dev",
        "Run everything on this machine until Ctrl-C: no Docker, GPU or cloud account.",
    ),
    (
        "demo",
        "local:demo",
        "Start everything, upscale pictures, show before and after, end everything.",
    ),
)
