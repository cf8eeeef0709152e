"""Secrets: masked in the shape of their URL where that is beyond doubt, and wholly where not."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold_schema.masking import masked_url, scrub

SECRETS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=6)
SHAPES = (
    "postgresql://twofold:{}@db.example.com:5432/twofold",
    "postgresql://twofold@db/twofold?sslmode=require&password={}",
    "postgresql+psycopg://twofold:{}@one:1,two:2/twofold",
    "redis://:{}@127.0.0.1:6379/0",
    "redis://{}@127.0.0.1:6379/0",
    "rediss://name:{}@[::1]:6379/0?ssl_cert_reqs=required",
    "https://key:{}@s3.example.com",
)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://twofold:pw@db:5432/twofold", "postgresql://twofold:***@db:5432/twofold"),
        ("postgresql://twofold@db/twofold", "postgresql://twofold@db/twofold"),
        ("postgresql:///twofold?host=/run", "postgresql:///twofold?host=/run"),
        (
            "postgresql://u@h/d?sslmode=require&password=pw&more=x",
            "postgresql://u@h/d?sslmode=require&password=***&***",
        ),
        ("redis://:pw@redis:6379/0", "redis://:***@redis:6379/0"),
        ("redis://pw@redis:6379/0", "redis://***@redis:6379/0"),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("filesystem:///var/bell", "filesystem:///var/bell"),
        ("postgresql://u:p@ss@db/d", "postgresql://***"),
        ("redis://:p/ss@redis/0", "redis://***"),
        ("postgresql://u:pw@db/d#p@ss", "postgresql://***"),
        ("redis://:pw", "redis://***"),
        ("hunter2", "***"),
        ("hunter2://x", "***"),
        ("redis://name:pw@redis/0", "redis://***:***@redis/0"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert masked_url(url) == shown


@pytest.mark.parametrize("shape", SHAPES)
@given(secret=SECRETS)
def test_no_password_is_shown_however_it_is_written(shape: str, secret: str) -> None:
    for written in (secret, quote(secret, safe="")):
        shown = masked_url(shape.format(written))
        # A secret may be a word of the shape by chance; what the shape lacks must not be shown.
        if secret not in shape and written not in shape:
            assert secret not in shown
            assert written not in shown


@pytest.mark.parametrize("shape", SHAPES)
@given(secret=SECRETS)
def test_no_text_quotes_it_either(shape: str, secret: str) -> None:
    url = shape.format(quote(secret, safe=""))

    for text in (url, f"cannot reach {url}", f"refused {secret!s}", quote(secret, safe="")):
        if secret not in shape and quote(secret, safe="") not in shape:
            assert secret not in scrub(text, [url])


def test_words_that_stand_in_the_open_are_left_alone() -> None:
    url = "postgresql://twofold:twofold@db/twofold"

    assert scrub("run twofold db migrate", [url]) == "run twofold db migrate"
