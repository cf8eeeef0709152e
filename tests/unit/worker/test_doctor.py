"""The worker's part of the doctor: the model's files and the device, each way they can be wrong."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from twofold_schema.findings import Finding, Status
from twofold_schema.settings import WorkerSettings
from twofold_worker import doctor
from twofold_worker.upscaler import host_memory, provenance

UNET = "unet/diffusion_pytorch_model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

OK, WARNING, FAILED, _ = Status


@pytest.fixture
def model(stand_in_model: Path, tmp_path: Path) -> Path:
    """A model that does not say that it is the stand-in."""
    folder = tmp_path / "model"
    shutil.copytree(stand_in_model, folder)
    (folder / "STAND-IN.txt").unlink()
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no hub behind it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def checked(model: Path | str, revision: str | None = None) -> list[Finding]:
    return list(doctor.check_model(WorkerSettings(model=str(model), model_revision=revision)))


def record(folder: Path, name: str, sha256: str) -> None:
    """What `hf download --local-dir` leaves of a file."""
    path = folder / ".cache" / "huggingface" / "download" / f"{name}.metadata"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{COMMIT}\n{sha256}\n1712656091.123\n", encoding="utf-8")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _narrow(config: Path) -> None:
    plain = json.loads(config.read_text())
    plain["block_out_channels"] = [32, 32, 32, 32]
    plain["time_cond_proj_dim"] = None
    config.write_text(json.dumps(plain))


class TestFolder:
    def test_without_records_its_hashes_are_said(self, model: Path) -> None:
        found = checked(model)

        assert {finding.status for finding in found} == {OK}
        said = "\n".join(finding.what for finding in found)
        assert f"{UNET}: sha256 {sha256(model / UNET)}; the hub left no record" in said
        assert provenance.digest(provenance.hashes(model)) in said

    def test_a_file_is_compared_with_what_the_hub_recorded(self, model: Path) -> None:
        record(model, UNET, sha256(model / UNET))
        assert "as the hub recorded it" in next(f for f in checked(model) if UNET in f.what).what
        record(model, UNET, "0" * 64)

        finding = next(finding for finding in checked(model) if UNET in finding.what)

        assert finding.status is FAILED
        assert sha256(model / UNET) in finding.what
        assert "0" * 64 in finding.what
        assert "--force-download" in finding.mend

    def test_its_digest_is_compared_with_the_setting(self, model: Path) -> None:
        digest = provenance.digest(provenance.hashes(model))

        assert "as TWOFOLD_MODEL_REVISION says" in checked(model, digest)[-1].what
        finding = checked(model, "sha256:0000000000000000")[-1]
        assert finding.status is FAILED
        assert digest in finding.what
        assert "sha256:0000000000000000" in finding.what

    @pytest.mark.parametrize(
        ("spoil", "name"),
        [
            (Path.unlink, UNET),
            (lambda path: path.write_bytes(path.read_bytes()[:-100]), UNET),
            (Path.unlink, "model_index.json"),
            (Path.unlink, "tokenizer/tokenizer.json"),
            (_narrow, "unet/config.json"),
        ],
    )
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_one_that_is_not_whole_is_told(
        self, model: Path, spoil: Callable[[Path], None], name: str
    ) -> None:
        spoil(model / name)

        (finding,) = checked(model)

        assert finding.status is FAILED
        assert "not a whole x2 latent upscaler" in finding.what
        assert "hf download" in finding.mend

    def test_the_stand_in_is_no_model_for_real_pictures(self, stand_in_model: Path) -> None:
        finding = checked(stand_in_model)[-1]

        assert finding.status is WARNING
        assert "noise" in finding.what


class TestHub:
    @pytest.mark.parametrize(("offline", "status"), [(True, FAILED), (False, WARNING)])
    def test_one_that_is_not_fetched_yet_is_not_fetched_by_the_doctor(
        self, hub: Path, monkeypatch: pytest.MonkeyPatch, status: Status, *, offline: bool
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)

        (finding,) = checked("nobody/upscaler", COMMIT)

        assert finding.status is status
        assert f"hf download nobody/upscaler --revision {COMMIT}" in finding.mend

    def test_one_that_is_not_pinned_is_told(self, hub: Path) -> None:
        (finding,) = checked("nobody/upscaler", "main")

        assert finding.status is FAILED
        assert "pin a commit" in finding.what

    @pytest.mark.parametrize(("changed", "status"), [(False, OK), (True, FAILED)])
    def test_a_file_of_the_cache_is_named_by_its_hash(
        self, hub: Path, model: Path, status: Status, *, changed: bool
    ) -> None:
        repository = hub / "models--nobody--upscaler"
        snapshot = repository / "snapshots" / COMMIT
        shutil.copytree(model, snapshot)
        (repository / "blobs").mkdir()
        name = "0" * 64 if changed else sha256(snapshot / UNET)
        (snapshot / UNET).rename(repository / "blobs" / name)
        (snapshot / UNET).symlink_to(repository / "blobs" / name)

        finding = next(f for f in checked("nobody/upscaler", COMMIT) if UNET in f.what)

        assert finding.status is status


class TestDevice:
    def test_the_cpu_says_its_threads_and_memory(self, stand_in_model: Path) -> None:
        (finding,) = self._checked(model=str(stand_in_model), device="cpu")

        assert finding.status is OK
        assert "threads" in finding.what
        assert "GiB free; float32" in finding.what

    def test_one_that_torch_does_not_see(self) -> None:
        (finding,) = self._checked(device="cuda:99")

        assert finding.status is FAILED
        assert "cuda:99" in finding.what

    def test_a_dtype_that_it_only_emulates(self) -> None:
        (finding,) = self._checked(device="cpu", dtype="bfloat16")

        assert finding.status is WARNING
        assert "TWOFOLD_DTYPE=auto" in finding.mend

    @pytest.mark.parametrize(("free", "status"), [(2 * 2**30, WARNING), (2**40, OK)])
    def test_memory_is_compared_with_what_the_real_model_needs(
        self, monkeypatch: pytest.MonkeyPatch, free: int, status: Status
    ) -> None:
        monkeypatch.setattr(host_memory, "free_bytes", lambda: free)

        (finding,) = self._checked(device="cpu")

        assert finding.status is status
        assert ("512 pixels need 6.1" in finding.what) == (status is WARNING)

    @staticmethod
    def _checked(**settings: str) -> list[Finding]:
        return list(doctor.check_device(WorkerSettings.model_validate(settings)))
