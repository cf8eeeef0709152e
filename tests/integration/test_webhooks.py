"""Messages reach real receivers: signed, at an address that was checked, at least once, in time."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError
from structlog.testing import capture_logs
from tests.factories import WHEREVER, endpoint, new_job, outbox_of, submitted
from tests.house import House, eventually
from tests.servers.certificates import Certificates
from tests.servers.receiver import Answer, Received, Receiver, receiving

from twofold_producer.keeper import posting
from twofold_producer.keeper.duties import webhook_duties
from twofold_producer.keeper.loop import Keeper
from twofold_producer.keeper.posting import Poster
from twofold_producer.keeper.webhooks import Outbox
from twofold_schema import database, egress
from twofold_schema.egress import Egress
from twofold_schema.ids import new_id
from twofold_schema.ledger import requests, webhooks
from twofold_schema.ledger.sending import Leased, Outcome
from twofold_schema.settings import DatabaseSettings, WebhookSettings

SECONDS = 20.0
#: So that a keeper comes back to its test though receivers hang.
TURN = 0.1
#: Of the specification's own libraries: a message and what it has to be signed with.
KNOWN_SECRET, KNOWN_BODY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", '{"test": 2432232314}'


@contextmanager
def posting_from(open_: Egress = WHEREVER, **options: object) -> Iterator[Poster]:
    """Something that posts, and lets its threads go."""
    poster = Poster(open_, **{"seconds": SECONDS, "threads": 8} | options)  # type: ignore[arg-type]
    try:
        yield poster
    finally:
        poster.close()


@contextmanager
def keeping(engine: Engine, poster: Poster, *, threads: int = 8) -> Iterator[Outbox]:
    """A keeper's outbox, closed in the end."""
    outbox = Outbox(engine, poster.send, threads=threads, turn_seconds=TURN)
    try:
        yield outbox
    finally:
        outbox.close()


@pytest.fixture
def poster() -> Iterator[Poster]:
    with posting_from() as poster:
        yield poster


@pytest.fixture
def outbox(engine: Engine, poster: Poster) -> Iterator[Outbox]:
    with keeping(engine, poster) as outbox:
        yield outbox


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("receivers"))


def ended(engine: Engine, count: int = 1, tenant: str = "default") -> list[UUID]:
    """So many jobs came to an end."""
    ids = submitted(engine, *[new_job(tenant=tenant) for _ in range(count)])
    with engine.begin() as connection:
        requests.cancel(connection, ids)
    return ids


def due_now(engine: Engine) -> None:
    """Let all pauses and leases be over."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE webhooks SET retry_at = NULL"))
        connection.execute(
            text("UPDATE deliveries SET next_try_at = '2020-01-01Z' WHERE state = 'pending'")
        )


def message(url: str, *secrets: str, body: str = '{"type": "webhook.test"}') -> Leased:
    """One that was leased, in memory only."""
    now = datetime.now(UTC)
    return Leased(
        id=new_id(),
        webhook_id=new_id(),
        url=url,
        failing=False,
        body=body,
        secrets=tuple(map(SecretStr, secrets or (KNOWN_SECRET,))),
        until=now,
        began_at=now,
    )


def verified(received: Received, secret: str) -> object:
    """What a receiver makes of it with the specification's own library."""
    return Verifier(secret).verify(received.body, dict(received.headers))


def deliver_all(engine: Engine, outbox: Outbox) -> None:
    """Turns of the keeper until nothing is pending."""

    def nothing_left() -> bool:
        outbox.deliver()
        return all(one.state != "pending" for one in outbox_of(engine))

    eventually(nothing_left)


class TestMessages:
    def test_a_receiver_can_verify_what_it_was_told(self, engine: Engine, outbox: Outbox) -> None:
        with receiving() as receiver:
            _, secret = endpoint(engine, receiver.url)
            (job_id,) = ended(engine)
            deliver_all(engine, outbox)
        (received,) = receiver.received
        (told,) = outbox_of(engine)
        assert (received.path, received.id) == ("/hook", str(told.id))
        assert received.headers["content-type"] == "application/json"
        assert received.headers["host"] == receiver.url.split("/")[2]
        assert received.body == told.body.encode()
        body = verified(received, secret.get_secret_value())
        assert isinstance(body, dict)
        assert (body["type"], body["data"]["job_id"]) == ("job.cancelled", str(job_id))
        assert told.state == "delivered"

    def test_nobody_else_can_sign_one(self, engine: Engine, outbox: Outbox) -> None:
        with receiving() as receiver:
            endpoint(engine, receiver.url)
            ended(engine)
            deliver_all(engine, outbox)
        (received,) = receiver.received
        with pytest.raises(WebhookVerificationError):
            verified(received, KNOWN_SECRET)

    def test_it_is_signed_as_the_specification_says(
        self, poster: Poster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the example that its libraries share: time, id, body and secret are given."""
        monkeypatch.setattr(time, "time", lambda: 1614265330.9)
        with receiving() as receiver:
            one = message(receiver.url, body=KNOWN_BODY)
            object.__setattr__(one, "id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
            poster.send(one)
        (received,) = receiver.received
        assert received.headers["webhook-timestamp"] == "1614265330"
        assert received.headers["webhook-signature"] == (
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        )

    def test_old_and_new_secret_both_verify_while_one_takes_over(
        self, engine: Engine, outbox: Outbox
    ) -> None:
        with receiving() as receiver:
            webhook, old = endpoint(engine, receiver.url)
            with engine.begin() as connection:
                new = webhooks.rotate(connection, webhook.id, who="ann")
            ended(engine)
            deliver_all(engine, outbox)
        (received,) = receiver.received
        for secret in (old, new):
            assert verified(received, secret.get_secret_value())

    def test_a_retry_sends_the_same_bytes_under_the_same_id(
        self, engine: Engine, outbox: Outbox
    ) -> None:
        answers = iter([Answer(500), Answer(503), Answer(200)])
        with receiving(lambda _: next(answers)) as receiver:
            endpoint(engine, receiver.url)
            (job_id,) = ended(engine)
            for _ in range(3):
                due_now(engine)
                eventually(outbox.deliver)
                # What happens to the job meanwhile is not what was told.
                with engine.begin() as connection:
                    connection.execute(
                        text("""UPDATE jobs SET metadata = '{"later": "yes"}' WHERE id = :id"""),
                        {"id": job_id},
                    )
        (told,) = outbox_of(engine)
        assert {(one.id, one.body) for one in receiver.received} == {
            (str(told.id), told.body.encode())
        }
        assert [entry.status for entry in told.log] == [500, 503, 200]
        assert (told.state, told.tries) == ("delivered", 3)

    def test_text_of_all_kinds_arrives(self, poster: Poster) -> None:
        body = '{"key": "übergroß 🙂 \\u0001"}'
        with receiving() as receiver:
            poster.send(message(receiver.url, body=body))
        (received,) = receiver.received
        assert received.body == body.encode()
        assert verified(received, KNOWN_SECRET)


class TestAnswers:
    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_a_redirect_is_a_failure_and_is_not_followed(self, poster: Poster, status: int) -> None:
        with receiving() as other:
            moved = Answer(status, {"Location": other.url})
            with receiving(lambda _: moved) as receiver:
                outcome = poster.send(message(receiver.url))
        assert (outcome.status, outcome.delivered, outcome.gone) == (status, False, False)
        assert other.connections == 0

    @pytest.mark.parametrize(
        ("status", "delivered"), [(200, True), (204, True), (299, True), (400, False), (500, False)]
    )
    def test_only_2xx_is_well(self, poster: Poster, status: int, *, delivered: bool) -> None:
        with receiving(lambda _: Answer(status)) as receiver:
            outcome = poster.send(message(receiver.url))
        assert (outcome.status, outcome.error, outcome.delivered) == (status, None, delivered)

    @pytest.mark.parametrize(
        ("asked", "least", "most"),
        [
            ("120", 120, 120),
            ("0", 0, 0),
            ("-5", 0, 0),
            ("soon", 0, 0),
            ("1.5", 0, 0),
            ("9" * 30, 86_400, 86_400),
            (format_datetime(datetime(1999, 1, 1, tzinfo=UTC), usegmt=True), 0, 0),
            (format_datetime(datetime(2999, 1, 1, tzinfo=UTC), usegmt=True), 86_400, 86_400),
        ],
    )
    def test_a_receiver_may_ask_to_be_left_alone_for_a_day_at_most(
        self, poster: Poster, asked: str, least: float, most: float
    ) -> None:
        with receiving(lambda _: Answer(429, {"Retry-After": asked})) as receiver:
            outcome = poster.send(message(receiver.url))
        assert least <= outcome.retry_after <= most

    def test_a_receiver_may_say_until_when(self, poster: Poster) -> None:
        until = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
        with receiving(lambda _: Answer(429, {"Retry-After": until})) as receiver:
            outcome = poster.send(message(receiver.url))
        assert 6000 <= outcome.retry_after <= 7200

    def test_a_body_without_end_does_no_harm(self, poster: Poster) -> None:
        with receiving(lambda _: Answer(200, body=b"x" * 50_000_000)) as receiver:
            outcome = poster.send(message(receiver.url))
        assert outcome.delivered

    def test_a_receiver_that_drips_is_left_in_time(self) -> None:
        """Each piece comes soon enough; only the try's own time ends it."""
        with (
            receiving(lambda _: Answer(dribble=True)) as receiver,
            posting_from(seconds=0.5) as poster,
        ):
            outcome = poster.send(message(receiver.url))
        assert outcome.status is None
        assert outcome.error is not None
        assert outcome.error.startswith("timed_out")

    def test_one_that_takes_connections_and_says_nothing_is_left_in_time(self) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            posting_from(seconds=0.3) as poster,
        ):
            outcome = poster.send(message(f"http://127.0.0.1:{silent.getsockname()[1]}/"))
        assert (outcome.error or "").startswith("timed_out")

    def test_one_that_speaks_no_http_is_a_failure(self, poster: Poster) -> None:
        def babble(server: socket.socket) -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")

        with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:
            threads.submit(babble, server)
            outcome = poster.send(message(f"http://127.0.0.1:{server.getsockname()[1]}/"))
        assert (outcome.error or "").startswith("no_http")

    def test_nobody_there_is_a_failure(self, poster: Poster) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        outcome = poster.send(message(f"http://127.0.0.1:{port}/"))
        assert (outcome.error or "").startswith("connection_failed")

    def test_a_fault_of_ours_ends_no_keeper(self, poster: Poster) -> None:
        """A secret that is none, say; and it is not quoted."""
        with receiving() as receiver, capture_logs() as logs:
            outcome = poster.send(message(receiver.url, "whsec_"))
        assert (outcome.error or "").startswith("not_sent")
        assert [entry["event"] for entry in logs] == ["webhook_not_sent"]


class TestTls:
    def test_the_name_is_checked_though_the_address_is_pinned(
        self, certificates: Certificates
    ) -> None:
        trusting = certificates.trusting()

        def here(_host: str, _port: int) -> Sequence[str]:
            return ["127.0.0.1"]

        with (
            receiving(certificates=certificates) as receiver,
            posting_from(lookup=here, context=trusting) as poster,
        ):
            port = receiver.server_port
            good = poster.send(message(f"https://localhost:{port}/x"))
            bad = poster.send(message(f"https://receiver.example:{port}/x"))
        assert good.delivered
        assert (bad.error or "").startswith("connection_failed")
        (received,) = receiver.received
        assert received.headers["host"] == f"localhost:{port}"

    def test_a_certificate_that_nobody_trusts_is_a_failure(
        self, certificates: Certificates, poster: Poster
    ) -> None:
        with receiving(certificates=certificates) as receiver:
            outcome = poster.send(message(receiver.url))
        assert (outcome.error or "").startswith("connection_failed")
        assert receiver.received == []


class TestAddresses:
    @pytest.mark.parametrize(
        "found",
        [
            ["127.0.0.1"],
            ["::1"],
            ["::ffff:127.0.0.1"],
            ["169.254.169.254", "10.0.0.1", "fe80::1%lo"],
            ["64:ff9b::7f00:1", "2002:7f00:1::"],
        ],
    )
    def test_that_are_closed_are_not_connected_to(self, found: list[str]) -> None:
        """Though a receiver listens there, and the URL was good when it was given."""
        open_ = Egress(ports=WHEREVER.ports, plain=True)
        with receiving() as receiver, posting_from(open_, lookup=lambda *_: found) as poster:
            outcome = poster.send(message(f"http://receiver.example:{receiver.server_port}/"))
        assert (outcome.status, receiver.connections) == (None, 0)
        assert (outcome.error or "").startswith("address_refused")

    def test_numbers_that_the_system_reads_as_an_address_are_checked_like_one(self) -> None:
        open_ = Egress(ports=WHEREVER.ports, plain=True)
        with receiving() as receiver, posting_from(open_) as poster:
            outcomes = [
                poster.send(message(f"http://{host}:{receiver.server_port}/"))
                for host in ("2130706433", "0x7f.1", "127.1", "localhost")
            ]
        assert receiver.connections == 0
        for outcome in outcomes:
            assert (outcome.error or "").split(":")[0] in {"address_refused", "connection_failed"}

    def test_a_url_that_was_good_once_is_checked_again(self) -> None:
        """The operator has closed what was open when the endpoint was made."""
        with receiving() as receiver, posting_from(Egress()) as poster:
            outcome = poster.send(message(receiver.url))
        assert (outcome.error or "").startswith("invalid_webhook")
        assert receiver.connections == 0

    def test_of_several_only_the_open_ones_are_tried(self) -> None:
        with receiving(host="127.0.0.2") as receiver:
            open_ = Egress(
                networks=egress.networks("127.0.0.2/32,127.0.0.3/32"),
                ports=WHEREVER.ports,
                plain=True,
            )
            # Nobody listens at the second; the first is closed, though somebody does.
            found = ["127.0.0.1", "127.0.0.3", "127.0.0.2"]
            with (
                receiving(port=receiver.server_port) as closed,
                posting_from(open_, lookup=lambda *_: found) as poster,
            ):
                outcome = poster.send(message(f"http://a.example:{receiver.server_port}/"))
        assert outcome.delivered
        assert (receiver.connections, closed.connections) == (1, 0)

    def test_a_name_that_leads_elsewhere_the_second_time_is_looked_up_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rebinding: the first answer is open, every later one is a server inside."""
        asked: list[str] = []
        system = socket.getaddrinfo

        def rebinding(host: str, port: int, *more: int, **options: int) -> object:
            if host != "rebinding.example":
                return system(host, port, *more, **options)
            asked.append(host)
            address = "127.0.0.2" if len(asked) == 1 else "127.0.0.1"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        open_ = Egress(networks=egress.networks("127.0.0.2/32"), ports=WHEREVER.ports, plain=True)
        with (
            receiving(host="127.0.0.2") as outside,
            receiving(port=outside.server_port) as inside,
            posting_from(open_) as poster,
        ):
            url = f"http://rebinding.example:{outside.server_port}/"
            first = poster.send(message(url))
            assert (first.status, len(asked)) == (204, 1)
            second = poster.send(message(url))
        assert (second.error or "").startswith("address_refused")
        assert (outside.connections, inside.connections) == (1, 0)
        assert outside.received[0].headers["host"] == f"rebinding.example:{outside.server_port}"

    @pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "x" * 70 + ".example"])
    def test_names_that_are_none_are_a_failure(self, poster: Poster, host: str) -> None:
        outcome = poster.send(message(f"http://{host}:8000/"))
        assert (outcome.error or "").split(":")[0] in {"connection_failed", "invalid_webhook"}

    def test_a_resolver_that_says_nothing_holds_nobody_up_for_longer(self) -> None:
        said = threading.Event()

        def mute(_host: str, _port: int) -> Sequence[str]:
            said.wait(60)
            return []

        with posting_from(seconds=0.3, lookup=mute) as poster:
            outcome = poster.send(message("http://a.example/"))
            said.set()
        assert (outcome.error or "").startswith("timed_out")


class TestOutbox:
    def test_two_keepers_send_nothing_twice(self, engine: Engine) -> None:
        with receiving() as receiver, posting_from() as poster:
            for _ in range(3):
                endpoint(engine, receiver.url)
            ended(engine, 40)
            with (
                keeping(engine, poster) as one,
                keeping(engine, poster) as other,
                ThreadPoolExecutor(2) as keepers,
            ):
                turns = [keepers.submit(deliver_all, engine, keeper) for keeper in (one, other)]
                for turn in turns:
                    turn.result()
        ids = [received.id for received in receiver.received]
        assert len(ids) == len(set(ids)) == 120
        assert {one.tries for one in outbox_of(engine)} == {1}

    def test_a_receiver_that_hangs_holds_up_no_other(self, engine: Engine, outbox: Outbox) -> None:
        release = threading.Event()

        def hang(_: Received) -> Answer:
            release.wait(60)
            return Answer(500)

        with receiving(hang) as dead, receiving() as alive:
            endpoint(engine, dead.url, tenant="dead")
            endpoint(engine, alive.url, tenant="alive")
            ended(engine, 30, tenant="dead")
            eventually(lambda: (outbox.deliver(), dead.received)[1])
            ended(engine, 30, tenant="alive")
            eventually(lambda: (outbox.deliver(), len(alive.received) == 30)[1])
            held = len(dead.received)
            release.set()
        assert held <= 2

    def test_an_endpoint_that_is_gone_is_reported(self, engine: Engine, outbox: Outbox) -> None:
        with receiving(lambda _: Answer(410)) as receiver, capture_logs() as logs:
            webhook, _ = endpoint(engine, receiver.url)
            ended(engine)
            deliver_all(engine, outbox)
        said = [entry for entry in logs if entry["event"] == "webhook_disabled"]
        assert [entry["webhook_id"] for entry in said] == [str(webhook.id)]

    def test_what_is_under_way_when_a_keeper_stops_is_recorded(
        self, engine: Engine, poster: Poster
    ) -> None:
        release = threading.Event()

        def slow(_: Received) -> Answer:
            release.wait(60)
            return Answer(200)

        with receiving(slow) as receiver, ThreadPoolExecutor(1) as threads:
            endpoint(engine, receiver.url)
            ended(engine)
            keeper = Outbox(engine, poster.send, threads=4, turn_seconds=TURN)
            keeper.deliver()
            closing = threads.submit(keeper.close)
            release.set()
            closing.result()
        assert [one.state for one in outbox_of(engine)] == ["delivered"]

    def test_its_duties_are_a_keepers(self, engine: Engine, outbox: Outbox) -> None:
        with receiving() as receiver:
            endpoint(engine, receiver.url)
            ended(engine)
            settings = WebhookSettings(webhook_days=1)
            keeper = Keeper(webhook_duties(engine, outbox, settings), every_seconds=3600.0)

            def delivered() -> bool:
                keeper.once()
                return outbox_of(engine)[0].state == "delivered"

            eventually(delivered)
            with engine.begin() as connection:
                connection.execute(text("UPDATE deliveries SET ended_at = '2020-01-01Z'"))
            keeper.once()
        assert outbox_of(engine) == []

    def test_an_outage_of_the_database_loses_no_outcome(
        self, engine: Engine, database_settings: DatabaseSettings
    ) -> None:
        """What was sent before it is recorded after it."""
        go = threading.Event()

        def send(_: Leased) -> Outcome:
            go.wait(60)
            return Outcome(status=200, seconds=0.1)

        endpoint(engine)
        ended(engine)
        hasty = database.connect(
            database_settings.model_copy(update={"database_timeout_seconds": 0.2})
        )
        keeper = Outbox(hasty, send, threads=2, turn_seconds=TURN)
        keeper.deliver()
        with engine.begin() as connection:
            connection.execute(text("LOCK TABLE deliveries"))
            go.set()
            with pytest.raises(DBAPIError) as away:
                eventually(keeper.deliver)
        assert database.is_transient(away.value)
        eventually(keeper.deliver)
        assert [one.state for one in outbox_of(engine)] == ["delivered"]
        keeper.close()
        hasty.dispose()


class TestProcesses:
    """The keeper as it is run."""

    @staticmethod
    def _open(house: House, receiver: Receiver) -> None:
        house.environment |= {
            "TWOFOLD_WEBHOOK_ALLOW": "127.0.0.0/8",
            "TWOFOLD_WEBHOOK_HTTP": "true",
            "TWOFOLD_WEBHOOK_PORTS": str(receiver.server_port),
            "TWOFOLD_LOG_LEVEL": "debug",
        }

    def test_a_keeper_that_is_killed_before_it_records_loses_nothing(self, house: House) -> None:
        """The receiver gets the message twice then, under one id."""
        killed = threading.Event()

        def answer(_: Received) -> Answer:
            killed.wait(60)
            return Answer(200)

        with receiving(answer) as receiver:
            self._open(house, receiver)
            _, secret = endpoint(house.engine, receiver.url)
            ended(house.engine)
            keeper = house.keeper()
            eventually(lambda: receiver.received, why=house.logs)
            house.signal(keeper, "KILL")
            keeper.wait()
            killed.set()
            assert [one.state for one in outbox_of(house.engine)] == ["pending"]
            due_now(house.engine)
            house.keeper()
            eventually(
                lambda: [one.state for one in outbox_of(house.engine)] == ["delivered"],
                why=house.logs,
            )
        first, second = receiver.received
        assert (first.id, first.body) == (second.id, second.body)
        for received in (first, second):
            assert verified(received, secret.get_secret_value())
        said = house.logs()
        assert "whsec_" not in said
        assert secret.get_secret_value().removeprefix("whsec_") not in said

    def test_a_submission_is_told_of_when_the_keeper_ends_it(
        self, house: House, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By TLS, as the system trusts."""
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
        with receiving(certificates=certificates) as receiver:
            self._open(house, receiver)
            webhook, _ = endpoint(house.engine, receiver.url, everything=False)
            producer = house.producer()
            submission = producer.submit_many([], webhook=webhook.id)
            house.keeper()
            eventually(lambda: receiver.received, why=house.logs)
        body = receiver.received[0].body
        assert b"submission.finished" in body
        assert str(submission.id).encode() in body


def test_the_page_of_the_documents_names_the_errors_of_tries() -> None:
    page = (Path(__file__).parents[2] / "docs/16-webhooks.md").read_text(encoding="utf-8")
    for code in (*(code for _, code in posting._ERRORS), "address_refused", "not_sent"):
        assert f"`{code}`" in page
