"""`twofold db check`: whether rows, counts and events agree."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Annotated

import typer
from sqlalchemy import Connection, Engine

from twofold_producer.cli import findings as printed
from twofold_producer.cli.app import err
from twofold_producer.cli.door import database_settings
from twofold_producer.cli.findings import EXIT_UNWELL, Form
from twofold_producer.cli.serve import database_app as app
from twofold_schema import database, findings
from twofold_schema.errors import DatabaseUnavailable
from twofold_schema.findings import Finding, Status
from twofold_schema.ledger import audit, sweeps, tallies

_TALLIES = "tallies"
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class _Check:
    """A question to the ledger.

    Attributes:
        well: What is so when no row is found.
        unwell: What is so of the rows found.
    """

    name: str
    ask: Callable[[Connection], audit.Answer]
    well: str
    unwell: str
    mend: str
    found: Callable[[str, str, str], Finding] = findings.failed

    def finding(self, connection: Connection) -> Finding:
        answer = self.ask(connection)
        if not answer.count:
            return findings.ok(self.name, self.well)
        what = f"{answer.count} {self.unwell}: {_listed(answer.examples, answer.count)}."
        return self.found(self.name, what, self.mend)


_CHECKS = (
    _Check(
        "runs",
        audit.running_without_run,
        "Every running job has its run.",
        "running jobs name a run that does not exist",
        "Run a keeper: rescue gives them back.",
    ),
    _Check(
        "submissions",
        audit.submissions_ended_too_soon,
        "Every submission that has ended has ended jobs only.",
        "submissions have ended, but not all of their jobs",
        "Find out who wrote these rows; nothing of Twofold's does.",
    ),
    _Check(
        "keys",
        audit.keys_of_nothing,
        "Every key names a job.",
        "keys name a job that does not exist",
        "They outlived their jobs if these are kept for fewer days than TWOFOLD_KEY_DAYS "
        "(TWOFOLD_JOBS_DAYS, twofold tenants set --jobs-days). Leave them: as long as they are "
        "there, nothing is done twice.",
        findings.warning,
    ),
    _Check(
        "events",
        audit.broken_lives,
        "The events of every job are a chain that ends in its state.",
        "jobs are not as their events tell",
        "Find out who wrote these rows with triggers off.",
    ),
    _Check(
        "transitions",
        audit.forbidden_ways,
        "No job changed its state in a way that is not allowed.",
        "changes of state are not allowed",
        "Find out who wrote these rows; docs/02-job-states.md has the ways that are allowed.",
    ),
    _Check(
        "stream",
        audit.events_from_elsewhere,
        "No event is of another server.",
        "events were restored from another server and hold the stream up",
        "TRUNCATE events; UPDATE rollup_cursor SET xid = 0, position = 0.",
    ),
)
_NAMES = (_TALLIES, *(check.name for check in _CHECKS))
_NAME_WIDTH = max(len(name) for name in _NAMES)


@app.command()
def check(
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Correct the tallies. Nothing else is changed.")
    ] = False,
    output: Annotated[Form, typer.Option("--output", "-o", help="How to print.")] = Form.TEXT,
) -> None:
    """Recount the jobs, and look for rows that do not agree with each other.

    Reads every job, key and event, of one moment, and holds nobody up; vacuum waits until it ends.
    Ends with 0 when nothing failed, with 1 when something did.
    """
    engine = database.connect(database_settings())
    heard = []
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        status = stack.enter_context(err.status(f"looking at {_TALLIES} …", spinner_style="dim"))
        for number, finding in enumerate(_look(engine, repair=repair)):
            heard.append(finding)
            if output is Form.TEXT:
                printed.show(finding, width=_NAME_WIDTH)
            if number + 1 < len(_NAMES):
                status.update(f"looking at {_NAMES[number + 1]} …")
    if output is Form.JSON:
        printed.write_json(heard)
    else:
        printed.sum_up(heard)
    if any(finding.status is Status.FAILED for finding in heard):
        raise typer.Exit(EXIT_UNWELL)


def _look(engine: Engine, *, repair: bool) -> Iterator[Finding]:
    if repair:
        err.print(f"{_correct(engine)} tallies corrected.", style="dim")
    asked = (_compare, *(check.finding for check in _CHECKS))
    of_one_moment = engine.execution_options(isolation_level="REPEATABLE READ")
    with of_one_moment.begin() as connection:
        audit.allow_time(connection)
        for ask in asked:
            before = time.monotonic()
            finding = ask(connection)
            yield replace(finding, seconds=time.monotonic() - before)


def _correct(engine: Engine) -> int:
    with engine.begin() as connection:
        audit.allow_time(connection)
        if not sweeps.try_duty(connection, "correct_tallies"):
            raise DatabaseUnavailable(
                "Another `twofold db check --repair` is at work; wait for its end."
            )
        return tallies.correct(connection)


def _compare(connection: Connection) -> Finding:
    wrong = tallies.differences(connection)
    if not wrong:
        return findings.ok(_TALLIES, "The tallies are what a count says.")
    some = [f"{one.tenant}/{one.job_class}/{one.state} by {_off(one)}" for one in wrong[:_SHOWN]]
    what = f"{len(wrong)} tallies are not what a count says: {_listed(some, len(wrong))}."
    return findings.failed(_TALLIES, what, "Run `twofold db check --repair`.")


def _off(one: tallies.Tally) -> str:
    if one.jobs:
        return f"{one.jobs:+} jobs"
    return f"{one.gpu_seconds:+g} GPU-seconds, {one.unmeasured:+} unmeasured"


def _listed(some: Sequence[str], count: int) -> str:
    return ", ".join(some) + (", …" if count > len(some) else "")
