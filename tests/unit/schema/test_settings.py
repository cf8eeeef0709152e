"""Settings: wrong ones are refused by name, secrets stay secret, nothing else is guessed."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from twofold_schema.environment import PREFIX, Settings, describe
from twofold_schema.errors import ConfigError, TooLarge
from twofold_schema.settings import (
    PARTS,
    ApiSettings,
    BrokerSettings,
    ClientSettings,
    DatabaseSettings,
    KeeperSettings,
    LimitSettings,
    LogSettings,
    StorageSettings,
    WebhookSettings,
    WorkerSettings,
)

SECRET = "hunter2"
COMPLETE = {
    "TWOFOLD_DATABASE_URL": f"postgresql://user:{SECRET}@host:5432/name",
    "TWOFOLD_BROKER_URL": f"rediss://:{SECRET}@host:6379/0",
}
WRONG = [
    (DatabaseSettings, "DATABASE_URL", "mysql://host/name"),
    (DatabaseSettings, "DATABASE_URL", "postgresql"),
    (DatabaseSettings, "DATABASE_URL", "postgresql://"),
    (DatabaseSettings, "DATABASE_URL", f"postgresql://user:{SECRET}@host:54x/name"),
    (DatabaseSettings, "DATABASE_POOL_SIZE", "0"),
    (DatabaseSettings, "DATABASE_POOL_SIZE", "many"),
    (DatabaseSettings, "DATABASE_TIMEOUT_SECONDS", "0"),
    (BrokerSettings, "BROKER_URL", "amqp://host"),
    (BrokerSettings, "BROKER_URL", "redis"),
    (BrokerSettings, "BROKER_URL", "filesystem://relative"),
    (BrokerSettings, "BROKER_TIMEOUT_SECONDS", "-1"),
    (StorageSettings, "RESULTS", "results"),
    (StorageSettings, "RESULTS", "s3://bucket"),
    (StorageSettings, "UPLOADS", "s3://bucket/../other"),
    (StorageSettings, "FILE_ROOT", "/nowhere/at/all"),
    (StorageSettings, "S3_ENDPOINT_URL", "localhost:9000"),
    (StorageSettings, "S3_ENDPOINT_URL", "http://"),
    (StorageSettings, "S3_TIMEOUT_SECONDS", "nan"),
    (StorageSettings, "S3_PUBLIC_ENDPOINT_URL", "s3.example.com"),
    (StorageSettings, "S3_ATTEMPTS", "0"),
    (StorageSettings, "S3_CONNECTIONS", "0"),
    (StorageSettings, "S3_CHECKSUMS", "never"),
    (StorageSettings, "S3_CONDITIONAL_WRITES", "perhaps"),
    (StorageSettings, "FILE_URL", "/files"),
    (StorageSettings, "FILE_URL_SECRET", "short"),
    (LimitSettings, "MAX_SIDE", "1.5"),
    (LimitSettings, "MAX_PIXELS", "100000000"),
    (LimitSettings, "MAX_SOURCE_BYTES", "0"),
    (LimitSettings, "MAX_STEPS", "151"),
    (LimitSettings, "POOLS", "4194304"),
    (LimitSettings, "POOLS", "big=2048x2048"),
    (LimitSettings, "POOLS", "big=4194304;small=1048576"),
    (LimitSettings, "POOLS", "big=4194304,big=1048576"),
    (LimitSettings, "POOLS", "none=0"),
    (LimitSettings, "POOLS", "a-side=2048"),
    (LimitSettings, "POOLS", "big=9999999999999999999"),
    (LimitSettings, "MAX_ATTEMPTS", "21"),
    (LimitSettings, "KEY_DAYS", "nan"),
    (WorkerSettings, "ENV", "staging"),
    (WorkerSettings, "DEVICE", "gpu"),
    (WorkerSettings, "DEVICE", "cuda:one"),
    (WorkerSettings, "DTYPE", "int8"),
    (WorkerSettings, "PROCESSES", "-1"),
    (WorkerSettings, "MAX_BATCH", "33"),
    (WorkerSettings, "COMPILE_SIZES", "512"),
    (WorkerSettings, "COMPILE_SIZES", "512x500"),
    (WorkerSettings, "COMPILE_SIZES", "0x512"),
    (WorkerSettings, "MEMORY_BUDGET", "0"),
    (WorkerSettings, "MEMORY_BUDGET", "12GiB"),
    (WorkerSettings, "PINNED_RUNG", "1"),
    (WorkerSettings, "PINNED_RUNG", "3"),
    (WorkerSettings, "PREVIEW_SIDE", "-1"),
    (WorkerSettings, "IO_THREADS", "65"),
    (WorkerSettings, "POLL_SECONDS", "inf"),
    (WorkerSettings, "LEASE_SECONDS", "soon"),
    (WorkerSettings, "STALL_SECONDS", "0"),
    (WorkerSettings, "RUN_DEADLINE_SECONDS", "1e9"),
    (WorkerSettings, "STOP_SECONDS", "nan"),
    (KeeperSettings, "KEEPER_SECONDS", "0"),
    (KeeperSettings, "SEAL_AFTER_HOURS", "0"),
    (KeeperSettings, "COLLECT_AFTER_HOURS", "-1"),
    (KeeperSettings, "COLLECT_EVERY_SECONDS", "0"),
    (KeeperSettings, "HISTORY_AFTER_HOURS", "-1"),
    (KeeperSettings, "JOBS_DAYS", "0"),
    (KeeperSettings, "EVENTS_DAYS", "0"),
    (KeeperSettings, "ROLLUP_DAYS", "nan"),
    (KeeperSettings, "COLLECT_DRY_RUN", "perhaps"),
    (WebhookSettings, "WEBHOOK_ALLOW", "10.0.0.1/8"),
    (WebhookSettings, "WEBHOOK_HTTP", "perhaps"),
    (WebhookSettings, "WEBHOOK_PORTS", "0"),
    (WebhookSettings, "WEBHOOK_TIMEOUT_SECONDS", "31"),
    (WebhookSettings, "WEBHOOK_THREADS", "1"),
    (WebhookSettings, "WEBHOOK_DAYS", "0"),
    (ApiSettings, "API_PORT", "65536"),
    (ApiSettings, "API_THREADS", "0"),
    (ApiSettings, "API_MAX_BODY_BYTES", "1023"),
    (ApiSettings, "API_MAX_MANIFEST_BYTES", "0"),
    (ApiSettings, "API_LINK_SECONDS", "604801"),
    (ApiSettings, "API_CORS_ORIGINS", "https://a, *"),
    (ClientSettings, "URL", "localhost:8080"),
    (ClientSettings, "URL", "https://host/?query"),
    (LogSettings, "LOG_LEVEL", "verbose"),
    (LogSettings, "LOG_FORMAT", "xml"),
]
# Any text may be right.
UNCHECKED = {
    "API_HOST",
    "API_KEY",
    "API_TRUSTED_PROXIES",
    "BUCKETS",
    "CACHE_DIR",
    "MODEL",
    "MODEL_REVISION",
}


class TestWrongSettings:
    @pytest.mark.parametrize(("part", "name", "text"), WRONG)
    def test_are_refused_by_the_name_of_their_variable(
        self, part: type[Settings], name: str, text: str
    ) -> None:
        with pytest.raises(ConfigError, match=f"{PREFIX}{name} is wrong") as refused:
            part.load(COMPLETE | {PREFIX + name: text})
        assert refused.value.code == "invalid_setting"

    def test_every_setting_that_can_be_wrong_is_among_these(self) -> None:
        every = {name.upper() for part in PARTS for name in part.model_fields}

        assert {name for _, name, _ in WRONG} == every - UNCHECKED

    def test_all_that_is_wrong_with_a_part_is_said_at_once(self) -> None:
        with pytest.raises(ConfigError) as refused:
            LimitSettings.load({"TWOFOLD_MAX_SIDE": "0", "TWOFOLD_KEY_DAYS": "never"})

        assert "TWOFOLD_MAX_SIDE" in refused.value.message
        assert "TWOFOLD_KEY_DAYS" in refused.value.message

    def test_signed_urls_of_files_need_a_secret(self) -> None:
        environment = {"TWOFOLD_FILE_URL": "http://127.0.0.1:8000/files"}

        with pytest.raises(ConfigError, match=r"TWOFOLD_FILE_URL_SECRET is wrong: .* random"):
            StorageSettings.load(environment)
        environment["TWOFOLD_FILE_URL_SECRET"] = "s" * 16
        assert StorageSettings.load(environment).file_url

    def test_a_missing_one_is_named(self) -> None:
        with pytest.raises(ConfigError, match="TWOFOLD_DATABASE_URL is not set"):
            DatabaseSettings.load({})

    @pytest.mark.parametrize("part", PARTS)
    @pytest.mark.parametrize("name", ["TWOFOLD_", "TWOFOLD_MAX_SIDES", "TWOFOLD_max_side"])
    def test_an_unknown_name_is_refused_by_every_part(
        self, part: type[Settings], name: str
    ) -> None:
        with pytest.raises(ConfigError, match=f"{name} is not a setting"):
            part.load(COMPLETE | {name: "1"})

    def test_what_belongs_to_other_programs_is_left_alone(self) -> None:
        others = {"DATABASE_URL": "x", "AWS_REGION": "y", "MY_TWOFOLD_Z": "z"}

        LimitSettings.load(others)

    def test_an_empty_variable_is_one_that_is_not_set(self) -> None:
        assert LimitSettings.load({"TWOFOLD_MAX_SIDE": ""}) == LimitSettings()
        with pytest.raises(ConfigError, match="TWOFOLD_BROKER_URL is not set"):
            BrokerSettings.load({"TWOFOLD_BROKER_URL": ""})


class TestFiles:
    def test_a_secret_is_read_from_the_file_that_is_named(self, tmp_path: Path) -> None:
        file = tmp_path / "url"
        file.write_text(COMPLETE["TWOFOLD_DATABASE_URL"] + "\n", encoding="utf-8")

        settings = DatabaseSettings.load({"TWOFOLD_DATABASE_URL_FILE": str(file)})

        expected = f"postgresql+psycopg://user:{SECRET}@host:5432/name"
        assert settings.database_url.get_secret_value() == expected

    def test_both_set_is_refused(self, tmp_path: Path) -> None:
        file = str(tmp_path / "url")

        with pytest.raises(ConfigError, match=r"TWOFOLD_DATABASE_URL and .* are both set"):
            DatabaseSettings.load(COMPLETE | {"TWOFOLD_DATABASE_URL_FILE": file})

    @pytest.mark.parametrize("name", ["missing", "."])
    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ConfigError, match="TWOFOLD_DATABASE_URL_FILE names a file"):
            DatabaseSettings.load({"TWOFOLD_DATABASE_URL_FILE": str(tmp_path / name)})

    def test_a_file_that_is_no_text_is_refused_without_its_content(self, tmp_path: Path) -> None:
        file = tmp_path / "url"
        file.write_bytes(SECRET.encode() + b"\xff")

        with pytest.raises(ConfigError, match=r"URL_FILE .* not UTF-8") as refused:
            DatabaseSettings.load({"TWOFOLD_DATABASE_URL_FILE": str(file)})
        assert SECRET not in refused.value.message


class TestSecrets:
    @pytest.mark.parametrize("part", [DatabaseSettings, BrokerSettings])
    def test_are_in_no_text_of_the_settings(self, part: type[Settings]) -> None:
        settings = part.load(COMPLETE)

        for text in (repr(settings), str(settings), settings.model_dump_json()):
            assert SECRET not in text

    @pytest.mark.parametrize(
        ("part", "field"), [(DatabaseSettings, "database_url"), (BrokerSettings, "broker_url")]
    )
    def test_are_in_no_error(self, part: type[Settings], field: str) -> None:
        wrong = f"mysql://user:{SECRET}@host"

        with pytest.raises(ConfigError) as loaded:
            part.load({PREFIX + field.upper(): wrong})
        with pytest.raises(ValidationError) as built:
            part.model_validate({field: wrong})

        assert SECRET not in str(loaded.value)
        assert SECRET not in str(built.value)


class TestSettings:
    @pytest.mark.parametrize("part", PARTS)
    def test_are_frozen(self, part: type[Settings]) -> None:
        settings = part.load(COMPLETE)

        for name in part.model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(settings, name, None)

    def test_no_two_parts_share_a_name(self) -> None:
        names = [name for part in PARTS for name, _ in describe(part)]

        assert len(names) == len(set(names))

    @pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
    def test_every_spelling_of_postgres_means_psycopg_3(self, scheme: str) -> None:
        settings = DatabaseSettings.load({"TWOFOLD_DATABASE_URL": f"{scheme}://host/name"})

        assert settings.database_url.get_secret_value() == "postgresql+psycopg://host/name"

    def test_the_buckets_of_results_and_uploads_are_open(self, tmp_path: Path) -> None:
        settings = StorageSettings.load(
            {
                "TWOFOLD_RESULTS": "s3://results/a",
                "TWOFOLD_UPLOADS": "file:///uploads",
                "TWOFOLD_BUCKETS": " one, two,,",
                "TWOFOLD_FILE_ROOT": str(tmp_path),
            }
        )

        assert settings.places.buckets == {"results", "one", "two"}
        assert settings.places.file_root == tmp_path.resolve()

    @pytest.mark.parametrize(
        ("pools", "largest"),
        [("", None), ("small=262144, big = 4194304,", 4194304), ("a.b-c_1=4096", 4096)],
    )
    def test_the_largest_pool_says_what_is_too_large(self, pools: str, largest: int | None) -> None:
        assert LimitSettings.load({"TWOFOLD_POOLS": pools}).largest_pool == largest

    def test_what_fits_no_pool_is_too_large_by_its_padded_size(self) -> None:
        limits = LimitSettings(pools="small=4096,big=1048576")
        limits.check_size(1024, 1000)
        with pytest.raises(TooLarge, match="TWOFOLD_POOLS"):
            limits.check_size(1025, 1000)

    @pytest.mark.parametrize("url", ["http://127.0.0.1:9000", "https://s3.example.org/path"])
    def test_an_endpoint_is_kept_as_it_is_written(self, url: str) -> None:
        assert StorageSettings.load({"TWOFOLD_S3_ENDPOINT_URL": url}).s3_endpoint_url == url

    @pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:15"])
    def test_a_device_is_a_cpu_or_a_numbered_gpu(self, device: str) -> None:
        assert WorkerSettings.load({"TWOFOLD_DEVICE": device}).device == device

    def test_a_folder_serves_as_broker(self) -> None:
        settings = BrokerSettings.load({"TWOFOLD_BROKER_URL": "filesystem:///var/bell"})
        options: dict[str, Any] = settings.transport_options

        assert (settings.is_redis, settings.url) == (False, "filesystem://")
        assert options["data_folder_in"] == options["data_folder_out"] == "/var/bell/queue"
