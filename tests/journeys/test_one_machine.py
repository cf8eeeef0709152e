"""`twofold demo` and `twofold dev`: everything on one machine, and nothing left of it."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from urllib.request import Request, urlopen

import psutil
import pytest
from PIL import Image
from tests.house import ROOT, eventually
from tests.pictures import encoded
from tests.servers.receiver import receiving
from tests.shell import Shell

from twofold_schema.settings import StorageSettings
from twofold_schema.storage.places import OpenPlaces

TWOFOLD = [sys.executable, "-m", "twofold_producer"]


def test_the_demo_doubles_the_pictures_it_is_given_and_names_the_bad_one(tmp_path: Path) -> None:
    """With settings in the shell that are another Twofold's."""
    given = tmp_path / "my pictures"
    given.mkdir()
    (given / "wide.png").write_bytes(encoded(70, 20))
    (given / "wide.jpg").write_bytes(encoded(33, 50, form="JPEG"))
    (given / "bad.png").write_bytes(b"no picture")
    others = {"TWOFOLD_DATABASE_URL_FILE": str(tmp_path / "none"), "TWOFOLD_MAX_SIDE": "8"}
    # Into the folder of the sources, where somebody's own files have the names of the demo's.
    (given / "sheet.png").write_bytes(b"my accounts")
    own = {path: path.read_bytes() for path in given.iterdir()}
    sources = sorted(own.keys() - {given / "sheet.png"})

    demo = subprocess.run(
        [*TWOFOLD, "demo", "--out", given, *sources],
        cwd=ROOT,
        env={**os.environ, **others},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert demo.returncode == 3, demo.stderr
    assert "source_unreadable" in demo.stderr
    assert str(given) in demo.stdout
    assert "demo model" in demo.stderr
    assert {path: path.read_bytes() for path in own} == own
    made = {path.name for path in given.iterdir() if path not in own}
    assert made == {"wide-x2.png", "wide-x2-2.png", "sheet-2.png"}
    assert _size(given / "wide-x2.png") == (66, 100)
    assert _size(given / "wide-x2-2.png") == (140, 40)
    assert _size(given / "sheet-2.png") > (400, 200)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_of_dev_is_left_when_it_ends(
    tmp_path: Path, number: signal.Signals, request: pytest.FixtureRequest
) -> None:
    """Ended in good order by Ctrl-C, or killed."""
    said = tmp_path / "said"
    with said.open("w") as output:
        dev = subprocess.Popen([*TWOFOLD, "dev"], cwd=ROOT, stdout=output, stderr=output)
    request.addfinalizer(dev.kill)
    eventually(lambda: "Ctrl-C ends" in said.read_text(), within=120, why=said.read_text)
    exported = dict(re.findall(r"^  export (TWOFOLD_\w+)=(\S+)$", said.read_text(), re.MULTILINE))
    assert _over_signed_urls(exported, b"mine") == b"mine"
    assert _told(Shell(exported, tmp_path)) == "webhook.test"
    parts = psutil.Process(dev.pid).children(recursive=True)
    assert {"postgres", "redis-server"} <= {part.name() for part in parts}

    os.kill(dev.pid, number)

    status = dev.wait(60)
    assert status == (0 if number == signal.SIGINT else -number)
    _, left = psutil.wait_procs(parts, timeout=90)
    assert not left


def test_dev_says_where_it_listens_now_and_not_where_it_did_before(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # One that every user can enter, Postgres's too: pytest's own is closed to others.
    kept = tempfile.TemporaryDirectory()
    request.addfinalizer(kept.cleanup)
    data, said = Path(kept.name), tmp_path / "said"
    data.chmod(0o711)
    (data / "logs").mkdir()
    (data / "logs" / "api.log").write_text('{"url": "http://127.0.0.1:9", "event": "listening"}\n')
    with said.open("w") as output:
        dev = subprocess.Popen(
            [*TWOFOLD, "dev", "--data", data], cwd=ROOT, stdout=output, stderr=output
        )
    request.addfinalizer(lambda: dev.wait(60))
    request.addfinalizer(lambda: dev.send_signal(signal.SIGINT))
    eventually(
        lambda: dev.poll() is not None or "Ctrl-C ends" in said.read_text(),
        within=120,
        why=said.read_text,
    )

    (url,) = re.findall(r"^  export TWOFOLD_URL=(\S+)$", said.read_text(), re.MULTILINE)
    with urlopen(f"{url}/readyz", timeout=20) as answer:
        assert answer.status == 204


def _told(twofold: Shell) -> str:
    """What a receiver on this machine is sent first."""
    with receiving() as receiver:
        made = twofold("webhooks", "create", receiver.url, "-o", "json")
        assert made.returncode == 0, made.stderr
        tested = twofold("webhooks", "test", json.loads(made.stdout)["id"])
        assert tested.returncode == 0, tested.stderr
        eventually(lambda: receiver.received)
        sent: str = json.loads(receiver.received[0].body)["type"]
        return sent


def _over_signed_urls(exported: Mapping[str, str], data: bytes) -> bytes:
    """What comes back of an upload, both with nothing but a URL."""
    settings = StorageSettings.load(exported)
    places, uri = OpenPlaces(settings), settings.uploads_uri.child("a b.png")
    minute = timedelta(minutes=1)
    write = places.sign_write(uri, content_type="image/png", expires=minute)
    put = Request(write, data, {"Content-Type": "image/png"}, method="PUT")
    with urlopen(put, timeout=20) as answer:
        assert answer.status == 200
    with urlopen(places.sign_read(uri, expires=minute), timeout=20) as answer:
        content: bytes = answer.read()
        return content


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size
