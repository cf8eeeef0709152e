"""The checks of whoever goes over HTTP: the service, and the key with which it is asked."""

from collections.abc import Iterator
from importlib.metadata import version

from twofold_producer.client import Client
from twofold_producer.doctor.configuration import NAME as SETTINGS
from twofold_producer.doctor.configuration import needed
from twofold_producer.doctor.examination import Blocked
from twofold_schema import findings
from twofold_schema.effective import Effective
from twofold_schema.errors import ApiUnreachable, ConfigError, InvalidApiKey, TwofoldError
from twofold_schema.findings import Finding
from twofold_schema.settings import ClientSettings
from twofold_schema.wire import KeyReport

API = "api"
KEY = "key"

#: A request stays within a check's bound.
_SECONDS = 8.0


def check_api(settings: Effective) -> Iterator[Finding]:
    """Whether the service answers, and is of this program's version."""
    url = needed(settings, ClientSettings).url
    try:
        theirs = _asked(settings).version
    except InvalidApiKey:
        yield findings.ok(API, f"Twofold answers at {url}; it tells its version to a key alone.")
        return
    except ApiUnreachable as error:
        yield findings.failed(
            API, error.message, "Start it with `twofold api`, or correct TWOFOLD_URL."
        )
        return
    except TwofoldError as error:
        yield findings.failed(
            API,
            f"{url} answers with {error.code}: {error.message}",
            "If that is no Twofold, correct TWOFOLD_URL; else run `twofold doctor` where it runs.",
        )
        return
    ours = version("twofold")
    if theirs != ours:
        yield findings.warning(
            API,
            f"Twofold {theirs} answers at {url}; this program is {ours}.",
            "Use programs of one version.",
        )
    else:
        yield findings.ok(API, f"Twofold {theirs} answers at {url}.")


def check_key(settings: Effective) -> Iterator[Finding]:
    """Whether the key is in force, for whom it speaks, and what it is for."""
    try:
        key = _asked(settings)
    except InvalidApiKey as error:
        yield findings.failed(
            KEY, error.message, "Set TWOFOLD_API_KEY to one that `twofold keys create` printed."
        )
        return
    except TwofoldError as error:
        raise Blocked(API, error.message, "Mend what the service says.") from None
    whose = "all tenants" if key.tenant is None else f"the tenant {key.tenant}"
    yield findings.ok(KEY, f"The key {key.prefix} speaks for {whose}: {', '.join(key.scopes)}.")


def _asked(settings: Effective) -> KeyReport:
    wanted = needed(settings, ClientSettings)
    secret = wanted.api_key.get_secret_value() if wanted.api_key else None
    try:
        client = Client(wanted.url, secret, timeout=_SECONDS, max_retries=0)
    except ConfigError as error:
        raise Blocked(SETTINGS, error.message, "Set both.") from None
    with client:
        return client.key()
