"""Which way the commands go: to the job table itself, or over HTTP with an API key alone.

The job table is asked where TWOFOLD_DATABASE_URL is set, the API where only TWOFOLD_URL is. Both
doors look the same to the commands and answer in the words of `wire`.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol
from uuid import UUID

from twofold_producer.progress import OnProgress
from twofold_producer.submit.submission import OnAnswers, Submission
from twofold_schema.environment import FILE, process_environment
from twofold_schema.errors import ConfigError
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.settings import DatabaseSettings
from twofold_schema.states import JobClass, JobState
from twofold_schema.wire import JobReport, OperationReport, PauseReport, SubmissionStatus

_DATABASE, _API = "TWOFOLD_DATABASE_URL", "TWOFOLD_URL"


class Door(Protocol):
    """What the commands ask for.

    Either raises the same errors by the same codes. `tenant` and `who` may be stated only where no
    API key says them.

    Attributes:
        everything: What a pause concerns that names neither tenant nor class, in words.
    """

    everything: str

    def submit(
        self,
        sources: Sequence[str],
        asked: Mapping[str, Any],
        *,
        tenant: str | None,
        key: str | None,
    ) -> Submission:
        """Submit URIs and local files, with the same other fields of a request.

        Raises:
            TwofoldError: There is one source only, and it was not accepted.
        """

    def submit_manifest(
        self, place: str, *, tenant: str | None, key: str | None, on_answers: OnAnswers
    ) -> Submission:
        """Submit the lines of a local file, or of one in storage."""

    def find(
        self,
        *,
        tenant: str | None,
        states: Sequence[JobState],
        submission: UUID | None,
        metadata: Mapping[str, str],
        before: UUID | None,
        limit: int,
    ) -> Sequence[JobReport]:
        """A page of jobs, newest first."""

    def get(self, job_ids: Sequence[UUID]) -> Sequence[JobReport]:
        """Jobs as they are now, in the order of their ids.

        Raises:
            JobNotFound: One of the ids is unknown.
        """

    def wait(
        self, job_ids: Sequence[UUID], *, timeout: float | None, on_progress: OnProgress
    ) -> Sequence[JobReport]:
        """Jobs once all of them have ended.

        Raises:
            JobNotFound: One of the ids is unknown.
            WaitTimeout: Time is over; the work goes on.
        """

    def cancel(self, job_ids: Sequence[UUID]) -> Mapping[UUID, str]:
        """Call jobs off; says what came of each."""

    def retry(self, job_ids: Sequence[UUID]) -> Iterable[UUID]:
        """Give jobs a new generation; the ids of those that have one, as they get it."""

    def submission(self, submission_id: UUID) -> SubmissionStatus:
        """How far a submission is."""

    def count(self, kind: OperationKind, where: JobFilter) -> Mapping[str, int]:
        """How many jobs such an operation would concern, by what would come of them."""

    def operate(
        self,
        kind: OperationKind,
        where: JobFilter,
        *,
        reason: str,
        who: str | None,
        expected: int,
    ) -> OperationReport:
        """Have the keeper cancel or retry all jobs that match."""

    def operations(
        self,
        *,
        kinds: Sequence[OperationKind],
        unfinished: bool,
        before: UUID | None,
        limit: int,
    ) -> Sequence[OperationReport]:
        """A page of operations, newest first."""

    def operation(self, operation_id: UUID) -> OperationReport:
        """How far an operation is."""

    def stop(self, operation_id: UUID, *, who: str | None) -> OperationReport:
        """End an operation before it is done."""

    def pause(
        self, *, tenant: str | None, job_class: JobClass | None, reason: str, who: str | None
    ) -> None:
        """Let no more be claimed of a scope."""

    def resume(
        self, *, tenant: str | None, job_class: JobClass | None, reason: str, who: str | None
    ) -> bool:
        """End the pause of exactly this scope; returns whether there was one."""

    def pauses(self) -> Sequence[PauseReport]:
        """What is paused, longest first."""

    def close(self) -> None:
        """Let connections go."""


def opened() -> closing[Door]:
    """The door that the environment leads to, for `with`.

    Raises:
        ConfigError: It leads to none, or a setting is wrong.
    """
    return closing(_chosen())


def goes_over_http() -> bool:
    """Whether the environment names the API and no job table, readable or not."""
    return _names(_API) and not _names(_DATABASE)


def _names(variable: str) -> bool:
    environment = process_environment()
    return bool(environment.get(variable)) or variable + FILE in environment


def _chosen() -> Door:
    if _names(_DATABASE):
        from twofold_producer.cli.ledger_door import LedgerDoor

        return LedgerDoor()
    if goes_over_http():
        # Only who goes over HTTP pays for this import.
        from twofold_producer.cli.http_door import HttpDoor

        return HttpDoor()
    raise ConfigError(
        f"Say where the job table is, {_DATABASE}, or where the API is and who asks, {_API} and "
        "TWOFOLD_API_KEY."
    )


def database_settings() -> DatabaseSettings:
    """Those of the job table, for commands that nobody can ask for over HTTP.

    Raises:
        ConfigError: They are wrong, or there is no job table.
    """
    if goes_over_http():
        raise ConfigError(
            f"This command works on the job table itself, not over HTTP: set {_DATABASE}."
        )
    return DatabaseSettings.load()
