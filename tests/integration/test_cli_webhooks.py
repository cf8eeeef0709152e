"""Webhooks from a shell, and the page about them as written."""

import json
import re
import shlex
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from standardwebhooks import Webhook as Verifier
from tests.factories import endpoint, new_job, outbox_of, submitted
from tests.house import ROOT, House, eventually
from tests.servers.receiver import receiving
from tests.shell import Shell

from twofold_schema.ids import new_id
from twofold_schema.ledger import requests

PAGE = ROOT / "docs/16-webhooks.md"
URL = "https://receiver.example/hook"


@pytest.fixture
def twofold(house: House, tmp_path: Path) -> Shell:
    return Shell(house.environment, tmp_path)


def made(twofold: Shell, *options: object) -> dict[str, str]:
    """What creating an endpoint printed."""
    ended = twofold("webhooks", "create", URL, *options, "-o", "json")
    assert ended.returncode == 0, ended.stderr
    plain: dict[str, str] = json.loads(ended.stdout)
    return plain


def listed(twofold: Shell, *arguments: object) -> list[dict[str, Any]]:
    """What a list has as JSON."""
    ended = twofold("webhooks", *arguments, "-o", "json")
    assert ended.returncode == 0, ended.stderr
    plain: list[dict[str, Any]] = json.loads(ended.stdout)
    return plain


def cancelled(house: House, **changes: Any) -> None:
    """A job was submitted and called off."""
    ids = submitted(house.engine, new_job(**changes))
    with house.engine.begin() as connection:
        requests.cancel(connection, ids)


class TestEndpoints:
    def test_are_made_and_listed_without_their_secret(self, twofold: Shell) -> None:
        table = twofold("webhooks", "create", URL, "--tenant", "acme", "--only-named")
        assert table.returncode == 0
        webhook_id, secret = (line.split()[1] for line in table.stdout.splitlines())
        assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)
        other = made(twofold, "--event", "job.failed", "--event", "job.expired")

        acme, mine = listed(twofold, "list")
        assert (acme["id"], acme["tenant"], acme["everything"]) == (webhook_id, "acme", False)
        assert (mine["id"], mine["events"]) == (other["id"], ["job.expired", "job.failed"])
        assert [one["id"] for one in listed(twofold, "list", "--tenant", "acme")] == [webhook_id]
        shown = twofold("webhooks", "list").stdout + twofold("operations", "list").stdout
        assert "what names it" in shown
        assert "whsec_" not in shown + json.dumps([acme, mine])
        ids = twofold("webhooks", "list", "-o", "ids").stdout.split()
        assert ids == [webhook_id, other["id"]]

    @pytest.mark.parametrize(
        "url", ["http://a.example/", "https://127.0.0.1/", "https://u:p@a.example/", "a.example"]
    )
    def test_that_are_not_open_end_with_2(self, twofold: Shell, url: str) -> None:
        ended = twofold("webhooks", "create", url)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "invalid_webhook" in ended.stderr

    def test_the_operator_opens_more(self, twofold: Shell) -> None:
        ended = twofold(
            "webhooks",
            "create",
            "http://10.1.2.3:8000/",
            TWOFOLD_WEBHOOK_ALLOW="10.1.0.0/16",
            TWOFOLD_WEBHOOK_HTTP="true",
            TWOFOLD_WEBHOOK_PORTS="443,8000",
        )
        assert ended.returncode == 0, ended.stderr

    def test_get_another_secret(self, twofold: Shell) -> None:
        first = made(twofold)
        ended = twofold("webhooks", "rotate", first["id"], "--who", "ann", "-o", "json")
        second = json.loads(ended.stdout)
        assert second["id"] == first["id"]
        assert second["secret"] != first["secret"]
        newest = json.loads(twofold("operations", "list", "-o", "json").stdout)[0]
        assert (newest["kind"], newest["who"]) == ("webhook", "ann")

    def test_are_disabled_and_enabled(self, twofold: Shell) -> None:
        webhook_id = made(twofold)["id"]
        assert twofold("webhooks", "disable", webhook_id).returncode == 2
        assert twofold("webhooks", "disable", webhook_id, "--reason", "[noise]").returncode == 0
        (one,) = listed(twofold, "list")
        assert one["disabled_reason"] == "[noise]"
        assert "[noise]" in twofold("webhooks", "list").stdout
        assert twofold("webhooks", "test", webhook_id).returncode == 2
        assert twofold("webhooks", "enable", webhook_id).returncode == 0
        assert listed(twofold, "list")[0]["disabled_at"] is None

    @pytest.mark.parametrize(
        "arguments",
        [
            ["rotate", str(new_id())],
            ["disable", str(new_id()), "--reason", "why"],
            ["enable", str(new_id())],
            ["test", str(new_id())],
            ["redeliver", str(new_id())],
            ["redeliver", "--webhook", str(new_id())],
        ],
    )
    def test_that_are_not_there_end_with_5(self, twofold: Shell, arguments: list[str]) -> None:
        ended = twofold("webhooks", *arguments)
        assert (ended.returncode, ended.stdout) == (5, "")
        assert "Traceback" not in ended.stderr


class TestDeliveries:
    def test_are_listed_page_by_page(self, house: House, twofold: Shell) -> None:
        webhook, _ = endpoint(house.engine)
        for _ in range(3):
            cancelled(house)
        first = twofold("webhooks", "deliveries", webhook.id, "--limit", 2)
        ids = twofold("webhooks", "deliveries", "--limit", 2, "-o", "ids").stdout.split()
        assert all(one in first.stdout for one in ids)
        more = f"twofold webhooks deliveries {webhook.id} --limit 2 --before {ids[-1]}"
        assert first.stderr == f"More: {more}\n"
        (rest,) = listed(twofold, "deliveries", "--before", ids[-1])
        assert (rest["state"], rest["type"]) == ("pending", "job.cancelled")
        assert listed(twofold, "deliveries", "--state", "failed") == []
        assert listed(twofold, "deliveries", "--tenant", "other") == []

    def test_are_delivered_anew(self, house: House, twofold: Shell) -> None:
        webhook, _ = endpoint(house.engine)
        for _ in range(2):
            cancelled(house)
        fail = text("""
            UPDATE deliveries
            SET state = 'failed', next_try_at = NULL, ended_at = clock_timestamp(), tries = 10
        """)
        with house.engine.begin() as connection:
            connection.execute(fail)
        one, other = outbox_of(house.engine)
        assert twofold("webhooks", "redeliver", one.id).stdout == "1 will be delivered\n"
        assert [d.state for d in outbox_of(house.engine)] == ["pending", "failed"]
        more = twofold("webhooks", "redeliver", "--webhook", webhook.id, "--since-hours", 1)
        assert more.stdout == "1 will be delivered\n"
        assert {d.state for d in outbox_of(house.engine)} == {"pending"}
        assert other.id in {d.id for d in outbox_of(house.engine)}

    def test_of_nothing_in_particular_end_with_2(self, twofold: Shell) -> None:
        for arguments in ([], [new_id(), "--webhook", new_id()]):
            assert twofold("webhooks", "redeliver", *arguments).returncode == 2

    def test_a_job_that_was_submitted_by_name_is_told_of(
        self, house: House, twofold: Shell
    ) -> None:
        with receiving() as receiver:
            house.environment |= _opened(receiver.server_port)
            webhook, secret = endpoint(house.engine, receiver.url, everything=False)
            bucket = house.environment["TWOFOLD_UPLOADS"]
            source = f"{bucket}/none.png"
            ended = twofold("submit", source, "--webhook", webhook.id, "-o", "ids")
            (job_id,) = ended.stdout.split()
            assert twofold("jobs", "cancel", job_id).returncode == 0
            house.keeper()
            eventually(lambda: receiver.received, why=house.logs)
        (received,) = receiver.received
        body = Verifier(secret.get_secret_value()).verify(received.body, dict(received.headers))
        assert (body["type"], body["data"]["job_id"]) == ("job.cancelled", job_id)

    def test_nobody_names_what_is_not_there(self, house: House, twofold: Shell) -> None:
        source = f"{house.environment['TWOFOLD_UPLOADS']}/none.png"
        ended = twofold("submit", source, "--webhook", new_id())
        assert (ended.returncode, "invalid_parameter" in ended.stderr) == (2, True)


class TestThePage:
    """docs/16-webhooks.md runs as written."""

    @staticmethod
    def _blocks(language: str) -> list[str]:
        return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)

    def test_every_command_does_what_it_says(self, house: House, twofold: Shell) -> None:
        webhook, _ = endpoint(house.engine, URL)
        cancelled(house)
        (delivery,) = outbox_of(house.engine)
        names = {"$WEBHOOK": str(webhook.id), "$DELIVERY": str(delivery.id)}
        lines = [line for block in self._blocks("sh") for line in block.splitlines()]
        assert len(lines) >= 10
        for line in lines:
            name, *arguments = (names.get(word, word) for word in shlex.split(line, comments=True))
            assert name == "twofold"
            ended = twofold(*arguments)
            assert ended.returncode == 0, f"{line}\n{ended.stderr}"

    def test_what_is_shown_is_what_is_sent(self, house: House) -> None:
        endpoint(house.engine)
        cancelled(house)
        sent = json.loads(outbox_of(house.engine)[0].body)
        shown = [json.loads(block) for block in self._blocks("json")]
        assert {one["type"] for one in shown} == {"job.failed", "submission.finished"}
        (job,) = (one for one in shown if one["type"] == "job.failed")
        assert list(job) == list(sent)
        assert list(job["data"]) == list(sent["data"])

    def test_the_receiver_receives(
        self,
        house: House,
        twofold: Shell,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (code,) = self._blocks("python")
        scope: dict[str, Any] = {"__name__": "receiver"}
        exec(compile(code, str(PAGE), "exec"), scope)
        with ThreadingHTTPServer(("127.0.0.1", 0), scope["Receiver"]) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            house.environment |= _opened(server.server_port)
            url = f"http://127.0.0.1:{server.server_port}/"
            webhook, secret = endpoint(house.engine, url)
            monkeypatch.setenv("WEBHOOK_SECRET", secret.get_secret_value())
            cancelled(house)
            house.keeper()
            self._eventually_ended(house, "delivered")
            again = twofold("webhooks", "redeliver", outbox_of(house.engine)[0].id)
            assert again.returncode == 0
            self._eventually_ended(house, "delivered")
            with house.engine.begin() as connection:
                connection.execute(text("UPDATE webhook_secrets SET secret = 'whsec_AAAA'"))
            assert twofold("webhooks", "test", webhook.id).returncode == 0
            eventually(lambda: outbox_of(house.engine)[-1].log, why=house.logs)
            server.shutdown()
            thread.join()
        printed = capsys.readouterr().out
        assert printed.count("job.cancelled") == 1
        assert "webhook.test" not in printed
        assert [entry.status for entry in outbox_of(house.engine)[-1].log][:1] == [401]
        assert [entry.status for entry in outbox_of(house.engine)[0].log] == [204, 204]

    @staticmethod
    def _eventually_ended(house: House, state: str) -> None:
        eventually(
            lambda: {one.state for one in outbox_of(house.engine)} == {state}, why=house.logs
        )


def _opened(port: int) -> dict[str, str]:
    """Settings with which a keeper reaches a receiver here."""
    return {
        "TWOFOLD_WEBHOOK_ALLOW": "127.0.0.0/8",
        "TWOFOLD_WEBHOOK_HTTP": "true",
        "TWOFOLD_WEBHOOK_PORTS": str(port),
    }
