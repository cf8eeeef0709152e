"""Which files a model is made of: one digest on every host, compared before a worker starts."""

import shutil
from pathlib import Path

import pytest

from twofold_schema.errors import ConfigError
from twofold_worker.upscaler import provenance
from twofold_worker.upscaler.diffusion import DiffusionUpscaler

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _load(model: Path, revision: str | None) -> DiffusionUpscaler:
    return DiffusionUpscaler.load(str(model), revision=revision, device="cpu", dtype="auto")


def test_what_the_hubs_client_keeps_is_no_part_of_the_digest(
    stand_in_model: Path, tmp_path: Path
) -> None:
    """It holds the time of the download: two hosts would never agree."""
    model = tmp_path / "model"
    shutil.copytree(stand_in_model, model)
    before = provenance.digest(provenance.hashes(model))
    record = model / ".cache" / "huggingface" / "download" / "model_index.json.metadata"
    record.parent.mkdir(parents=True)
    record.write_text(f"{COMMIT}\n{COMMIT}\n1712656091.123\n", encoding="utf-8")

    assert provenance.digest(provenance.hashes(model)) == before


def test_a_worker_takes_only_the_folder_that_its_revision_names(stand_in_model: Path) -> None:
    digest = provenance.digest(provenance.hashes(stand_in_model))

    assert _load(stand_in_model, digest).revision == digest
    with pytest.raises(ConfigError, match=f"are {digest}, but .* is sha256:0123"):
        _load(stand_in_model, "sha256:0123456789abcdef")


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_a_commit_says_nothing_about_a_folder(stand_in_model: Path, revision: str | None) -> None:
    digest = provenance.digest(provenance.hashes(stand_in_model))

    assert _load(stand_in_model, revision).revision == digest
