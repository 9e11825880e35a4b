"""What every service can be told: environment variables prefixed PENSTOCK_, then a `.env` file, then defaults.

Secrets may come as files instead, as Docker and Kubernetes mount them: PENSTOCK_SECRETS_DIR names a folder, and its
file `penstock_database_url` holds PENSTOCK_DATABASE_URL. Variables and the `.env` file go before these files. What is
empty is not set, be it a variable, a line or a file: a deployment passes on what it has, and makes every file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict

from services.common.addresses import AllowedHosts


def _split(text: object) -> object:
    return [part.strip() for part in text.split(",") if part.strip()] if isinstance(text, str) else text


def _checked_hosts(text: str) -> str:
    AllowedHosts.parse(text)
    return text


AT_COMMAS = BeforeValidator(_split)
"""Reads a list as it stands in a variable: parts between commas; with `NoDecode`, which keeps it from being JSON."""
HostNames = Annotated[str, AfterValidator(_checked_hosts)]
"""Hosts' names, addresses and networks, separated by commas; see `AllowedHosts`."""
Port = Annotated[int, Field(ge=0, le=65_535)]
Share = Annotated[float, Field(ge=0, le=1)]
MEBIBYTE = 1024 * 1024


class _SecretFiles(SecretsSettingsSource):
    """Files of secrets; one that is empty sets nothing, as `env_ignore_empty` has it for variables and lines."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        return value or None, key, is_complex


class Settings(BaseSettings):
    """The base of all settings: frozen, and each field is described where it is declared."""

    model_config = SettingsConfigDict(
        env_prefix="PENSTOCK_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the folder of secrets last, where there is one."""
        if folder := os.environ.get("PENSTOCK_SECRETS_DIR"):
            file_secret_settings = _SecretFiles(settings_cls, secrets_dir=folder)
        return init_settings, env_settings, dotenv_settings, file_secret_settings


class ServerSettings(Settings):
    """How a service listens, whom it lets in, and its limits."""

    host: str = "127.0.0.1"
    """The address to listen on. Without keys only a loopback address is taken, unless `insecure`."""
    port: Port
    """The gRPC port; 0 takes a free one, which the log names."""
    metrics_port: Port
    """The Prometheus port; 0 takes a free one, which the log names."""
    insecure: bool = False
    """Listen on any address although no keys are configured: anyone who can connect is then an admin."""
    keys_file: Path | None = None
    """The file of API keys that `penstock key create` writes; read again when it changes."""
    service_token: SecretStr | None = None
    """The key that this service shows to the others."""
    service_token_file: Path | None = None
    """A file that holds it, in place of `service_token`; read again when it changes."""
    tls_cert_file: Path | None = None
    """This server's certificate chain, PEM; with it and its key, gRPC speaks TLS only. The TLS files are read again
    when they change."""
    tls_key_file: Path | None = None
    """The private key of `tls_cert_file`, PEM."""
    tls_client_ca_file: Path | None = None
    """The certificates that vouch for clients, PEM; with them a client without a certificate is refused."""
    request_threads: Annotated[int, Field(ge=1, le=1024)] = 16
    """Unary requests worked on at once."""
    request_backlog: Annotated[int, Field(ge=0, le=100_000)] = 256
    """Unary requests that may wait for a thread; more are refused with RESOURCE_EXHAUSTED."""
    max_streams: Annotated[int, Field(ge=1, le=4096)] = 64
    """Streams open at once; more are refused with RESOURCE_EXHAUSTED."""
    stream_idle_timeout_ms: Annotated[int, Field(ge=100, le=3_600_000)] = 120_000
    """How long the client of a stream may neither send nor take anything before the stream is ended with
    DEADLINE_EXCEEDED. Of those without an end of their own (events), one ends so whenever every place is taken."""
    max_message_bytes: Annotated[int, Field(ge=4096, le=2**31 - 1)] = 16 * MEBIBYTE
    """The largest message taken or sent."""
    drain_grace_ms: Annotated[int, Field(ge=0, le=3_600_000)] = 20_000
    """After SIGTERM: how long requests in flight may take to finish."""
    health_interval_ms: Annotated[int, Field(ge=50, le=60_000)] = 1_000
    """How often the dependencies are looked at for the health answer."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lines below this level are left out."""
    access_log_share: Share = 1.0
    """The share of successful requests that get a log line; failed ones always do."""
    otlp_endpoint: str | None = None
    """Where traces go: an OpenTelemetry collector's OTLP endpoint for gRPC, such as http://127.0.0.1:4317; https:// for
    TLS. Unset: OTEL_EXPORTER_OTLP_ENDPOINT, and without that nothing is traced."""
    trace_share: Share = 1.0
    """The share of the traces that begin here to record; those that a caller began are recorded as the caller chose."""
