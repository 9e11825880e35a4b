"""What the jobs process stands on: its schema in PostgreSQL, its part of the blob store, the S3 server of inputs."""

from __future__ import annotations

from pathlib import Path

from services.common.allowed_files import AllowedFiles
from services.common.blobs import BlobStore, open_blobs
from services.common.errors import DomainError, FailedPrecondition
from services.common.migrate import migrate
from services.inference.jobs.settings import JobsSettings

SCHEMA, TABLE = "inference", "prediction_jobs"
MIGRATIONS = Path(__file__).parent.parent / "migrations"


def migrate_schema(settings: JobsSettings) -> tuple[str, ...]:
    """Bring the schema up to date; names what was applied."""
    return migrate(settings.database_url.get_secret_value(), SCHEMA, MIGRATIONS)


def open_inference_blobs(settings: JobsSettings) -> BlobStore:
    """Open this service's own part of the blob store."""
    access_key, secret_key = _keys(settings)
    return open_blobs(settings.blob_url, prefix="inference", access_key=access_key, secret_key=secret_key)


def allowed_files(settings: JobsSettings) -> AllowedFiles:
    """Give the files that a job may name, beside those that are uploaded."""
    return AllowedFiles(settings.job_input_roots, settings, unreadable=_unreadable)


def _unreadable(sentence: str) -> DomainError:
    return FailedPrecondition(sentence, reason="INPUT_UNREADABLE")


def _keys(settings: JobsSettings) -> tuple[str | None, str | None]:
    access_key, secret_key = settings.blob_access_key, settings.blob_secret_key
    return (
        access_key.get_secret_value() if access_key else None,
        secret_key.get_secret_value() if secret_key else None,
    )
