"""The demo model that comes with Twofold: small, trained on pictures drawn by code, for trying.

How it was made is said in `tools/demo_model`, how good it is in docs/09-demo-model.md.
"""

from pathlib import Path
from typing import Final

from twofold_schema.errors import ConfigError
from twofold_worker.upscaler import provenance

FOLDER: Final = Path(__file__).with_name("demo_model")

#: The sha256 of each file, in the form of `sha256sum`; beside the files, and not one of them.
SUMS: Final = "SHA256SUMS"


def check(folder: Path = FOLDER) -> dict[str, str]:
    """The sha256 of each file by its name, as `provenance.hashes`, where all are as they came.

    Args:
        folder: Of the demo model.

    Raises:
        ConfigError: A file is missing or damaged; the message names it and its expected sha256.
    """
    mend = "install Twofold again, with `pip install --force-reinstall --no-deps twofold`."
    try:
        lines = (folder / SUMS).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"TWOFOLD_MODEL=demo: {folder / SUMS} cannot be read; {mend}") from error
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = {name: digest for name, digest in provenance.hashes(folder).items() if name != SUMS}
    for name, digest in expected.items():
        if found.get(name) != digest:
            what = "damaged" if name in found else "missing"
            raise ConfigError(
                f"TWOFOLD_MODEL=demo: {folder / name} is {what}; its sha256 must be {digest}; "
                f"{mend}"
            )
    return {name: found[name] for name in expected}
