"""Makes the client for threads of the one for an event loop: `python -m tools.sync_client`."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import unasync

ROOT: Final = Path(__file__).parent.parent
CLIENT: Final = ROOT / "producer/twofold_producer/client"
_FROM, _TO = "asynchronous", "synchronous"

#: What the library does not know by itself; it takes `async` and `await` out.
_NAMES: Final = {
    "AsyncClient": "Client",
    "AsyncFollower": "Follower",
    "AsyncJobs": "Jobs",
    "AsyncOperator": "Operator",
    "AsyncSender": "Sender",
    "AsyncSubmitter": "Submitter",
    "aclose": "close",
    "aclosing": "closing",
    "aiter_lines": "iter_lines",
    "aread": "read",
    "async_body": "body",
    "asynchronous": "synchronous",
    "asyncio": "time",
}


def made() -> Mapping[str, str]:
    """Every module of the client for threads, by its file's name, as it has to be."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, _FROM), Path(folder, _TO)
        shutil.copytree(CLIENT / _FROM, before, ignore=shutil.ignore_patterns("__pycache__"))
        sources = sorted(before.glob("*.py"))
        unasync.unasync_files(
            [str(source) for source in sources],
            [unasync.Rule(f"/{_FROM}/", f"/{_TO}/", additional_replacements=_NAMES)],
        )
        for source in sources:
            path = after / source.name
            note = f"# Made of {_FROM}/{source.name} by `python -m tools.sync_client`.\n"
            path.write_text(note + path.read_text(encoding="utf-8"), encoding="utf-8")
        _ruff("check", "--select", "I,F401,UP028", "--fix", "--unsafe-fixes", str(after))
        _ruff("format", str(after))
        return {path.name: path.read_text(encoding="utf-8") for path in sorted(after.glob("*.py"))}


def _ruff(command: str, *arguments: str) -> None:
    ruff = [sys.executable, "-m", "ruff", command, "--quiet", "--no-cache"]
    subprocess.run(
        [*ruff, "--config", str(ROOT / "pyproject.toml"), *arguments], cwd=ROOT, check=True
    )


def main() -> None:
    """Write them."""
    folder = CLIENT / _TO
    folder.mkdir(exist_ok=True)
    modules = made()
    for path in folder.glob("*.py"):
        path.unlink()
    for name, text in modules.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
