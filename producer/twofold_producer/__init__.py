"""The asking side: submit jobs, follow them, keep the ledger moving."""

from twofold_producer.producer import Producer, Submission
from twofold_producer.request import JobRequest, Source
from twofold_schema.job import Job, JobClass, JobState, Parameters, Result

__all__ = [
    "Job",
    "JobClass",
    "JobRequest",
    "JobState",
    "Parameters",
    "Producer",
    "Result",
    "Source",
    "Submission",
]
