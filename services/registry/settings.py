"""What the registry and its validator can be told, beside what every service can."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import NoDecode

from services.common.postgres import PostgresSettings
from services.common.settings import AT_COMMAS, MEBIBYTE, Port, ServerSettings, Settings

Root = Annotated[str, Field(pattern=r"^(file:///|s3://[^/]+)")]
FrameworkName = Annotated[str, Field(pattern="^(onnx|tensorflow|transformers)$")]
AllowedName = Annotated[str, Field(pattern=r"^(keras-lambda|tensorflow-files|onnx-domain:[\w.-]{1,100})$")]

ProjectName = Annotated[str, Field(pattern=r"^([a-z0-9.-]{1,100}:)?[a-z][a-z0-9-]{0,61}[a-z0-9]$")]


class StorageSettings(PostgresSettings):
    """Where the registry keeps its rows and files."""

    blob_url: str
    """Where the files are kept: file:///absolute/folder or s3://bucket?endpoint=http://host:port&region=…"""
    blob_access_key: SecretStr | None = None
    """The access key of S3."""
    blob_secret_key: SecretStr | None = None
    """The secret key of S3."""


class ValidationSettings(Settings):
    """How versions are validated, in the registry's process or in one of its own."""

    validation_frameworks: Annotated[frozenset[FrameworkName] | None, NoDecode, AT_COMMAS] = None
    """Which frameworks are validated here: some of onnx, tensorflow and transformers, separated by commas. By default
    those whose runtimes are installed."""
    validation_timeout_ms: Annotated[int, Field(ge=100, le=3_600_000)] = 60_000
    """How long one model may take to load and run its rows, its runtime's start included."""
    validation_memory_bytes: Annotated[int, Field(ge=64 * MEBIBYTE)] = 2048 * MEBIBYTE
    """What the validator's child may take, beside seven times the files' size."""
    validation_lease_ms: Annotated[int, Field(ge=300, le=600_000)] = 15_000
    """How long after a validator dies another takes its validations over."""
    validation_allow: Annotated[frozenset[AllowedName], NoDecode, AT_COMMAS] = frozenset()
    """What is let in that is refused otherwise, separated by commas: keras-lambda (Python code inside a Keras model),
    tensorflow-files (operators that read files of the server), onnx-domain:NAME (operators of a domain of one's own).
    Who allows one of them trusts everyone who may register a version."""
    validation_require_sandbox: bool = False
    """Fail a version rather than open it without the whole sandbox: seccomp, and for TensorFlow landlock."""
    validation_dir: Path | None = None
    """Where a version's files are copied to while it is validated; by default the system's folder for temporary
    files. It needs room for the largest version, times the threads."""


class RegistrySettings(ServerSettings, StorageSettings, ValidationSettings):
    """The registry's settings."""

    port: Port = 50051
    """The gRPC port; 0 takes a free one, which the log names."""
    metrics_port: Port = 9101
    """The Prometheus port; 0 takes a free one, which the log names."""
    max_upload_bytes: Annotated[int, Field(ge=1, le=1024**4)] = 5 * 1024 * MEBIBYTE
    """The largest file of a version, and the largest archive."""
    max_version_bytes: Annotated[int, Field(ge=1, le=16 * 1024**4)] = 20 * 1024 * MEBIBYTE
    """The most that a version's files may come to together; also what may come out of archives."""
    max_archive_entries: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """Files, folders and whatever else an archive may list."""
    upload_spool_dir: Path | None = None
    """Where archives wait to be unpacked; by default the system's folder for temporary files. It needs room for the
    largest archive, times those that come at once."""
    min_part_bytes: Annotated[int, Field(ge=1, le=1024 * MEBIBYTE)] = 5 * MEBIBYTE
    """The smallest part of an upload in parts, its last one apart."""
    validation_threads: Annotated[int, Field(ge=0, le=64)] = 1
    """Versions validated at once in this process, each by a child on a core; 0 leaves them to validators of their own
    (`python -m services.registry.validation`)."""
    kept_revisions: Annotated[int, Field(ge=1, le=100_000_000)] = 100_000
    """Changes kept for watchers that resume; who comes later begins with a snapshot."""
    watch_bookmark_ms: Annotated[int, Field(ge=100, le=30_000)] = 15_000
    """The longest silence on a watch."""
    poll_interval_ms: Annotated[int, Field(ge=50, le=60_000)] = 5_000
    """How often watchers and validators look for themselves, should a notification be lost."""
    housekeeping_interval_ms: Annotated[int, Field(ge=100, le=3_600_000)] = 60_000
    """How often old changes and old requests are forgotten."""
    deleted_retention_ms: Annotated[int, Field(ge=0, le=315_360_000_000)] = 604_800_000
    """How long a deleted model or version can be restored before its files go."""
    garbage_interval_ms: Annotated[int, Field(ge=1_000, le=86_400_000)] = 3_600_000
    """How often garbage is collected: deleted long enough ago, uploads past their time, blobs that nothing names."""
    blob_grace_ms: Annotated[int, Field(ge=60_000, le=2_592_000_000)] = 86_400_000
    """How long a blob that nothing names is left alone, once before it is condemned and once before it is deleted. It
    must be longer than the longest upload takes."""
    feature_roots: Annotated[frozenset[Root], NoDecode, AT_COMMAS] = frozenset()
    """Where files may lie that features are imported from: folders (file:///data/in) and buckets with a prefix
    (s3://bucket/in) of the blob store's own server, separated by commas. Operators may read all that lies there."""
    feature_connections_file: Path | None = None
    """The databases that features may be imported from by a query: a file of names and URLs, {"shop":
    "postgresql://reader:…@host/db"}, read each time. Operators may read what these users may: let them only SELECT."""
    feature_bigquery_projects: Annotated[frozenset[ProjectName], NoDecode, AT_COMMAS] = frozenset()
    """The projects of BigQuery that features may be imported from, separated by commas; by default none. They run the
    queries, too. Operators may read what the credentials may: give these nothing else to read, and nothing to write."""
    feature_bigquery_credentials_file: Path | None = None
    """The key of a service account for BigQuery, read each time; by default the application default credentials."""
    feature_bigquery_endpoint: Annotated[str | None, Field(pattern=r"^https?://[^/@?#\s]+$")] = None
    """The address of BigQuery's API where it is not Google's, such as a private endpoint's. What is http:// is taken
    for an emulator's and gets no credentials."""
    feature_bigquery_max_bytes_billed: Annotated[int, Field(ge=1, le=2**60)] = 10 * 1024**3
    """The most bytes that one query of BigQuery may be billed for; a larger one is refused before it runs."""
    feature_imports: Annotated[int, Field(ge=1, le=64)] = 2
    """Imports of features from files and queries at once in this process."""
    feature_import_dir: Path | None = None
    """Where files are copied to while they are imported; by default the system's folder for temporary files. It needs
    room for the largest, times those that come at once."""
    feature_max_import_bytes: Annotated[int, Field(ge=1, le=1024**4)] = 4 * 1024**3
    """The largest file that features are imported from."""
    feature_max_import_rows: Annotated[int, Field(ge=1, le=10**10)] = 100_000_000
    """The most rows that one import may have."""
    feature_import_timeout_ms: Annotated[int, Field(ge=1_000, le=86_400_000)] = 3_600_000
    """How long one import may take."""
    feature_query_timeout_ms: Annotated[int, Field(ge=100, le=86_400_000)] = 600_000
    """How long a query of another database may take to its last row."""
    feature_require_sandbox: bool = False
    """Refuse to read a file of features without seccomp, where the kernel has none."""
