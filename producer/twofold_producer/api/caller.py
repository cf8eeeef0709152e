"""Who asks, what they may, and how often."""

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, TypeGuard, TypeVar

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from twofold_schema.api_key import ApiKey, Scope
from twofold_schema.errors import InvalidApiKey, RateLimited, ScopeMissing
from twofold_schema.job import DEFAULT_TENANT
from twofold_schema.ledger import api_keys, rights

#: So long a key and a tenant's rights are taken to be what they were: a key that is revoked is good
#: for as long.
REMEMBER_SECONDS: Final = 5.0
_MOST_REMEMBERED: Final = 10_000

Name = TypeVar("Name")
Held = TypeVar("Held")

_bearer = HTTPBearer(auto_error=False, description="An API key: `twofold keys create`.")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        tenant: Whose jobs they see; None for everybody's.
        prefix: Of the key, by which people recognise it.
        scopes: What it is for.
    """

    tenant: str | None
    prefix: str
    scopes: frozenset[Scope]

    @property
    def submits_for(self) -> str:
        """Whose the jobs are that they submit."""
        return self.tenant or DEFAULT_TENANT

    @property
    def name(self) -> str:
        """Who they are in the audit."""
        return f"key {self.prefix}"


@dataclass(slots=True)
class Bucket:
    """Requests that a tenant has left: `rate` come to it each second, up to `burst`."""

    rate: float
    burst: int
    left: float
    at: float

    def take(self, now: float) -> float:
        """Take one; how long to wait where there is none, else 0."""
        self.left = min(self.burst, self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left < 1:
            return (1 - self.left) / self.rate
        self.left -= 1
        return 0.0


@dataclass(frozen=True, slots=True)
class Admission:
    """Whose request it is, and what is left to them.

    Attributes:
        bucket: Of their tenant; None where it has no rate.
    """

    caller: Caller
    bucket: Bucket | None


class Gate:
    """Lets requests in by their key. Threads may share one.

    Rates are held by each process on its own: with several, a tenant has several times its rate.

    Args:
        engine: Of the database.
        clock: In seconds, which never goes back.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._callers: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        self._buckets: OrderedDict[str, tuple[float, Bucket | None]] = OrderedDict()

    def recall(self, secret: str) -> Admission | None:
        """Whose key this is, where the database need not be asked; None where it must."""
        digest, now = _digest(secret), self._clock()
        with self._lock:
            known = self._callers.get(digest)
            if not _is_fresh(known, now):
                return None
            caller = known[1]
            if caller.tenant is None:
                return Admission(caller, None)
            rate = self._buckets.get(caller.tenant)
        return Admission(caller, rate[1]) if _is_fresh(rate, now) else None

    def admit(self, secret: str) -> Admission:
        """Whose key this is.

        Raises:
            InvalidApiKey: It is nobody's, or no longer.
        """
        caller = self._caller(secret)
        return Admission(caller, None if caller.tenant is None else self._bucket(caller.tenant))

    def count(self, admitted: Admission) -> tuple[Mapping[str, str], float]:
        """Count a request of a tenant that has a rate.

        Returns:
            Headers that say how many are left (draft-ietf-httpapi-ratelimit-headers-10), and after
            how many seconds there is one; 0 where this one was.
        """
        bucket = admitted.bucket
        if bucket is None:
            return {}, 0.0
        with self._lock:
            wait = bucket.take(self._clock())
            left = int(bucket.left)
        window = max(1, math.ceil(bucket.burst / bucket.rate))
        return {
            "RateLimit-Policy": f'"requests";q={bucket.burst};w={window}',
            "RateLimit": f'"requests";r={left};t={math.ceil(wait)}',
        }, wait

    def has_asked(self, secret: str, *, within: float) -> bool:
        """Whether the database has said so few seconds ago that a key is in force."""
        known = self._known(secret)
        return known is not None and self._clock() - known[0] < within

    def ask(self, secret: str) -> Caller:
        """Whose key this is, as the database has it.

        Raises:
            InvalidApiKey: It is nobody's, or no longer.
        """
        digest, now = _digest(secret), self._clock()
        with self._engine.begin() as connection:
            caller = _caller_of(api_keys.authenticate(connection, secret))
        with self._lock:
            _remember(self._callers, digest, (now, caller))
        return caller

    def _caller(self, secret: str) -> Caller:
        known = self._known(secret)
        return known[1] if _is_fresh(known, self._clock()) else self.ask(secret)

    def _known(self, secret: str) -> tuple[float, Caller] | None:
        """What the database last said of a key, and when."""
        digest = _digest(secret)
        with self._lock:
            return self._callers.get(digest)

    def _bucket(self, tenant: str) -> Bucket | None:
        now = self._clock()
        with self._lock:
            known = self._buckets.get(tenant)
        if _is_fresh(known, now):
            return known[1]
        with self._engine.connect() as connection:
            right = rights.get(connection, tenant)
        bucket = None
        if right.rate is not None:
            burst = right.burst or max(1, math.ceil(right.rate))
            before = known[1] if known else None
            left = min(before.left, burst) if before else burst
            bucket = Bucket(right.rate, burst, left, before.at if before else now)
        with self._lock:
            _remember(self._buckets, tenant, (now, bucket))
        return bucket


def _shown(credentials: HTTPAuthorizationCredentials | None) -> str:
    if credentials is None:
        raise InvalidApiKey("Send an API key: `Authorization: Bearer tfk_…`.")
    return credentials.credentials


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


def _is_fresh(known: tuple[float, Held] | None, now: float) -> TypeGuard[tuple[float, Held]]:
    return known is not None and now - known[0] < REMEMBER_SECONDS


def _remember(held: OrderedDict[Name, Held], name: Name, thing: Held) -> None:
    held[name] = thing
    held.move_to_end(name)
    if len(held) > _MOST_REMEMBERED:
        held.popitem(last=False)


def _caller_of(key: ApiKey) -> Caller:
    return Caller(key.tenant, key.prefix, frozenset(key.scopes))


async def _secret(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None,
) -> str:
    return _shown(credentials)


async def require_key(request: Request) -> None:
    """Refuse who shows no key at all; whether one is in force is another question.

    Raises:
        InvalidApiKey: There is none.
    """
    _shown(await _bearer(request))


def allowed(*scopes: Scope, everybodys: bool = False) -> Callable[..., Awaitable[Caller]]:
    """A dependency: the caller, who may do what one of the scopes is for.

    Args:
        scopes: Of which the key has to have one; `admin` will always do.
        everybodys: Whether only a key of no tenant will do.
    """

    async def check(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None,
    ) -> Caller:
        gate: Gate = request.app.state.service.gate
        secret = _shown(credentials)
        # A thread is a long way round for what is known already.
        admitted = gate.recall(secret)
        if admitted is None:
            admitted = await run_in_threadpool(gate.admit, secret)
        caller = admitted.caller
        request.scope["twofold.caller"] = caller
        request.scope["twofold.headers"], wait = gate.count(admitted)
        if wait:
            raise RateLimited(retry_after=math.ceil(wait))
        if not caller.scopes & {*scopes, Scope.ADMIN}:
            named = " or ".join(scopes)
            raise ScopeMissing(f"This key is not for this: it needs the scope {named}.")
        if everybodys and caller.tenant is not None:
            raise ScopeMissing("This concerns all tenants; use a key that is of none.")
        return caller

    return check


#: What was shown: for who has to look at it again.
Secret = Annotated[str, Depends(_secret)]
Submitter = Annotated[Caller, Depends(allowed(Scope.SUBMIT))]
Owner = Annotated[Caller, Depends(allowed(Scope.SUBMIT, Scope.OPERATE))]
Reader = Annotated[Caller, Depends(allowed(Scope.READ))]
Operator = Annotated[Caller, Depends(allowed(Scope.OPERATE))]
Overseer = Annotated[Caller, Depends(allowed(Scope.READ, everybodys=True))]
