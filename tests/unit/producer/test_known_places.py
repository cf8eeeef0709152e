"""What tenants may name is asked once in a while."""

from collections import Counter

import pytest

from twofold_producer.submit.known_places import KNOWN_SECONDS, KnownPlaces
from twofold_schema.tenant_places import TenantPlaces


class Asked:
    def __init__(self) -> None:
        self.times = Counter[str]()
        self.now = 1000.0

    def __call__(self, tenant: str) -> TenantPlaces:
        self.times[tenant] += 1
        return TenantPlaces(tenant=tenant, may_read=(f"s3://{tenant}-{self.times[tenant]}",))


def test_each_tenant_is_asked_about_once_in_some_seconds() -> None:
    asked = Asked()
    known = KnownPlaces(asked, lambda: asked.now)

    first = [known.of(tenant) for tenant in ("acme", "zoo", "acme", "acme")]
    asked.now += KNOWN_SECONDS
    later = known.of("acme")

    assert [places.tenant for places in first] == ["acme", "zoo", "acme", "acme"]
    assert first[2] is first[0]
    assert later.may_read == ("s3://acme-2",)
    assert asked.times == {"acme": 2, "zoo": 1}


def test_an_answer_that_did_not_come_is_asked_for_again() -> None:
    fails = iter([True, False])

    def ask(tenant: str) -> TenantPlaces:
        if next(fails):
            raise RuntimeError
        return TenantPlaces(tenant=tenant)

    known = KnownPlaces(ask)
    with pytest.raises(RuntimeError):
        known.of("acme")

    assert known.of("acme").may_read is None
