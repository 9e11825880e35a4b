"""What the jobs process can be told, beside what the inference service can."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import NoDecode

from services.common.postgres import PostgresSettings
from services.common.settings import AT_COMMAS, MEBIBYTE, Port, Share
from services.inference.settings import GIBIBYTE, InferenceSettings

HOUR_MS = 3_600_000


Root = Annotated[str, Field(pattern=r"^(file:///|s3://[^/]+)")]


class JobsSettings(InferenceSettings, PostgresSettings):
    """Where jobs and their files are kept, how they are worked on, and their limits."""

    port: Port = 50056
    """The gRPC port; 0 takes a free one, which the log names."""
    metrics_port: Port = 9106
    """The Prometheus port; 0 takes a free one, which the log names."""
    request_threads: Annotated[int, Field(ge=1, le=1024)] = 16
    """Unary requests worked on at once."""
    access_log_share: Share = 1.0
    """The share of successful requests that get a log line; failed ones always do."""
    cache_dir: Path = Path(".penstock/jobs/cache")
    """Where model files and the last snapshot of the registry are kept; not the folder of the inference process."""

    trainer_address: str = ""
    """Where the trainer listens, which keeps the datasets that jobs name. Empty: there is none."""

    blob_url: str
    """Where inputs and results are kept: file:///absolute/folder or s3://bucket?endpoint=http://host:port&region=…"""
    blob_access_key: SecretStr | None = None
    """The access key of S3."""
    blob_secret_key: SecretStr | None = None
    """The secret key of S3."""
    blob_grace_ms: Annotated[int, Field(ge=60_000, le=2_592_000_000)] = 86_400_000
    """How long a blob that nothing names is left alone, once before it is condemned and once before it is deleted. It
    must be longer than the longest upload takes."""

    job_workers: Annotated[int, Field(ge=0, le=64)] = 2
    """Jobs worked on at once in this process; 0 takes requests only, and leaves the work to other replicas."""
    job_max_running: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Jobs worked on at once over all replicas; by default as many as they have workers."""
    job_max_running_per_model: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Of them, jobs of one model."""
    job_lease_ms: Annotated[int, Field(ge=1_000, le=600_000)] = 30_000
    """How long after a worker's death another takes its job over."""
    job_stuck_ms: Annotated[int, Field(ge=0, le=3_600_000)] = 60_000
    """How long a run that was told to end may go on before the process ends itself, for its supervisor to replace it;
    its other jobs are taken over where they stand. Longer than `run_limit_ms` is best."""
    job_retention_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """How long ended jobs and their results are kept."""
    job_input_retention_days: Annotated[int, Field(ge=1, le=3650)] = 7
    """How long an uploaded input that no job names is kept."""
    job_housekeeping_interval_ms: Annotated[int, Field(ge=100, le=HOUR_MS)] = 60_000
    """How often old jobs and files are looked for."""
    job_hard_limit_ms: Annotated[int, Field(ge=1_000, le=30 * 24 * HOUR_MS)] = 24 * HOUR_MS
    """The longest that any job may take, from its first attempt on."""
    job_max_unended: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    """Jobs of one key that have not ended; more are refused with RESOURCE_EXHAUSTED."""
    job_max_waits: Annotated[int, Field(ge=1, le=1024)] = 8
    """Calls of WaitPredictionJob at once; more are refused with RESOURCE_EXHAUSTED. Keep it below `request_threads`."""

    job_input_roots: Annotated[frozenset[Root], NoDecode, AT_COMMAS] = frozenset()
    """Where inputs may lie beside those that were uploaded: folders (file:///data/in) and buckets with a prefix
    (s3://bucket/in) of the blob store's own server, separated by commas. Whoever may predict may read what lies there,
    if they know its digest."""
    job_dir: Path | None = None
    """Where an input is copied to while it is read; by default the system's folder for temporary files. It needs room
    for the largest input, times the workers."""
    job_max_input_bytes: Annotated[int, Field(ge=1, le=1024**4)] = 5 * GIBIBYTE
    """The largest file of rows."""
    job_max_unused_input_bytes: Annotated[int, Field(ge=1, le=1024**5)] = 20 * GIBIBYTE
    """What one key may have uploaded that no job names; more is refused with RESOURCE_EXHAUSTED."""
    job_max_rows: Annotated[int, Field(ge=1, le=10**12)] = 100_000_000
    """The most rows of one job."""
    job_max_row_bytes: Annotated[int, Field(ge=1_024, le=1024 * MEBIBYTE)] = MEBIBYTE
    """The longest row: a line of JSONL or CSV, the values of a Parquet row; a longer one is a row that failed."""
    job_max_unpacked_bytes: Annotated[int, Field(ge=MEBIBYTE, le=1024**4)] = 512 * MEBIBYTE
    """The most that one row group of a Parquet file may unpack to."""
    job_max_result_bytes: Annotated[int, Field(ge=MEBIBYTE, le=1024**4)] = 50 * GIBIBYTE
    """The largest result."""
    job_batch_rows: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Rows of a job that go into the model at once, where they are independent; a version's max_batch_size goes
    before it."""
    job_chunk_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 5_000
    """Rows after which what is done is made safe; a job that is taken over goes on from there. It is made safe sooner
    where its rows leave more events than `spool_queue_events` has room for at once."""
    job_chunk_ms: Annotated[int, Field(ge=100, le=HOUR_MS)] = 10_000
    """The time after which it is made safe, however few the rows."""
