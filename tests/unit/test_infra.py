"""What no linter knows about `infra/`: that it fits the code, the secrets and itself."""

import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from infra import write_secrets

from twofold_producer.doctor.checks import CheckName
from twofold_schema.environment import PREFIX
from twofold_schema.settings import PARTS, DatabaseSettings, WorkerSettings

ROOT = Path(__file__).parents[2]
FILES = sorted(path for path in (ROOT / "infra").iterdir() if path.is_file())
COMPOSE = yaml.safe_load((ROOT / "infra/compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
ONE_SHOTS = {name for name, service in SERVICES.items() if service["restart"] == "no"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def has_health_check(service: dict[str, Any]) -> bool:
    return bool(service.get("healthcheck", {}).get("test"))


def seconds(duration: str) -> int:
    (number,) = re.findall(r"^(\d+)s$", duration)
    return int(number)


def with_defaults(text: str) -> str:
    """What compose makes of it where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.fixture
def secrets_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with secrets as a deployment has them."""
    monkeypatch.setattr(write_secrets, "FOLDER", tmp_path / "secrets")
    assert write_secrets.main() == 0
    return tmp_path / "secrets"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_settings_that_the_files_name_exist(path: Path) -> None:
    known = {PREFIX + name.upper() for part in PARTS for name in part.model_fields}
    named = re.findall(rf"\b{PREFIX}[A-Z0-9_]*[A-Z0-9]\b", path.read_text(encoding="utf-8"))
    assert {name.removesuffix("_FILE") for name in named} <= known


@pytest.mark.parametrize("name", sorted(OURS))
def test_settings_of_a_service_are_right(name: str, secrets_folder: Path) -> None:
    """With the secrets that are written and mounted, every part of the settings can be loaded."""
    mounted = {f"/run/secrets/{secret}" for secret in OURS[name]["secrets"]}
    environment = OURS[name]["environment"]
    assert {text for text in environment.values() if text.startswith("/run/")} == mounted
    if not environment:
        return
    for part in PARTS:
        part.load(
            {
                variable: with_defaults(text).replace("/run/secrets", str(secrets_folder))
                for variable, text in environment.items()
            }
        )


def test_the_secrets_are_those_that_are_written(secrets_folder: Path) -> None:
    files = {secret["file"] for secret in COMPOSE["secrets"].values()}
    assert files == {f"./secrets/{path.name}" for path in secrets_folder.iterdir()}


def test_secrets_are_closed_to_others_and_open_to_containers(secrets_folder: Path) -> None:
    assert stat.S_IMODE(secrets_folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets_folder.iterdir()} == {0o444}


def test_secrets_are_never_written_over(
    secrets_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_text() for path in secrets_folder.iterdir()}

    assert write_secrets.main() == 1

    assert "exists" in capsys.readouterr().err
    assert {path: path.read_text() for path in secrets_folder.iterdir()} == before


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_ends_by_itself_or_is_asked_how_it_is(name: str) -> None:
    assert has_health_check(SERVICES[name]) != (name in ONE_SHOTS)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_waits_for_what_can_come_true(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        ends = how["condition"] == "service_completed_successfully"
        assert ends == (other in ONE_SHOTS)
        # What has a profile that the asking service lacks would not be started with it.
        assert set(SERVICES[other].get("profiles", ())) <= set(SERVICES[name].get("profiles", ()))


def test_ports_are_published_to_this_host_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)


def test_urls_that_the_api_hands_out_lead_to_the_port_of_the_store() -> None:
    url = with_defaults(SERVICES["api"]["environment"][f"{PREFIX}S3_PUBLIC_ENDPOINT_URL"])
    published = {port.rpartition(":")[0] for port in SERVICES["s3"]["ports"]}
    assert url.removeprefix("http://") in published


def test_health_checks_ask_the_doctor_for_what_it_knows() -> None:
    tests = [service.get("healthcheck", {}).get("test", []) for service in OURS.values()]
    asked = {test[-1] for test in tests if test[1:3] == ["twofold", "doctor"]}
    assert asked == {CheckName.KEEPER, CheckName.WORKER}


def test_processes_may_end_by_themselves_before_they_are_killed() -> None:
    stop = WorkerSettings.model_fields["stop_seconds"].default
    statement = DatabaseSettings.model_fields["database_timeout_seconds"].default
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > stop
    assert seconds(SERVICES["worker-cpu"]["stop_grace_period"]) > stop
    assert seconds(SERVICES["keeper"]["stop_grace_period"]) > statement


def test_images_are_of_this_version() -> None:
    tags = {service["image"].partition(":")[2] for service in OURS.values()}
    assert tags == {PROJECT["project"]["version"]}


def test_constraints_are_versions_that_every_machine_can_have() -> None:
    """`2.13.0+cpu` is on no GPU host; a freeze on a machine with such a wheel would write it."""
    assert "+" not in (ROOT / "constraints.txt").read_text(encoding="utf-8")


def test_the_build_sees_what_a_wheel_is_made_of() -> None:
    seen = set((ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines())
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {package.partition("/")[0] for package in packages}
    needed |= {"pyproject.toml", "constraints.txt", PROJECT["project"]["readme"]}
    needed |= set(PROJECT["project"]["license-files"])
    assert {f"!{name}" for name in needed} <= seen
