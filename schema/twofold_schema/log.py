"""Logs: a constant event and ids, one line each, on standard error."""

import logging
import sys

import structlog

from twofold_schema.settings import LogSettings

#: Who writes: in every record of this process, whatever the thread.
_process: dict[str, str] = {}


def identify(**ids: str) -> None:
    """Name this process in every record from now on."""
    _process.update(ids)


def _add_process(
    _logger: object, _method: str, record: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {**_process, **record}


def configure(settings: LogSettings) -> None:
    """Send structlog's and the standard library's records to standard error, in one format."""
    text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_process,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.log_level.upper()]
        ),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(
                    [
                        structlog.dev.ConsoleRenderer(
                            colors=sys.stderr.isatty(),
                            # The pretty one takes seconds for a long message, under the GIL.
                            exception_formatter=structlog.dev.plain_traceback,
                        )
                    ]
                    if text
                    else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
                ),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    # What the loop over a lost connection repeats is said once by whoever waits for it.
    for chatty in ("botocore", "boto3", "urllib3", "alembic"):
        logging.getLogger(chatty).setLevel("WARNING")
