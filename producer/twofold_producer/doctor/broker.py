"""The check of the broker."""

from collections.abc import Iterator

from redis import exceptions as redis

from twofold_producer.broker import ask_folder, ask_redis
from twofold_producer.doctor.configuration import needed
from twofold_schema import findings
from twofold_schema.effective import Effective
from twofold_schema.findings import Finding
from twofold_schema.settings import BrokerSettings

NAME = "broker"

#: Two tries and a farewell stay within a check's bound.
_STEP_SECONDS = 2.0

# The more precise ones first.
_MEND_BY_KIND: tuple[tuple[type[redis.RedisError], str], ...] = (
    (
        redis.AuthenticationError,
        "Correct the password in TWOFOLD_BROKER_URL: redis://:PASSWORD@host:port/0.",
    ),
    (
        redis.NoPermissionError,
        "Let its user read and write all keys: `ACL SETUSER NAME on ~* &* +@all`.",
    ),
    (redis.ReadOnlyError, "Let TWOFOLD_BROKER_URL lead to the primary, not to a replica."),
    (redis.OutOfMemoryError, "Give Redis more maxmemory, or remove what else it keeps."),
    (redis.BusyLoadingError, "Wait until Redis has loaded its data."),
    (
        redis.TimeoutError,
        "Correct host and port in TWOFOLD_BROKER_URL (rediss:// for TLS), or open the firewall.",
    ),
    (redis.ConnectionError, "Start Redis, or correct host and port in TWOFOLD_BROKER_URL."),
    (redis.RedisError, "Correct TWOFOLD_BROKER_URL, the database number at its end included."),
)


def check(settings: Effective) -> Iterator[Finding]:
    """Whether the broker answers, and takes what tickets need."""
    wanted = needed(settings, BrokerSettings)
    if not wanted.is_redis:
        yield _folder(wanted)
        return
    seconds = min(wanted.broker_timeout_seconds, _STEP_SECONDS)
    try:
        server = ask_redis(wanted, timeout_seconds=seconds)
    except redis.RedisError as error:
        mend = next(mend for kind, mend in _MEND_BY_KIND if isinstance(error, kind))
        reason = " ".join(str(error).split())
        yield findings.failed(NAME, f"Redis cannot be used: {reason}", mend)
    except ValueError:
        yield findings.failed(
            NAME,
            "TWOFOLD_BROKER_URL cannot be taken apart.",
            "Percent-encode special characters in the password: %40 for @, %2F for /.",
        )
    else:
        # An evicted ticket costs the time until the next poll, never a job.
        evicts = "" if server.eviction == "noeviction" else f" ({server.eviction}: harmless here)"
        yield findings.ok(NAME, f"Redis {server.version} takes tickets{evicts}.")


def _folder(wanted: BrokerSettings) -> Finding:
    try:
        folder = ask_folder(wanted)
    except OSError as error:
        return findings.failed(
            NAME,
            f"The broker's folder cannot be used: {error.strerror}: {error.filename}.",
            "Create it with `queue` and `control` in it, and let this user write there.",
        )
    return findings.ok(NAME, f"The folder {folder} takes tickets, of this machine only.")
