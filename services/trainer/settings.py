"""What the trainer can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from services.common.postgres import PostgresSettings
from services.common.settings import MEBIBYTE, Port, ServerSettings
from services.trainer.workers.settings import OutsideSettings

GIBIBYTE = 1024 * MEBIBYTE
HOUR_MS = 3_600_000


class TrainerSettings(ServerSettings, PostgresSettings, OutsideSettings):
    """The settings of one trainer process."""

    port: Port = 50055
    """The gRPC port; 0 takes a free one, which the log names."""
    metrics_port: Port = 9105
    """The Prometheus port; 0 takes a free one, which the log names."""

    blob_url: str
    """Where datasets and what runs leave are kept: file:///absolute/folder or
    s3://bucket?endpoint=http://host:port&region=…"""
    blob_access_key: SecretStr | None = None
    """The access key of S3."""
    blob_secret_key: SecretStr | None = None
    """The secret key of S3."""
    blob_grace_ms: Annotated[int, Field(ge=60_000, le=2_592_000_000)] = 86_400_000
    """How long a blob that nothing names is left alone, once before it is condemned and once before it is deleted."""

    registry_address: str = "127.0.0.1:50051"
    """Where the registry listens: it keeps training configs, and takes the versions that are made."""
    inference_address: str = "127.0.0.1:8001"
    """Where the inference service listens: versions are validated as they are served."""
    monitoring_address: str = ""
    """Where monitoring listens: it gives live traffic, and takes reference profiles. Empty: there is none."""
    insecure_token: bool = False
    """Send this service's key in plain text also to other machines, where TLS is not spoken."""
    ca_file: Path | None = None
    """The certificates that vouch for the other services, PEM; with them TLS is spoken to each, unless its address says
    grpc://. The files are read again when they change."""
    cert_file: Path | None = None
    """The certificate that this service shows to the others; by default its own as a server, where `ca_file` is set."""
    key_file: Path | None = None
    """The private key of `cert_file`, PEM."""

    trainer_worker_enabled: bool = True
    """Whether this process trains; false takes requests only, and leaves the work to other replicas."""
    trainer_runs: Annotated[int, Field(ge=1, le=64)] = 1
    """Runs worked on at once in this process; those that run elsewhere (Ray, Kubernetes, remote workers) count."""
    trainer_max_running: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Runs worked on at once over all replicas; by default as many as they have workers."""
    trainer_validations: Annotated[int, Field(ge=1, le=64)] = 1
    """Validations that were asked for by themselves, worked on at once in this process; those of runs don't count."""
    trainer_lease_ms: Annotated[int, Field(ge=1_000, le=600_000)] = 30_000
    """How long after a worker's death another takes its run over."""
    poll_interval_ms: Annotated[int, Field(ge=50, le=60_000)] = 5_000
    """How often runs are looked for and leases looked after, should a notification be lost."""
    trainer_hard_limit_ms: Annotated[int, Field(ge=1_000, le=30 * 24 * HOUR_MS)] = 24 * HOUR_MS
    """The longest that a run may take, from its first attempt on, waits between attempts included."""
    trainer_time_limit_ms: Annotated[int, Field(ge=1_000, le=30 * 24 * HOUR_MS)] = HOUR_MS
    """The longest that a recipe may take in one attempt; the parameter `time_limit_s` may ask for less."""
    trainer_memory_limit_bytes: Annotated[int, Field(ge=256 * MEBIBYTE, le=1024**4)] = 4 * GIBIBYTE
    """The memory that the processes of one run may use together."""
    trainer_max_artifact_bytes: Annotated[int, Field(ge=1, le=1024**4)] = 5 * GIBIBYTE
    """The most that a run may leave behind, all files together; also what it may write meanwhile."""
    trainer_max_unended: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Runs of one key that have not ended; more are refused with RESOURCE_EXHAUSTED."""
    trainer_retention_days: Annotated[int, Field(ge=1, le=36_500)] = 365
    """How long ended runs are kept, with their epochs and logs."""
    trainer_housekeeping_interval_ms: Annotated[int, Field(ge=100, le=HOUR_MS)] = 60_000
    """How often old runs are looked for."""
    trainer_work_folder: Path | None = None
    """Where runs have their folders; by default the system's temporary folder."""
    trainer_scripts_enabled: bool = False
    """Whether the recipe `script` may be used: whoever is an operator can then run code of their own where the trainer
    runs."""
    trainer_scripts_network_enabled: bool = False
    """Whether scripts may connect to other machines; the other recipes never do."""
    trainer_require_sandbox: bool = False
    """Run no recipe where the kernel has less than the whole sandbox: landlock and seccomp."""

    dataset_max_bytes: Annotated[int, Field(ge=1, le=1024**4)] = GIBIBYTE
    """The most bytes that one upload of rows may have."""
    dataset_max_rows: Annotated[int, Field(ge=1, le=1_000_000_000)] = 10_000_000
    """The most rows that a version of a dataset may have."""
    dataset_max_columns: Annotated[int, Field(ge=1, le=10_000)] = 2_000
    """The most columns that a version of a dataset may have."""
    dataset_max_unpacked_bytes: Annotated[int, Field(ge=1, le=1024**4)] = 4 * GIBIBYTE
    """The most that the rows of one version may unpack to, whatever their file packs them to."""
    dataset_read_memory_bytes: Annotated[int, Field(ge=64 * MEBIBYTE, le=1024**4)] = 1536 * MEBIBYTE
    """The memory that the process may use that reads a file of rows, beside what it needs anyway."""
    dataset_read_timeout_ms: Annotated[int, Field(ge=1_000, le=HOUR_MS)] = 600_000
    """How long that process may take."""
    dataset_builds: Annotated[int, Field(ge=1, le=64)] = 1
    """Datasets that this process gathers at once, from live traffic and feature views."""
