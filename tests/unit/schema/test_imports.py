"""Importing the contract or the asking side has no effect outside the process, and is light."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import twofold_producer
import twofold_schema

# Run by Alembic and by Python as scripts, imported by nobody.
SCRIPTS = (
    "twofold_schema.migrations.",
    "twofold_producer.__main__",
    "twofold_producer.dev.far_end",
)

MODULES = [
    module.name
    for package in (twofold_schema, twofold_producer)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.startswith(SCRIPTS)
]

HEAVY = ["torch", "diffusers", "transformers", "numpy", "boto3", "botocore"]

# Other people's code may look at the environment (rich at the terminal, pydantic at its plugins);
# whoever reads it in a line of ours is found, past the mapping's own methods.
GUARDED_IMPORT = """
import importlib, json, os, sys

faults = []

def reads(what):
    frame = sys._getframe(2)
    while frame.f_globals["__name__"] in {"os", "_collections_abc", "collections.abc"}:
        frame = frame.f_back
    if frame.f_globals["__name__"].startswith("twofold"):
        faults.append(f"{frame.f_globals['__name__']} reads {what}")

class Guarded(type(os.environ)):
    def __getitem__(self, name):
        reads(name)
        return super().__getitem__(name)

    def __iter__(self):
        reads("the whole environment")
        return super().__iter__()

NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}

def on_audit(event, arguments):
    if event in NETWORK:
        faults.append(f"{event}{arguments[1:]}")

os.environ.__class__ = Guarded
sys.addaudithook(on_audit)
for name in sys.argv[1:]:
    importlib.import_module(name)
sys.stdout.write(json.dumps([faults, sorted(sys.modules)]))
"""


def imported(*modules: str, folder: Path | None = None) -> tuple[list[str], list[str]]:
    """What modules did wrong while a fresh process imported them, and all that it has then."""
    answer = subprocess.run(
        [sys.executable, "-c", GUARDED_IMPORT, *modules],
        cwd=folder,
        capture_output=True,
        check=True,
        timeout=120,
    )
    faults, loaded = json.loads(answer.stdout)
    return faults, loaded


def test_no_module_touches_network_or_environment() -> None:
    faults, loaded = imported(*MODULES)

    assert faults == []
    assert set(MODULES) <= set(loaded)


def test_the_guard_sees_whoever_does(tmp_path: Path) -> None:
    (tmp_path / "twofold_naughty.py").write_text(
        "import os, socket\n"
        "from twofold_schema.settings import LogSettings\n"
        "os.environ.get('ONE')\n"
        "os.getenv('TWO')\n"
        "'THREE' in os.environ\n"
        "LogSettings.load()\n"
        "socket.socket().connect_ex(('127.0.0.1', 9))\n"
        "socket.getaddrinfo('localhost', 80)\n"
    )

    faults, _ = imported("twofold_naughty", folder=tmp_path)

    who, what = zip(
        *(fault.split(" reads ") for fault in faults if " reads " in fault), strict=True
    )
    assert what[:4] == ("ONE", "TWO", "THREE", "the whole environment")
    assert set(who) == {"twofold_naughty", "twofold_schema.environment"}
    assert any(fault.startswith("socket.connect") for fault in faults)
    assert any(fault.startswith("socket.getaddrinfo") for fault in faults)


def test_the_asking_side_brings_neither_the_model_nor_s3() -> None:
    _, loaded = imported("twofold_producer.producer", "twofold_producer.cli")

    assert not set(HEAVY) & set(loaded)
    assert not any(name.startswith("twofold_worker") for name in loaded)


def test_the_contract_brings_no_broker() -> None:
    _, loaded = imported(*(name for name in MODULES if name.startswith("twofold_schema")))

    assert not {"celery", "kombu", "twofold_producer", "twofold_worker"} & set(loaded)
