"""API keys from a shell: the secret goes to whoever reads standard output, once."""

import json
from pathlib import Path

import pytest
from tests.house import House
from tests.shell import Ended, Shell

from twofold_schema.errors import InvalidApiKey
from twofold_schema.ids import new_id
from twofold_schema.ledger import api_keys


@pytest.fixture
def twofold(house: House, tmp_path: Path) -> Shell:
    return Shell(house.environment, tmp_path)


def created(twofold: Shell, *options: str) -> Ended:
    return twofold("keys", "create", "shop", *options, "--reason", "contract 7", "--who", "ann")


def tenant_of(house: House, secret: str) -> str | None:
    with house.engine.begin() as connection:
        return api_keys.authenticate(connection, secret).tenant


def test_a_key_is_made_used_listed_rotated_and_revoked(house: House, twofold: Shell) -> None:
    made = created(twofold, "--tenant", "acme", "--scope", "submit", "--scope", "read")
    assert made.returncode == 0, made.stderr
    (secret,) = made.stdout.splitlines()
    assert secret not in made.stderr
    assert tenant_of(house, secret) == "acme"

    (shown,) = json.loads(twofold("keys", "list", "-o", "json").stdout)
    assert (shown["name"], shown["created_by"], shown["state"]) == ("shop", "ann", "good")
    assert shown["scopes"] == ["read", "submit"]
    assert secret.startswith(shown["prefix"])

    turned = twofold("keys", "rotate", shown["id"], "--reason", "yearly", "-o", "json")
    new = json.loads(turned.stdout)
    assert (tenant_of(house, secret), tenant_of(house, new["secret"])) == ("acme", "acme")
    rows = json.loads(twofold("keys", "list", "--tenant", "acme", "-o", "json").stdout)
    assert [row["state"] for row in rows] == ["good", "rotated"]

    ended = twofold("keys", "revoke", new["id"], "--reason", "leaked", "--yes")
    assert ended.stdout == f"revoked {new['prefix']} (shop)\n"
    with pytest.raises(InvalidApiKey):
        tenant_of(house, new["secret"])
    table = twofold("keys", "list").stdout
    assert "revoked" in table
    assert "read, submit" in table

    noted = twofold("operations", "list", "-o", "jsonl").stdout
    kinds = [json.loads(line)["kind"] for line in noted.splitlines()]
    assert kinds == ["revoke_key", "rotate_key", "create_key"]
    told = twofold("operations", "list").stdout
    for one in (secret, new["secret"]):
        assert one.rpartition("_")[2] not in table + noted + told


@pytest.mark.parametrize("scope", ["admin", "read", "operate"])
def test_a_key_speaks_for_all_tenants_when_that_is_said(
    house: House, twofold: Shell, scope: str
) -> None:
    made = created(twofold, "--all-tenants", "--scope", scope, "--days", "30")

    assert tenant_of(house, made.stdout.strip()) is None
    (shown,) = json.loads(twofold("keys", "list", "-o", "json").stdout)
    assert (shown["tenant"], shown["expires_at"] is None) == (None, False)


@pytest.mark.parametrize(
    "options",
    [
        ["--scope", "admin"],
        ["--tenant", "acme"],
        ["--tenant", "acme", "--all-tenants", "--scope", "admin"],
        ["--all-tenants", "--scope", "submit"],
        ["--tenant", "acme", "--scope", "root"],
        ["--tenant", "acme", "--scope", "read", "--days", "0"],
    ],
    ids=" ".join,
)
def test_a_key_that_cannot_be_ends_with_2(twofold: Shell, options: list[str]) -> None:
    ended = created(twofold, *options)

    assert (ended.returncode, ended.stdout, "Traceback" in ended.stderr) == (2, "", False)


def test_what_there_is_not_ends_with_5_and_nobody_is_asked_without_a_terminal(
    twofold: Shell,
) -> None:
    unknown = new_id()

    assert twofold("keys", "rotate", unknown, "--reason", "why").returncode == 5
    assert twofold("keys", "revoke", unknown, "--reason", "why", "--yes").returncode == 5
    assert twofold("keys", "revoke", unknown, "--reason", "why").returncode == 2
