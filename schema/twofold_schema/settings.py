"""Every setting of the house, one small frozen class per part, checked when it is built.

Each class's docstring says what its variables mean; docs/04-settings.md is written from them.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from twofold_schema import egress
from twofold_schema.artifacts import ArtifactUri, Places
from twofold_schema.egress import Egress
from twofold_schema.environment import Settings
from twofold_schema.errors import InvalidUri, TooLarge
from twofold_schema.lanes import LATTICE, SizeLimits, lattice_pixels
from twofold_schema.tenant_places import OwnPlaces

#: From here on Pillow has doubts of its own.
_PILLOW_MAX_PIXELS = 89_478_485

_MIN_SECRET_LENGTH = 16

#: What TWOFOLD_MODEL calls the model that comes with Twofold, and what its results are made by.
DEMO_MODEL = "demo"

_POOL = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*=\s*([0-9]{1,19})")
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
#: The smallest padded source; a side in its place would fail every job.
_LEAST_POOL = LATTICE * LATTICE
_MOST_POOL = 2**63 - 1  # what the column holds

Seconds = Annotated[float, Field(gt=0, le=7 * 24 * 3600)]


def _power_of_two(number: int) -> int:
    if number.bit_count() != 1:
        raise ValueError("must be a power of two")
    return number


def _readable(read: Callable[[str], object]) -> AfterValidator:
    """A text stays a text, but has to be one that can be read."""

    def check(text: str) -> str:
        read(text)
        return text

    return AfterValidator(check)


def _pools(text: str) -> dict[str, int]:
    """Pixels by the pools' names.

    Raises:
        ValueError: It is not `name=pixels,name=pixels`.
    """
    pools: dict[str, int] = {}
    for entry in filter(None, (entry.strip() for entry in text.split(","))):
        written = _POOL.fullmatch(entry)
        if written is None:
            raise ValueError(f"{entry!r} is no pool; write name=pixels,name=pixels")
        name, pixels = written[1], int(written[2])
        if name in pools:
            raise ValueError(f"the pool {name} stands there twice")
        if not _LEAST_POOL <= pixels <= _MOST_POOL:
            raise ValueError(
                f"the pool {name} takes {pixels} pixels; write the area of the largest padded "
                f"source, {_LEAST_POOL} or more"
            )
        pools[name] = pixels
    return pools


def _sizes(text: str) -> list[tuple[int, int]]:
    """Heights and widths.

    Raises:
        ValueError: It is not `WIDTHxHEIGHT,WIDTHxHEIGHT`, all on the lattice.
    """
    sizes = []
    for entry in filter(None, (entry.strip() for entry in text.split(","))):
        written = _SIZE.fullmatch(entry)
        if written is None:
            raise ValueError(f"{entry!r} is no size; write WIDTHxHEIGHT,WIDTHxHEIGHT")
        width, height = int(written[1]), int(written[2])
        if not width or not height or width % LATTICE or height % LATTICE:
            raise ValueError(f"{entry} is no padded source; its sides are multiples of {LATTICE}")
        sizes.append((height, width))
    return sizes


class DatabaseSettings(Settings):
    """The job table.

    Attributes:
        database_url: `postgresql://user:password@host:port/name`; Postgres only.
        database_pool_size: Connections that a process keeps open; under load up to four times more.
        database_timeout_seconds: What one statement may take.
    """

    database_url: SecretStr
    database_pool_size: Annotated[int, Field(ge=1, le=200)] = 5
    database_timeout_seconds: Seconds = 10.0

    @field_validator("database_url")
    @classmethod
    def _psycopg(cls, url: SecretStr) -> SecretStr:
        scheme, _, rest = url.get_secret_value().partition("://")
        if scheme not in {"postgresql", "postgres", "postgresql+psycopg"} or not rest:
            raise ValueError("write postgresql://user:password@host:port/name")
        return SecretStr(f"postgresql+psycopg://{rest}")


class BrokerSettings(Settings):
    """The bell.

    Attributes:
        broker_url: `redis://…` or `rediss://…`; `filesystem:///folder` for one machine.
        broker_timeout_seconds: What connecting may take.
    """

    broker_url: SecretStr
    broker_timeout_seconds: Seconds = 5.0

    @field_validator("broker_url")
    @classmethod
    def _known(cls, url: SecretStr) -> SecretStr:
        scheme, separator, rest = url.get_secret_value().partition("://")
        # A relative folder would be another one for every process.
        known = rest.startswith("/") if scheme == "filesystem" else scheme in {"redis", "rediss"}
        if not (separator and known):
            raise ValueError("write redis://host:port/0, rediss://… or filesystem:///folder")
        return url

    @property
    def is_redis(self) -> bool:
        """Whether the broker is Redis rather than a folder."""
        return not self.broker_url.get_secret_value().startswith("filesystem:")

    @property
    def url(self) -> str:
        """The broker's URL as kombu wants it."""
        return self.broker_url.get_secret_value() if self.is_redis else "filesystem://"

    @property
    def transport_options(self) -> dict[str, object]:
        """What kombu's transport is told: no call may hang on a silent broker."""
        if self.is_redis:
            seconds = self.broker_timeout_seconds
            return {"socket_connect_timeout": seconds, "health_check_interval": 10}
        folder = self.broker_url.get_secret_value().removeprefix("filesystem://")
        return {
            "data_folder_in": f"{folder}/queue",
            "data_folder_out": f"{folder}/queue",
            "control_folder": f"{folder}/control",
            "polling_interval": 0.1,
        }


class StorageSettings(Settings):
    """Object storage, and the places in it that are open to jobs.

    Attributes:
        results: The prefix under which results are stored.
        uploads: The prefix under which pictures given as files or bytes are stored.
        buckets: Comma-separated S3 buckets that jobs may read from and write to, besides those of
            `results` and `uploads`.
        file_root: A folder that serves as object store; `file:///…` is refused elsewhere.
        file_url: Where the route that serves signed URLs of files begins; empty for no such URLs.
        file_url_secret: What those URLs are signed with; 16 characters or more.
        s3_endpoint_url: Of an S3-compatible server; empty for AWS.
        s3_public_endpoint_url: Where those who are given signed URLs reach the same server; empty
            for `s3_endpoint_url`.
        s3_timeout_seconds: How long S3 may be silent in one try of a request.
        s3_attempts: How often a request to S3 is tried, with growing random pauses in between.
        s3_connections: Requests to S3 that a process has open at once.
        s3_checksums: `when_supported` sends and checks a checksum of every object, `when_required`
            only where S3 demands one; for servers that refuse the first.
        s3_conditional_writes: Whether the server refuses to create a key twice; if not, Twofold
            looks before it writes.
    """

    results: str = "s3://twofold/results"
    uploads: str = "s3://twofold/uploads"
    buckets: str = ""
    file_root: Path | None = None
    file_url: str | None = None
    file_url_secret: Annotated[SecretStr | None, Field(validate_default=True)] = None
    s3_endpoint_url: str | None = None
    s3_public_endpoint_url: str | None = None
    s3_timeout_seconds: Seconds = 20.0
    s3_attempts: Annotated[int, Field(ge=1, le=20)] = 5
    s3_connections: Annotated[int, Field(ge=1, le=1000)] = 64
    s3_checksums: Literal["when_supported", "when_required"] = "when_supported"
    s3_conditional_writes: bool = True

    @field_validator("results", "uploads")
    @classmethod
    def _is_uri(cls, text: str) -> str:
        try:
            return str(ArtifactUri.parse(text))
        except InvalidUri as invalid:
            raise ValueError(invalid.message) from None

    @field_validator("file_url", "s3_endpoint_url", "s3_public_endpoint_url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is not None and not re.match(r"https?://[^/]", url):
            raise ValueError("write http://host:port or https://host")
        return url

    @field_validator("file_url_secret")
    @classmethod
    def _is_long(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is None and info.data.get("file_url") is not None:
            raise ValueError("is needed where TWOFOLD_FILE_URL is set; set it to a random text")
        if secret is not None and len(secret.get_secret_value()) < _MIN_SECRET_LENGTH:
            raise ValueError(f"write {_MIN_SECRET_LENGTH} random characters or more")
        return secret

    @field_validator("file_root")
    @classmethod
    def _is_folder(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{folder} is not a folder")
        return folder and folder.resolve()

    @property
    def results_uri(self) -> ArtifactUri:
        """Where results go unless a job says otherwise."""
        return ArtifactUri.parse(self.results)

    @property
    def uploads_uri(self) -> ArtifactUri:
        """Where the producer puts pictures that it was handed."""
        return ArtifactUri.parse(self.uploads)

    @property
    def own(self) -> OwnPlaces:
        """The places that Twofold itself chooses."""
        return OwnPlaces(uploads=self.uploads_uri, results=self.results_uri)

    @property
    def places(self) -> Places:
        """The places open to jobs."""
        named = {bucket.strip() for bucket in self.buckets.split(",")}
        own = {self.results_uri.bucket, self.uploads_uri.bucket}
        return Places(buckets=frozenset((named | own) - {""}), file_root=self.file_root)


class LimitSettings(Settings):
    """What a job may be.

    Attributes:
        max_side: The longer side of a source, in pixels.
        max_pixels: Width times height of a source.
        max_source_bytes: The source object's length.
        max_steps: Sampling steps.
        pools: What each pool of workers can take, `name=pixels,name=pixels`: the area of the padded
            source, which the worker's log line `planned` calls `largest_pixels`. A pool that is
            scaled to zero counts. Jobs larger than all of them are failed; empty for none.
        max_attempts: Attempts per generation unless a job says otherwise.
        key_days: How long a job's key is remembered.
    """

    max_side: Annotated[int, Field(ge=1, le=16384)] = 4096
    max_pixels: Annotated[int, Field(ge=1, le=_PILLOW_MAX_PIXELS)] = 2048 * 2048
    max_source_bytes: Annotated[int, Field(ge=1, le=2**31)] = 64 * 2**20
    max_steps: Annotated[int, Field(ge=1, le=150)] = 150
    pools: Annotated[str, _readable(_pools)] = ""
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    key_days: Annotated[float, Field(gt=0, le=3650)] = 30.0

    @property
    def size(self) -> SizeLimits:
        """The limits on width and height."""
        return SizeLimits(max_pixels=self.max_pixels, max_side=self.max_side)

    @property
    def largest_pool(self) -> int | None:
        """The largest padded source that a declared pool takes, in pixels; None without pools."""
        return max(_pools(self.pools).values(), default=None)

    def check_size(self, width: int, height: int) -> None:
        """Accept a size that is stated.

        Raises:
            TooLarge: It is over a limit, or no declared pool of workers can take it.
        """
        self.size.check(width, height)
        padded = lattice_pixels(width, height)
        if self.largest_pool is not None and padded > self.largest_pool:
            raise TooLarge(
                f"The picture is {width}x{height}, {padded} px in all once padded; the largest "
                f"pool of workers takes {self.largest_pool} (TWOFOLD_POOLS). Send a smaller one, "
                "or ask the operator to declare a larger pool."
            )


class WorkerSettings(Settings):
    """One worker process: one device, one model.

    Attributes:
        model: A folder, or the id of a model on the Hugging Face hub; or `demo`, the small one that
            comes with Twofold.
        model_revision: The hub's commit. For a folder, `sha256:` and the 16 digits that `twofold
            doctor` prints, if its files shall be compared with them; a commit says nothing there.
        env: `production`, or `dev`, for machines that may serve the demo model.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `auto` is bfloat16 on a GPU and float32 on a CPU.
        compile_sizes: Padded sources, `WIDTHxHEIGHT,WIDTHxHEIGHT` in pixels, for which the UNet is
            compiled at the start: minutes for faster steps. The same fleet-wide, or pinned pictures
            differ. Empty for none.
        processes: Worker processes to keep; 0 for one per visible GPU, else one.
        max_batch: Most slots of a step on the device; the worker measures how many fit and are
            worth it.
        memory_budget: What the process may have of the device: up to 1 a share of it, above 1
            bytes; unset for all but a reserve.
        cache_dir: Where what was learned of the device is kept from one start to the next; unset
            for nowhere.
        pinned_rung: The batch size of reproducible jobs, a power of two, the same fleet-wide.
        preview_side: The longer side of the small picture stored beside each result, in pixels; 0
            for none.
        io_threads: Threads that fetch and decode, and as many that encode and store.
        poll_seconds: How long work may wait when no ticket comes.
        lease_seconds: How long a silent run keeps its jobs.
        stall_seconds: The least time that a stage may stand still while it holds work; ten times
            its slowest step so far when that is more.
        run_deadline_seconds: How long one claim may last, whatever the lease says.
        stop_seconds: What a stopping process may take before it is killed.
    """

    model: str = "stabilityai/sd-x2-latent-upscaler"
    model_revision: str | None = None
    env: Annotated[Literal["production", "dev"], Field(validate_default=True)] = "production"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile_sizes: Annotated[str, _readable(_sizes)] = ""
    processes: Annotated[int, Field(ge=0, le=64)] = 0
    max_batch: Annotated[int, Field(ge=1, le=32)] = 32
    memory_budget: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    cache_dir: Path | None = None
    pinned_rung: Annotated[int, Field(ge=1, le=32), AfterValidator(_power_of_two)] = 4
    preview_side: Annotated[int, Field(ge=0, le=2048)] = 256
    io_threads: Annotated[int, Field(ge=1, le=64)] = 8
    poll_seconds: Seconds = 2.0
    lease_seconds: Seconds = 30.0
    stall_seconds: Seconds = 120.0
    run_deadline_seconds: Seconds = 900.0
    stop_seconds: Seconds = 60.0

    @property
    def compiled_sizes(self) -> list[tuple[int, int]]:
        """Heights and widths of the padded sources for which the UNet is compiled, in pixels."""
        return _sizes(self.compile_sizes)

    @field_validator("env")
    @classmethod
    def _not_for_show(cls, env: str, info: ValidationInfo) -> str:
        if env != "dev" and info.data.get("model") == DEMO_MODEL:
            raise ValueError(
                f"must be dev for TWOFOLD_MODEL={DEMO_MODEL}, which is for trying only; set it, or "
                "name the real model"
            )
        return env


class KeeperSettings(Settings):
    """The keeper.

    Attributes:
        keeper_seconds: How often each duty is done.
        seal_after_hours: A submission to which nothing was added for so long, because its producer
            died, is sealed.
        collect_after_hours: The age from which results that no row names are deleted; 0 for never.
        collect_every_seconds: The pause between two rounds through all results.
        collect_dry_run: Only log what would be deleted.
        history_after_hours: How long a job that has ended stays among those at work, before it is
            moved to the history.
        jobs_days: How long jobs are kept after they have ended, in whole weeks of UTC after the
            week in which they did.
        events_days: How long events are kept, in whole days of UTC after the day that they are of.
        rollup_days: How long it is kept what happened in each minute.
    """

    keeper_seconds: Seconds = 1.0
    seal_after_hours: Annotated[float, Field(gt=0, le=24 * 3650)] = 24.0
    collect_after_hours: Annotated[float, Field(ge=0, le=24 * 3650)] = 24.0
    collect_every_seconds: Seconds = 3600.0
    collect_dry_run: bool = False
    history_after_hours: Annotated[float, Field(ge=0, le=24 * 3650)] = 1.0
    jobs_days: Annotated[int, Field(ge=1, le=3650)] = 90
    events_days: Annotated[int, Field(ge=1, le=3650)] = 7
    rollup_days: Annotated[float, Field(gt=0, le=3650)] = 90.0


#: The longest that a request may ask to wait for an end, in seconds.
LONGEST_WAIT_SECONDS = 60.0


class ApiSettings(Settings):
    """The HTTP API.

    Attributes:
        api_host: The address that it listens on.
        api_port: The port.
        api_threads: Requests that are worked on at once, besides those that wait.
        api_max_body_bytes: Of a request's body.
        api_max_manifest_bytes: The same of JSON lines, which are read as they come.
        api_link_seconds: How long a URL is good that is given out for a result or an upload.
        api_trusted_proxies: Comma-separated addresses or networks whose `Forwarded` and
            `X-Forwarded-…` headers are believed; `*` for all, empty for none.
        api_cors_origins: Comma-separated origins whose pages may call the API from a browser; empty
            for none.
    """

    api_host: str = "127.0.0.1"
    api_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    api_threads: Annotated[int, Field(ge=1, le=200)] = 20
    api_max_body_bytes: Annotated[int, Field(ge=1024, le=2**30)] = 8 * 2**20
    api_max_manifest_bytes: Annotated[int, Field(ge=1024, le=2**40)] = 2**30
    api_link_seconds: Annotated[int, Field(ge=1, le=7 * 24 * 3600)] = 900
    api_trusted_proxies: str = ""
    api_cors_origins: str = ""

    @field_validator("api_cors_origins")
    @classmethod
    def _are_origins(cls, text: str) -> str:
        for origin in filter(None, (one.strip() for one in text.split(","))):
            if not re.fullmatch(r"https?://[^/*\s]+", origin):
                raise ValueError(f"{origin!r} is no origin; write https://host, comma-separated")
        return text

    @property
    def cors_origins(self) -> list[str]:
        """The origins, one by one."""
        return [one.strip() for one in self.api_cors_origins.split(",") if one.strip()]


class ClientSettings(Settings):
    """The HTTP client.

    Attributes:
        url: Where the API is, `https://host` or `http://host:port`.
        api_key: Who asks.
    """

    url: str | None = None
    api_key: SecretStr | None = None

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"https?://[^/?#]+(/[^?#]*)?", url):
            raise ValueError("write https://host or http://host:port")
        return url and url.rstrip("/")


class WebhookSettings(Settings):
    """Webhooks: where they may go, and how they are sent.

    Attributes:
        webhook_allow: Networks, comma-separated, such as `10.1.0.0/16`, in which receivers may be
            though their addresses are not the world's.
        webhook_http: Whether a receiver may be reached without TLS.
        webhook_ports: Ports that receivers may have, `443,8000-8999`.
        webhook_timeout_seconds: What one try may take in all, up to the answer's end.
        webhook_threads: Tries that one keeper has under way at once.
        webhook_days: How long a delivery is kept after its end, with the log of its tries.
    """

    webhook_allow: Annotated[str, _readable(egress.networks)] = ""
    webhook_http: bool = False
    webhook_ports: Annotated[str, _readable(egress.ports)] = "443,8443"
    webhook_timeout_seconds: Annotated[float, Field(gt=0, le=30)] = 15.0
    webhook_threads: Annotated[int, Field(ge=2, le=200)] = 32
    webhook_days: Annotated[float, Field(gt=0, le=3650)] = 7.0

    @property
    def egress(self) -> Egress:
        """What is open to webhooks."""
        return Egress(
            networks=egress.networks(self.webhook_allow),
            ports=egress.ports(self.webhook_ports),
            plain=self.webhook_http,
        )


class LogSettings(Settings):
    """What a process writes to standard error.

    Attributes:
        log_level: The least level written.
        log_format: `json` for machines, `text` for people, `auto` for text on a terminal.
    """

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"


PARTS: tuple[type[Settings], ...] = (
    DatabaseSettings,
    BrokerSettings,
    StorageSettings,
    LimitSettings,
    WorkerSettings,
    KeeperSettings,
    ApiSettings,
    ClientSettings,
    WebhookSettings,
    LogSettings,
)
