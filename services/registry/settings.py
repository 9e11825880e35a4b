"""What the registry can be told, beside what every service can."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from services.common.postgres import PostgresSettings
from services.common.settings import MEBIBYTE, Port, ServerSettings


class RegistrySettings(ServerSettings, PostgresSettings):
    """The registry's settings."""

    port: Port = 50051
    """The gRPC port; 0 takes a free one, which the log names."""
    metrics_port: Port = 9101
    """The Prometheus port; 0 takes a free one, which the log names."""
    blob_url: str
    """Where the files are kept: file:///absolute/folder or s3://bucket?endpoint=http://host:port&region=…"""
    blob_access_key: SecretStr | None = None
    """The access key of S3."""
    blob_secret_key: SecretStr | None = None
    """The secret key of S3."""
    max_upload_bytes: Annotated[int, Field(ge=1, le=1024**4)] = 5 * 1024 * MEBIBYTE
    """The largest file of a version."""
    validation_threads: Annotated[int, Field(ge=1, le=64)] = 1
    """Models validated at once; each is a child process on a core."""
    validation_timeout_ms: Annotated[int, Field(ge=100, le=3_600_000)] = 60_000
    """How long one model may take to load and run its rows."""
    validation_memory_bytes: Annotated[int, Field(ge=64 * MEBIBYTE)] = 2048 * MEBIBYTE
    """What the validator's child may take, beside six times the file's size."""
    validation_lease_ms: Annotated[int, Field(ge=300, le=600_000)] = 15_000
    """How long after a registry dies another takes its validations over."""
    kept_revisions: Annotated[int, Field(ge=1, le=100_000_000)] = 100_000
    """Changes kept for watchers that resume; who comes later begins with a snapshot."""
    watch_bookmark_ms: Annotated[int, Field(ge=100, le=30_000)] = 15_000
    """The longest silence on a watch."""
    poll_interval_ms: Annotated[int, Field(ge=50, le=60_000)] = 5_000
    """How often watchers and validators look for themselves, should a notification be lost."""
    housekeeping_interval_ms: Annotated[int, Field(ge=100, le=3_600_000)] = 60_000
    """How often old changes and old requests are forgotten."""
