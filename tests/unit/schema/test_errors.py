"""The errors: their codes are what programs compare, so none of them may ever change."""

import re

import pytest

from twofold_schema import errors
from twofold_schema.errors import JobError, SubmitError, TwofoldError, every_error

ALL = [error for error in every_error() if error.__module__ == errors.__name__]

CODES = {
    "TwofoldError": "twofold_error",
    "ConfigError": "invalid_setting",
    "LedgerError": "ledger_error",
    "JobNotFound": "job_not_found",
    "SubmissionNotFound": "submission_not_found",
    "OperationNotFound": "operation_not_found",
    "ApiKeyNotFound": "api_key_not_found",
    "InvalidApiKey": "invalid_api_key",
    "WebhookNotFound": "webhook_not_found",
    "DeliveryNotFound": "delivery_not_found",
    "JobNotRetryable": "job_not_retryable",
    "InvalidOperation": "invalid_operation",
    "InvalidWebhook": "invalid_webhook",
    "InvalidPosition": "invalid_position",
    "RunLost": "run_lost",
    "AddressRefused": "address_refused",
    "DatabaseUnavailable": "database_unavailable",
    "ApiUnreachable": "api_unreachable",
    "WaitTimeout": "wait_timeout",
    "RequestError": "request_refused",
    "BadRequest": "bad_request",
    "InvalidRequest": "invalid_request",
    "NotFound": "not_found",
    "MethodNotAllowed": "method_not_allowed",
    "ScopeMissing": "scope_missing",
    "IdempotencyKeyMissing": "idempotency_key_missing",
    "RequestInProgress": "request_in_progress",
    "BodyTooLarge": "body_too_large",
    "RateLimited": "rate_limited",
    "ApiBusy": "api_busy",
    "ResultNotReady": "result_not_ready",
    "ApiFailed": "api_failed",
    "SubmitError": "not_accepted",
    "InvalidUri": "invalid_uri",
    "PlaceNotAllowed": "place_not_allowed",
    "InvalidParameter": "invalid_parameter",
    "SourceUnreadable": "source_unreadable",
    "KeyReused": "key_reused",
    "SubmissionSealed": "submission_sealed",
    "QueueFull": "queue_full",
    "UnsupportedSession": "unsupported_session",
    "JobError": "job_error",
    "TooLarge": "too_large",
    "InvalidLatents": "invalid_latents",
    "SourceNotFound": "source_not_found",
    "SourceDenied": "source_denied",
    "SourceTooLarge": "source_too_large",
    "SourceChanged": "source_changed",
    "UnsupportedFormat": "unsupported_format",
    "CorruptSource": "corrupt_source",
    "SizeMismatch": "size_mismatch",
    "Mismeasured": "mismeasured",
    "StorageUnavailable": "storage_unavailable",
    "CredentialsRefused": "credentials_refused",
    "ResultDenied": "result_denied",
    "ResultConflict": "result_conflict",
    "OutOfMemory": "out_of_memory",
    "ModelOutputInvalid": "model_output_invalid",
    "TooLargeForFleet": "too_large_for_fleet",
    "UpscaleFailed": "upscale_failed",
    "WorkerCrashed": "worker_crashed",
    "RunDeadlineExceeded": "run_deadline_exceeded",
}
RETRYABLE = {
    "api_busy",
    "api_failed",
    "api_unreachable",
    "rate_limited",
    "request_in_progress",
    "queue_full",
    "database_unavailable",
    "mismeasured",
    "storage_unavailable",
    "credentials_refused",
    "result_conflict",
    "out_of_memory",
    "upscale_failed",
    "run_deadline_exceeded",
}


def drawn() -> dict[str, str]:
    """Each class in the module docstring's tree, and the one that it hangs on."""
    parents: dict[str, str] = {}
    branch = ["TwofoldError"]
    for line in (errors.__doc__ or "").splitlines():
        if fork := re.search(r"[├└]─ ", line):
            depth = (fork.start() - 4) // 4 + 1
            names = re.split(r"\s{2,}|\s\(", line[fork.end() :])[0].split(", ")
            parents |= dict.fromkeys(names, branch[depth - 1])
            branch[depth:] = [names[-1]]
    return parents


def test_the_codes_are_these_for_ever() -> None:
    assert {error.__name__: error.code for error in ALL} == CODES


def test_no_two_errors_share_a_code() -> None:
    assert len({error.code for error in ALL}) == len(ALL)


def test_only_these_may_end_differently_at_another_attempt() -> None:
    assert {error.code for error in ALL if error.retryable} == RETRYABLE


def test_the_tree_in_the_module_docstring_is_the_tree_of_classes() -> None:
    assert drawn() == {
        error.__name__: error.__bases__[0].__name__ for error in ALL if error is not TwofoldError
    }


def test_what_is_found_at_submit_or_by_the_worker_is_an_error_of_both() -> None:
    both = {error for error in ALL if {SubmitError, JobError} < set(error.__mro__)}

    assert both == {errors.PlaceNotAllowed, errors.TooLarge, errors.InvalidLatents}


def test_a_wait_that_ended_is_a_timeout_to_everybody() -> None:
    assert issubclass(errors.WaitTimeout, TimeoutError)


@pytest.mark.parametrize("error", ALL)
class TestEveryError:
    def test_has_a_code_of_its_own_in_snake_case(self, error: type[TwofoldError]) -> None:
        assert "code" in vars(error)
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", error.code)

    def test_says_a_sentence_when_nothing_else_is_said(self, error: type[TwofoldError]) -> None:
        message = error().message

        assert re.fullmatch(r"[A-Z][^\n]+\.", message)
        assert "  " not in message

    def test_says_what_it_is_given(self, error: type[TwofoldError]) -> None:
        assert error("The cat is gone.").message == "The cat is gone."
