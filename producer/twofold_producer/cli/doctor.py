"""`twofold doctor`: look at everything that Twofold needs here."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from twofold_producer.cli import findings
from twofold_producer.cli.app import out
from twofold_producer.cli.door import goes_over_http
from twofold_producer.cli.findings import EXIT_UNWELL, Form
from twofold_producer.doctor.checks import OVER_HTTP, CheckName, examine
from twofold_schema.effective import Effective
from twofold_schema.environment import process_environment
from twofold_schema.findings import Finding, Status
from twofold_schema.settings import ClientSettings

_NAME_WIDTH = max(len(name) for name in CheckName)


def doctor(
    *,
    only: Annotated[
        list[CheckName] | None,
        typer.Option(help="Run just this check; may be repeated. What it skips is a failure then."),
    ] = None,
    output: Annotated[Form, typer.Option("--output", "-o", help="How to print.")] = Form.TEXT,
) -> None:
    """Look at settings, servers, storage, model and device; say how to mend what is not well.

    Where only TWOFOLD_URL is set, at what goes over HTTP: the service and the API key.

    Ends with 0 when nothing failed, with 1 when something did. As a container's health check:
    twofold doctor --only worker
    """
    asked = frozenset(only or ())
    environment = process_environment()
    if asked <= OVER_HTTP and goes_over_http():
        found = examine(Effective.of(environment, (ClientSettings,)), only=asked or OVER_HTTP)
    else:
        found = examine(Effective.of(environment), only=asked)
    if output is Form.JSON:
        heard = list(found)
        findings.write_json(heard)
    else:
        heard = list(_told(found))
        findings.sum_up(heard)
    if any(finding.status is Status.FAILED for finding in heard):
        raise typer.Exit(EXIT_UNWELL)


def _told(found: Iterable[Finding]) -> Iterator[Finding]:
    with _waiting():
        for finding in found:
            findings.show(finding, width=_NAME_WIDTH)
            yield finding


def _waiting() -> contextlib.AbstractContextManager[object]:
    if not out.is_terminal:
        return contextlib.nullcontext()
    return out.status("looking …", spinner_style="dim")
