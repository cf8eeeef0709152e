"""The HTTP API and its client."""

import re
from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from twofold_schema.environment import Settings

#: The longest that a request may ask to wait for an end, in seconds.
LONGEST_WAIT_SECONDS = 60.0


class ApiSettings(Settings):
    """The HTTP API.

    Attributes:
        api_host: The address that it listens on.
        api_port: The port.
        api_threads: Requests that are worked on at once, besides those that wait.
        api_max_body_bytes: Of a request's body.
        api_max_manifest_bytes: The same of a submission as JSON lines, which are read as they come.
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
