"""Everything that can go wrong, by name.

    TwofoldError
    ├─ ConfigError               the process stops at start
    ├─ LedgerError               the caller of the ledger is told at once
    │   ├─ JobNotFound, SubmissionNotFound, OperationNotFound, ApiKeyNotFound
    │   ├─ InvalidApiKey           unknown, revoked or expired: the log says which
    │   ├─ WebhookNotFound, DeliveryNotFound
    │   ├─ JobNotRetryable
    │   ├─ InvalidOperation, InvalidWebhook
    │   ├─ InvalidPosition
    │   └─ RunLost               this run may touch nothing any more
    ├─ AddressRefused            nothing was sent
    ├─ DatabaseUnavailable       nothing was done
    ├─ ApiUnreachable            nobody knows whether it was done
    ├─ WaitTimeout               the work goes on
    ├─ RequestError              what came over HTTP was refused; nothing was done
    │   ├─ BadRequest, InvalidRequest, NotFound, MethodNotAllowed, BodyTooLarge
    │   ├─ ScopeMissing, RateLimited, ApiBusy
    │   ├─ IdempotencyKeyMissing, RequestInProgress
    │   ├─ ResultNotReady
    │   └─ ApiFailed
    ├─ SubmitError               the job was not accepted; nothing was written
    │   ├─ InvalidUri, InvalidParameter, SourceUnreadable
    │   ├─ PlaceNotAllowed, TooLarge, InvalidLatents  (also a job's error, found by the worker)
    │   ├─ KeyReused, SubmissionSealed
    │   ├─ QueueFull               it may be accepted later
    │   └─ UnsupportedSession
    └─ JobError                  the outcome of an attempt, written to the job
        ├─ SourceNotFound, SourceDenied, SourceTooLarge, SourceChanged
        ├─ UnsupportedFormat, CorruptSource, SizeMismatch, Mismeasured
        ├─ StorageUnavailable
        │   └─ CredentialsRefused    this process's, whatever the job
        ├─ ResultDenied, ResultConflict
        ├─ OutOfMemory, ModelOutputInvalid, UpscaleFailed
        ├─ TooLargeForFleet     the keeper's, of a job that no pool can take
        └─ WorkerCrashed, RunDeadlineExceeded

A class's `code` is stable and is what programs compare; its docstring is the default message and
says what to do. `retryable` says whether another attempt could end differently.
"""

from typing import ClassVar


class TwofoldError(Exception):
    """Something went wrong in Twofold."""

    code: ClassVar[str] = "twofold_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))
        #: What else is said of it, as members of a problem.
        self.members: dict[str, object] = {}

    @property
    def message(self) -> str:
        """One sentence or two for a person."""
        return str(self)


class ConfigError(TwofoldError):
    """A setting is wrong; mend it and start again."""

    code = "invalid_setting"


class LedgerError(TwofoldError):
    """The ledger refused a call."""

    code = "ledger_error"


class JobNotFound(LedgerError):
    """No job has this id; check the id and the database it was submitted to."""

    code = "job_not_found"


class SubmissionNotFound(LedgerError):
    """No submission has this id; check the id and the database it was submitted to."""

    code = "submission_not_found"


class OperationNotFound(LedgerError):
    """No operation has this id; check the id and the database it was asked of."""

    code = "operation_not_found"


class ApiKeyNotFound(LedgerError):
    """No API key has this id; `twofold keys list` shows those there are."""

    code = "api_key_not_found"


class InvalidApiKey(LedgerError):
    """This is no API key that is in force; ask the operator for a new one."""

    code = "invalid_api_key"


class WebhookNotFound(LedgerError):
    """No webhook endpoint has this id; check the id and the database it was made in."""

    code = "webhook_not_found"


class DeliveryNotFound(LedgerError):
    """No delivery has this id, or it was forgotten after TWOFOLD_WEBHOOK_DAYS; check the id."""

    code = "delivery_not_found"


class JobNotRetryable(LedgerError):
    """Only a failed or expired job can be retried; submit a cancelled or finished one anew."""

    code = "job_not_retryable"


class InvalidOperation(LedgerError):
    """This cannot be carried out as it was asked for; mend what the message names."""

    code = "invalid_operation"


class InvalidWebhook(LedgerError):
    """This can be no webhook endpoint; mend what the message names."""

    code = "invalid_webhook"


class InvalidPosition(LedgerError):
    """This names no place in the stream of events; pass one that an event gave, or begin anew."""

    code = "invalid_position"


class RunLost(LedgerError):
    """This run's lease is gone and its jobs were given to others; start a new run."""

    code = "run_lost"


class AddressRefused(TwofoldError):
    """The receiver's address is not public; use another, or allow it by TWOFOLD_WEBHOOK_ALLOW."""

    code = "address_refused"


class DatabaseUnavailable(TwofoldError):
    """Postgres does not answer; check that it runs and that TWOFOLD_DATABASE_URL leads to it."""

    code = "database_unavailable"
    retryable = True


class ApiUnreachable(TwofoldError):
    """The API does not answer; check that it runs and that TWOFOLD_URL leads to it."""

    code = "api_unreachable"
    retryable = True


class WaitTimeout(TwofoldError, TimeoutError):
    """The wait ended before the work did; the jobs go on, wait for them again."""

    code = "wait_timeout"


class RequestError(TwofoldError):
    """What was sent over HTTP was refused before anything was done."""

    code = "request_refused"


class BadRequest(RequestError):
    """This is no request that can be read; mend what the message names."""

    code = "bad_request"


class InvalidRequest(RequestError):
    """A part of the request is missing or out of its range; mend what the message names."""

    code = "invalid_request"


class NotFound(RequestError):
    """Nothing is at this path; docs/openapi.json lists what there is."""

    code = "not_found"


class MethodNotAllowed(RequestError):
    """This path takes other methods; the header Allow names them."""

    code = "method_not_allowed"


class ScopeMissing(RequestError):
    """This key is not for this; use one that is, or ask the operator for it."""

    code = "scope_missing"


class IdempotencyKeyMissing(RequestError):
    """Send an Idempotency-Key: a text of yours, drawn once and sent again with every retry."""

    code = "idempotency_key_missing"


class RequestInProgress(RequestError):
    """Another request with this Idempotency-Key has not ended; send this one again later."""

    code = "request_in_progress"
    retryable = True


class BodyTooLarge(RequestError):
    """The body is larger than is taken; send less at once, or JSON lines."""

    code = "body_too_large"


class RateLimited(RequestError):
    """The tenant makes more requests than it may; wait as long as Retry-After says."""

    code = "rate_limited"
    retryable = True

    def __init__(self, message: str | None = None, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ApiBusy(RequestError):
    """As many submissions are read as can be, or of one tenant; send this one again later."""

    code = "api_busy"
    retryable = True
    retry_after: ClassVar[int] = 10


class ResultNotReady(RequestError):
    """The job has no result; one has when it has succeeded."""

    code = "result_not_ready"


class ApiFailed(RequestError):
    """The API failed in an unforeseen way; its log has the rest, by the request's id."""

    code = "api_failed"
    retryable = True


class SubmitError(TwofoldError):
    """The job was not accepted; nothing was written."""

    code = "not_accepted"


class InvalidUri(SubmitError):
    """A place must be `s3://bucket/key` or `file:///path`, without `..`, query or fragment."""

    code = "invalid_uri"


class InvalidParameter(SubmitError):
    """A parameter of the job is out of its range."""

    code = "invalid_parameter"


class SourceUnreadable(SubmitError):
    """The given source cannot be read here; check the path, and that it is a picture or latents."""

    code = "source_unreadable"


class KeyReused(SubmitError):
    """This key belongs to a job with another payload; use a new key for a new job."""

    code = "key_reused"


class SubmissionSealed(SubmitError):
    """This submission takes no more jobs; submit them under another key, or under none."""

    code = "submission_sealed"


class QueueFull(SubmitError):
    """The tenant has as many jobs waiting as it may; submit again when some of them have begun."""

    code = "queue_full"
    retryable = True


class UnsupportedSession(SubmitError):
    """Pass a synchronous SQLAlchemy Session whose engine is `postgresql+psycopg` (psycopg 3)."""

    code = "unsupported_session"


class JobError(TwofoldError):
    """The attempt ended in an error."""

    code = "job_error"


class PlaceNotAllowed(SubmitError, JobError):
    """This place is not open to Twofold, or not to this tenant; use another, or have it opened."""

    code = "place_not_allowed"


class TooLarge(SubmitError, JobError):
    """The picture has more pixels than TWOFOLD_MAX_PIXELS or a side over TWOFOLD_MAX_SIDE."""

    code = "too_large"


class InvalidLatents(SubmitError, JobError):
    """Latents are finite floats, [4, h, w] or [1, 4, h, w]; store what Stable Diffusion returns."""

    code = "invalid_latents"


class SourceNotFound(JobError):
    """The source does not exist; upload it, then retry the job."""

    code = "source_not_found"


class SourceDenied(JobError):
    """The worker may not read the source; grant it read access, then retry the job."""

    code = "source_denied"


class SourceTooLarge(JobError):
    """The source has more bytes than TWOFOLD_MAX_SOURCE_BYTES; store it smaller."""

    code = "source_too_large"


class SourceChanged(JobError):
    """The source was overwritten after it was first read; retry the job to take it as it is now."""

    code = "source_changed"


class UnsupportedFormat(JobError):
    """The source is no still PNG, JPEG or WebP and no safetensors or .npy latents; convert it."""

    code = "unsupported_format"


class CorruptSource(JobError):
    """The source is damaged or cut short; upload it again, then retry the job."""

    code = "corrupt_source"


class SizeMismatch(JobError):
    """The source is not of the size stated at submit; state the right size or none."""

    code = "size_mismatch"


class Mismeasured(JobError):
    """The source is of another size than its header said; it is measured anew."""

    code = "mismeasured"
    retryable = True


class StorageUnavailable(JobError):
    """Object storage did not answer; the job is tried again."""

    code = "storage_unavailable"
    retryable = True


class CredentialsRefused(StorageUnavailable):
    """Storage knows nobody by this process's credentials; set or renew them."""

    code = "credentials_refused"


class ResultDenied(JobError):
    """The worker may not write the result; grant write access to the results' place, then retry."""

    code = "result_denied"


class ResultConflict(JobError):
    """Another object lies where this result belongs; the job is tried again under a new name."""

    code = "result_conflict"
    retryable = True


class OutOfMemory(JobError):
    """The picture did not fit the device's memory even alone; the job is tried again."""

    code = "out_of_memory"
    retryable = True


class TooLargeForFleet(JobError):
    """The picture fits no pool in TWOFOLD_POOLS; submit a smaller one, or add a pool and retry."""

    code = "too_large_for_fleet"


class ModelOutputInvalid(JobError):
    """The model made values that are not numbers, twice; try another seed or picture."""

    code = "model_output_invalid"


class UpscaleFailed(JobError):
    """The worker failed in an unforeseen way; its log has the traceback. The job is tried again."""

    code = "upscale_failed"
    retryable = True


class WorkerCrashed(JobError):
    """Workers died while this job was the only one at work; look at the picture, then retry."""

    code = "worker_crashed"


class RunDeadlineExceeded(JobError):
    """The job was held longer than TWOFOLD_RUN_DEADLINE_SECONDS; it is tried again."""

    code = "run_deadline_exceeded"
    retryable = True


def every_error() -> list[type[TwofoldError]]:
    """All error classes of the tree, parents before children."""
    found: list[type[TwofoldError]] = []
    waiting: list[type[TwofoldError]] = [TwofoldError]
    while waiting:
        error = waiting.pop(0)
        if error not in found:
            found.append(error)
            waiting.extend(error.__subclasses__())
    return found
