"""What every store promises about URLs for those who have nothing else."""

import time
from datetime import timedelta

import pytest
from tests.conformance.stores import Answer, Case, ask, put
from tests.house import eventually

from twofold_schema.errors import CredentialsRefused

MINUTE = timedelta(minutes=1)
PNG = {"Content-Type": "image/png"}

#: What moto does with them.
_ACCEPTED = "no: accepted"


def stored(answer: Answer) -> bool:
    return answer.status in {200, 201, 204}


class TestSignedUrls:
    @pytest.mark.parametrize("name", ["object", "größe/a b+c&d=e#f?g%2fh.png"])
    def test_read_and_write(self, case: Case, name: str) -> None:
        uri = case.prefix.child(name)
        write = case.storage.sign_write(uri, content_type="image/png", expires=MINUTE)
        read = case.storage.sign_read(uri, expires=MINUTE)

        assert ask(case, read).status == 404
        assert stored(ask(case, write, method="PUT", data=b"mine", headers=PNG))
        answer = ask(case, read)
        part = ask(case, read, headers={"Range": "bytes=1-2"})

        assert (answer.status, answer.body) == (200, b"mine")
        assert answer.headers["Content-Type"] == "image/png"
        assert (part.status, part.body) == (206, b"in")
        assert case.get(uri) == b"mine"
        assert stored(ask(case, write, method="PUT", data=b"anew", headers=PNG))
        assert case.get(uri) == b"anew"
        assert case.storage.read_metadata(uri) == {}
        case.observed("sign")

    def test_give_no_other_object(self, case: Case) -> None:
        case.put("mine", b"mine")
        case.put("other", b"other")
        signed = case.storage.sign_read(case.prefix.child("mine"), expires=MINUTE)

        answer = ask(case, signed.replace("/mine?", "/other?"))

        if case.abilities.checks_signatures:
            assert answer.status == 403
            assert b"other" not in answer.body.replace(b"/other", b"")
        else:
            assert answer.body == b"other"
        case.observed("tampered", kept=case.abilities.checks_signatures, instead=_ACCEPTED)

    def test_allow_one_method(self, case: Case) -> None:
        uri = case.put("object", b"mine")
        read = case.storage.sign_read(uri, expires=MINUTE)
        write = case.storage.sign_write(uri, content_type="image/png", expires=MINUTE)

        written = ask(case, read, method="PUT", data=b"other", headers=PNG)
        content = case.get(uri)
        got = ask(case, write)

        if case.abilities.checks_signatures:
            assert (written.status, content, got.status) == (403, b"mine", 403)
        else:
            assert (stored(written), content, got.status) == (True, b"other", 200)
        case.observed("method", kept=case.abilities.checks_signatures, instead=_ACCEPTED)

    @pytest.mark.parametrize("headers", [{"Content-Type": "text/html"}, {"Content-Type": ""}])
    def test_take_one_media_type(self, case: Case, headers: dict[str, str]) -> None:
        uri = case.prefix.child("object")
        write = case.storage.sign_write(uri, content_type="image/png", expires=MINUTE)

        written = ask(case, write, method="PUT", data=b"other", headers=headers)

        if case.abilities.checks_signatures:
            assert written.status == 403
            assert case.storage.read_metadata(uri) is None
        else:
            assert stored(written)
        case.observed("type", kept=case.abilities.checks_signatures, instead=_ACCEPTED)

    def test_expire(self, case: Case) -> None:
        uri = case.put("object", b"mine")
        second = timedelta(seconds=1)
        read = case.storage.sign_read(uri, expires=second)
        write = case.storage.sign_write(uri, content_type="image/png", expires=second)
        over = int(time.time()) + 2.1  # whole seconds are signed
        assert ask(case, read).status in {200, 403}  # this machine may be slow

        eventually(lambda: time.time() > over)
        answers = ask(case, read), ask(case, write, method="PUT", data=b"other", headers=PNG)

        if case.abilities.checks_expiry:
            assert [answer.status for answer in answers] == [403, 403]
            assert case.get(uri) == b"mine"
        else:
            assert stored(answers[0])
            assert stored(answers[1])
        case.observed("expired", kept=case.abilities.checks_expiry, instead=_ACCEPTED)

    @pytest.mark.parametrize("expires", [timedelta(0), timedelta(days=8), -MINUTE])
    def test_live_from_a_second_to_a_week(self, case: Case, expires: timedelta) -> None:
        uri = case.prefix.child("object")

        with pytest.raises(ValueError, match="seven days"):
            case.storage.sign_read(uri, expires=expires)
        with pytest.raises(ValueError, match="seven days"):
            case.storage.sign_write(uri, content_type="image/png", expires=expires)


class TestCredentials:
    def test_that_are_wrong_are_refused_where_the_store_can(self, s3_case: Case) -> None:
        assert s3_case.server
        uri = s3_case.put("object", b"mine")
        strangers = [
            s3_case.server.as_user(s3_case.server.key, "wrong"),
            s3_case.server.as_user("nobody", s3_case.server.secret),
        ]

        for stranger in strangers:
            storage = stranger.open(s3_conditional_writes=True)
            if s3_case.abilities.checks_credentials:
                with pytest.raises(CredentialsRefused, match="renew"):
                    storage.read(uri, max_bytes=10)
                with pytest.raises(CredentialsRefused, match="renew"):
                    list(storage.list(s3_case.prefix))
                with pytest.raises(CredentialsRefused, match="renew"):
                    put(storage, s3_case.prefix.child("new"), b"mine")
                with pytest.raises(CredentialsRefused, match="renew"):
                    storage.delete(uri)
                assert ask(s3_case, storage.sign_read(uri, expires=MINUTE)).status == 403
            else:
                assert storage.read(uri, max_bytes=10).data == b"mine"
        s3_case.observed(
            "credentials", kept=bool(s3_case.abilities.checks_credentials), instead=_ACCEPTED
        )
