"""The asking side: submit jobs, follow them, keep the ledger moving."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twofold_producer.producer import Producer
    from twofold_producer.submit.request import JobRequest, Source
    from twofold_producer.submit.submission import Answer, Outcome, Submission
    from twofold_schema.formats import ResultFormat
    from twofold_schema.job import Job, Parameters, Result
    from twofold_schema.ledger.new_jobs import Accepted
    from twofold_schema.operation import JobFilter, Operation, OperationKind
    from twofold_schema.states import JobClass, JobState
    from twofold_schema.submission import SubmissionReport

__all__ = [
    "Accepted",
    "Answer",
    "Job",
    "JobClass",
    "JobFilter",
    "JobRequest",
    "JobState",
    "Operation",
    "OperationKind",
    "Outcome",
    "Parameters",
    "Producer",
    "Result",
    "ResultFormat",
    "Source",
    "Submission",
    "SubmissionReport",
]

_HOMES = {
    "twofold_producer.producer": {"Producer"},
    "twofold_producer.submit.request": {"JobRequest", "Source"},
    "twofold_producer.submit.submission": {"Answer", "Outcome", "Submission"},
    "twofold_schema.formats": {"ResultFormat"},
    "twofold_schema.job": {"Job", "Parameters", "Result"},
    "twofold_schema.operation": {"JobFilter", "Operation", "OperationKind"},
    "twofold_schema.states": {"JobClass", "JobState"},
    "twofold_schema.ledger.new_jobs": {"Accepted"},
    "twofold_schema.submission": {"SubmissionReport"},
}


def __getattr__(name: str) -> object:
    # Lazy (PEP 562): who needs one part of this package, a server's launcher for instance, must
    # not pay for, or even have, what the others import.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
