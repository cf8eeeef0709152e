"""API keys: who asks is known by a secret that nobody keeps."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import IntegrityError
from structlog.testing import capture_logs
from tests.rivals import rivals

from twofold_schema import tables
from twofold_schema.api_key import ApiKey, NewApiKey, Scope
from twofold_schema.errors import ApiKeyNotFound, InvalidApiKey, InvalidOperation
from twofold_schema.ids import new_id
from twofold_schema.ledger import api_keys, operations

_DAY = timedelta(days=1)
_EXPIRE = text("UPDATE api_keys SET expires_at = '2020-01-01Z' WHERE id = :id")
_USED_BEFORE = text("""
    UPDATE api_keys SET last_used_at = last_used_at - make_interval(secs => :seconds)
""")
_CROWD = text("""
    INSERT INTO api_keys (id, tenant, name, prefix, digest, scopes, created_by)
    SELECT gen_random_uuid(), 'crowd', 'x', 'tfk_00000000', sha256(CAST(CAST(n AS text) AS bytea)),
           ARRAY['read'], 'test'
    FROM generate_series(1, 5000) AS n
""")


def made(engine: Engine, **changes: Any) -> NewApiKey:
    asked: dict[str, Any] = {
        "tenant": "acme",
        "scopes": [Scope.SUBMIT],
        "reason": "test",
        "who": "ann",
    }
    with engine.begin() as connection:
        return api_keys.create(connection, "shop", **asked | changes)


def authenticated(engine: Engine, secret: str) -> ApiKey:
    with engine.begin() as connection:
        return api_keys.authenticate(connection, secret)


def rotated(engine: Engine, key: NewApiKey, overlap: timedelta = _DAY) -> NewApiKey:
    with engine.begin() as connection:
        return api_keys.rotate(connection, key.key.id, overlap=overlap, reason="yearly", who="bob")


def revoked(engine: Engine, key: NewApiKey) -> ApiKey:
    with engine.begin() as connection:
        return api_keys.revoke(connection, key.key.id, reason="leaked", who="bob")


def expired(engine: Engine, key: NewApiKey) -> None:
    with engine.begin() as connection:
        connection.execute(_EXPIRE, {"id": key.key.id})


def noted(engine: Engine) -> list[tuple[str, str, str]]:
    with engine.connect() as connection:
        found = operations.find(connection)
    return [(one.kind, one.who, one.reason) for one in reversed(found)]


@contextmanager
def statements(connection: Connection) -> Iterator[list[str]]:
    """What is sent on a connection inside the block."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(connection, "before_cursor_execute", note)
    yield sent
    event.remove(connection, "before_cursor_execute", note)


def _in_order(scopes: set[str]) -> str:
    return " ".join(sorted(scopes))


class TestCreate:
    def test_the_secret_is_whose_key_it_is(self, engine: Engine) -> None:
        new = made(engine, scopes=[Scope.READ, Scope.SUBMIT], lifetime=_DAY)
        other = made(engine, tenant="zoo")

        key = authenticated(engine, new.secret)

        assert (key.id, key.tenant, key.name, key.created_by) == (
            new.key.id,
            "acme",
            "shop",
            "ann",
        )
        assert key.scopes == {Scope.READ, Scope.SUBMIT}
        assert key.expires_at == new.key.expires_at
        assert authenticated(engine, other.secret).tenant == "zoo"
        assert re.fullmatch(r"tfk_[0-9a-f]{8}_[0-9a-f]{64}", new.secret)
        assert new.secret.startswith(key.prefix)
        assert noted(engine)[0] == ("create_key", "ann", "test")

    def test_each_scope_is_its_own_and_admin_is_all(self, engine: Engine) -> None:
        keys = {scope: made(engine, scopes=[scope]).key for scope in Scope}

        for scope, key in keys.items():
            allowed = {other for other in Scope if key.allows(other)}
            assert allowed == (set(Scope) if scope is Scope.ADMIN else {scope})

    @pytest.mark.parametrize(
        "scopes",
        [{"admin"}, {"read"}, {"operate"}, {"read", "operate"}, {"submit", "admin"}],
        ids=_in_order,
    )
    def test_a_key_of_no_tenant_speaks_for_all(self, engine: Engine, scopes: set[str]) -> None:
        everybodys = made(engine, tenant=None, scopes=[Scope(one) for one in scopes]).key
        plain = made(engine, scopes=[Scope.ADMIN]).key

        assert everybodys.scopes == scopes
        assert everybodys.speaks_for("acme")
        assert everybodys.speaks_for("zoo")
        assert plain.speaks_for("acme")
        assert not plain.speaks_for("zoo")

    @pytest.mark.parametrize("scopes", [{"submit"}, {"submit", "read", "operate"}], ids=_in_order)
    def test_only_an_admin_submits_for_whomsoever(self, engine: Engine, scopes: set[str]) -> None:
        with pytest.raises(InvalidOperation, match="name a tenant"):
            made(engine, tenant=None, scopes=[Scope(one) for one in scopes])
        with engine.connect() as connection:
            assert api_keys.every_key(connection) == []

    @pytest.mark.parametrize(
        "wrong",
        [{"scopes": []}, {"tenant": " "}, {"lifetime": timedelta(0)}, {"who": " "}],
        ids=str,
    )
    def test_what_could_never_be_used_is_refused(
        self, engine: Engine, wrong: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidOperation):
            made(engine, **wrong)
        with engine.connect() as connection:
            assert api_keys.every_key(connection) == []

    @pytest.mark.parametrize(
        ("nonsense", "check"),
        [
            ("scopes = '{}'", "api_keys_scopes_stated"),
            ("scopes = '{root}'", "api_keys_scopes_known"),
            ("tenant = NULL", "api_keys_submits_for_somebody"),
            ("digest = 'abc'", "api_keys_digest_whole"),
        ],
    )
    def test_the_database_refuses_a_key_that_makes_no_sense(
        self, engine: Engine, nonsense: str, check: str
    ) -> None:
        made(engine)
        with pytest.raises(IntegrityError, match=check), engine.begin() as connection:
            connection.execute(text(f"UPDATE api_keys SET {nonsense}"))


class TestAuthenticate:
    def test_what_is_not_good_is_told_apart_in_the_log_only(self, engine: Engine) -> None:
        old, gone = made(engine), made(engine)
        expired(engine, old)
        revoked(engine, gone)
        unknown = f"tfk_0123abcd_{'0' * 64}"
        asked = [unknown, old.secret, gone.secret, "", "tfk_", "\ud800", "x" * 100_000, "a\0b"]

        messages = set()
        with capture_logs() as logs:
            for secret in asked:
                with pytest.raises(InvalidApiKey) as refused:
                    authenticated(engine, secret)
                messages.add((refused.value.message, refused.value.code, type(refused.value)))

        assert len(messages) == 1
        assert [log["why"] for log in logs] == ["unknown", "expired", "revoked", *["unknown"] * 5]
        assert [log["prefix"] for log in logs][:3] == [
            "tfk_0123abcd",
            old.key.prefix,
            gone.key.prefix,
        ]

    def test_another_secret_behind_the_same_prefix_is_none(self, engine: Engine) -> None:
        new = made(engine)
        with pytest.raises(InvalidApiKey):
            authenticated(engine, f"{new.key.prefix}_{'0' * 64}")
        with pytest.raises(InvalidApiKey):
            authenticated(engine, new.secret.upper())

    def test_it_is_one_statement_by_an_index_whatever_comes(self, engine: Engine) -> None:
        new, gone = made(engine), made(engine)
        revoked(engine, gone)
        with engine.begin() as connection:
            connection.execute(_CROWD)
            connection.execute(text("ANALYZE api_keys"))
        for secret in (new.secret, new.secret, gone.secret, "unknown"):
            with engine.begin() as connection, statements(connection) as sent:
                try:
                    api_keys.authenticate(connection, secret)
                except InvalidApiKey:
                    assert secret != new.secret
            assert len(sent) == 1
            (statement,) = sent
        with engine.connect() as connection:
            plan = connection.exec_driver_sql(
                f"EXPLAIN {statement}", {"digest": b"0" * 32}
            ).scalars()
            shown = "\n".join(plan)
        assert "Seq Scan on api_keys" not in shown
        assert "api_keys_digest" in shown

    def test_its_use_is_noted_once_a_minute(self, engine: Engine) -> None:
        new = made(engine)
        assert new.key.last_used_at is None

        authenticated(engine, new.secret)
        first = self._last_used(engine)
        authenticated(engine, new.secret)
        assert first is not None
        assert self._last_used(engine) == first

        for seconds, is_noted in ((50, False), (20, True)):
            with engine.begin() as connection:
                connection.execute(_USED_BEFORE, {"seconds": seconds})
            before = self._last_used(engine)
            authenticated(engine, new.secret)
            assert (self._last_used(engine) != before) is is_noted

    def test_a_refused_key_is_not_used(self, engine: Engine) -> None:
        new = made(engine)
        revoked(engine, new)
        with engine.begin() as connection, pytest.raises(InvalidApiKey):
            api_keys.authenticate(connection, new.secret)
        assert self._last_used(engine) is None

    def test_nobody_waits_for_another_who_uses_the_same_key(self, engine: Engine) -> None:
        new = made(engine)
        with engine.begin() as slow, rivals(engine) as rival:
            api_keys.authenticate(slow, new.secret)
            other = rival(lambda connection: api_keys.authenticate(connection, new.secret))
            assert not other.blocked
            assert other.answer().id == new.key.id

    @staticmethod
    def _last_used(engine: Engine) -> object:
        with engine.connect() as connection:
            return api_keys.every_key(connection)[0].last_used_at


class TestRotate:
    def test_both_are_good_until_the_old_one_ends(self, engine: Engine) -> None:
        old = made(engine, scopes=[Scope.READ, Scope.OPERATE])

        new = rotated(engine, old, overlap=timedelta(hours=1))

        assert authenticated(engine, new.secret).scopes == {Scope.READ, Scope.OPERATE}
        assert (new.key.tenant, new.key.name, new.key.expires_at) == ("acme", "shop", None)
        left = authenticated(engine, old.secret)
        assert left.rotated_to == new.key.id
        assert left.expires_at is not None
        overlap = left.expires_at - new.key.created_at
        assert abs(overlap - timedelta(hours=1)) < timedelta(seconds=1)
        expired(engine, old)
        with pytest.raises(InvalidApiKey):
            authenticated(engine, old.secret)
        authenticated(engine, new.secret)
        assert noted(engine)[-1] == ("rotate_key", "bob", "yearly")

    def test_no_overlap_ends_the_old_one_at_once(self, engine: Engine) -> None:
        old = made(engine)
        new = rotated(engine, old, overlap=timedelta(0))

        with pytest.raises(InvalidApiKey):
            authenticated(engine, old.secret)
        authenticated(engine, new.secret)

    def test_the_new_one_lives_as_long_as_the_old_one_was_made_for(self, engine: Engine) -> None:
        old = made(engine, lifetime=timedelta(hours=2))

        new = rotated(engine, old, overlap=_DAY)

        assert old.key.expires_at is not None
        assert new.key.expires_at is not None
        lifetime = new.key.expires_at - new.key.created_at
        assert abs(lifetime - timedelta(hours=2)) < timedelta(seconds=1)
        # The overlap makes no life longer.
        assert authenticated(engine, old.secret).expires_at == old.key.expires_at

    def test_what_is_over_or_was_rotated_is_not_rotated(self, engine: Engine) -> None:
        old, gone, late = made(engine), made(engine), made(engine)
        new = rotated(engine, old)
        revoked(engine, gone)
        expired(engine, late)

        with pytest.raises(InvalidOperation, match=str(new.key.id)):
            rotated(engine, old)
        for over in (gone, late):
            with pytest.raises(InvalidOperation, match="over"):
                rotated(engine, over)
        with engine.connect() as connection:
            assert len(api_keys.every_key(connection)) == 4

    def test_of_two_at_once_one_wins(self, engine: Engine) -> None:
        old = made(engine)

        def rotate(connection: Connection) -> NewApiKey:
            return api_keys.rotate(connection, old.key.id, overlap=_DAY, reason="why", who="bob")

        with rivals(engine) as rival:
            with engine.begin() as connection:
                rotate(connection)
                second = rival(rotate)
                assert second.blocked
            with pytest.raises(InvalidOperation, match="rotated already"):
                second.answer()


class TestRevoke:
    def test_it_is_over_at_once_and_for_ever(self, engine: Engine) -> None:
        new = made(engine)
        first = revoked(engine, new)
        again = revoked(engine, new)

        assert first.revoked_at is not None
        assert again.revoked_at == first.revoked_at
        with pytest.raises(InvalidApiKey):
            authenticated(engine, new.secret)
        assert [kind for kind, _, _ in noted(engine)] == ["create_key", "revoke_key"]

    def test_what_there_is_not_cannot_be_changed(self, engine: Engine) -> None:
        with engine.begin() as connection:
            for act in (
                lambda: api_keys.revoke(connection, new_id(), reason="why", who="bob"),
                lambda: api_keys.rotate(
                    connection, new_id(), overlap=_DAY, reason="why", who="bob"
                ),
            ):
                with pytest.raises(ApiKeyNotFound):
                    act()

    def test_keys_are_listed_newest_first_by_tenant(self, engine: Engine) -> None:
        ids = [made(engine, tenant=tenant).key.id for tenant in ("acme", "zoo", "acme")]
        with engine.connect() as connection:
            assert [key.id for key in api_keys.every_key(connection)] == ids[::-1]
            mine = api_keys.every_key(connection, tenant="acme")
        assert [key.id for key in mine] == [ids[2], ids[0]]


def test_the_secret_is_in_no_row_no_log_no_error_and_no_repr(engine: Engine) -> None:
    with capture_logs() as logs:
        old = made(engine)
        new = rotated(engine, old)
        authenticated(engine, new.secret)
        revoked(engine, new)
        with pytest.raises(InvalidApiKey) as refused:
            authenticated(engine, new.secret)
        with pytest.raises(InvalidOperation) as over:
            rotated(engine, new)
    said = [repr(logs), repr(refused.value), repr(over.value), repr(old), repr(new), str(new)]
    with engine.connect() as connection:
        for table in tables.metadata.tables:
            rows = connection.execute(text(f"SELECT CAST(t AS text) FROM {table} AS t")).scalars()
            said += rows
    assert any(new.key.prefix in one for one in said)
    for key in (old, new):
        secret = key.secret.rpartition("_")[2]
        hidden = {secret, secret.encode().hex()}
        assert not [one for one in said if any(form in one for form in hidden)]
