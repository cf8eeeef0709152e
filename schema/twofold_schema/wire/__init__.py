"""What goes over HTTP: the bodies of requests and answers, for the service and its clients.

Names are the ledger's. Times are RFC 3339, with the database's clock.
"""

from twofold_schema.wire.base import Reason, Uri
from twofold_schema.wire.events import EventReport
from twofold_schema.wire.fleet import Autoscale, WorkerReport
from twofold_schema.wire.jobs import (
    Attempt,
    Cancelled,
    JobBody,
    JobPage,
    JobReport,
    ResultLink,
    Retry,
)
from twofold_schema.wire.keys import KeyReport
from twofold_schema.wire.operations import OperationBody, OperationReport
from twofold_schema.wire.problems import Problem
from twofold_schema.wire.queues import PauseBody, PauseReport, QueueReport, ResumeBody, Resumed
from twofold_schema.wire.submissions import MOST_ITEMS, Fault, SubmissionStatus, Submit, Submitted
from twofold_schema.wire.uploads import UploadBody, UploadLink

__all__ = [
    "MOST_ITEMS",
    "Attempt",
    "Autoscale",
    "Cancelled",
    "EventReport",
    "Fault",
    "JobBody",
    "JobPage",
    "JobReport",
    "KeyReport",
    "OperationBody",
    "OperationReport",
    "PauseBody",
    "PauseReport",
    "Problem",
    "QueueReport",
    "Reason",
    "ResultLink",
    "ResumeBody",
    "Resumed",
    "Retry",
    "SubmissionStatus",
    "Submit",
    "Submitted",
    "UploadBody",
    "UploadLink",
    "Uri",
    "WorkerReport",
]
