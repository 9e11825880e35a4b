"""What the jobs process stands on: its schema in PostgreSQL, its part of the blob store, the S3 server of inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from services.common.blobs import BlobStore, open_blobs
from services.common.errors import FailedPrecondition, Unavailable
from services.common.migrate import migrate
from services.inference.jobs.inputs import OpenObject
from services.inference.jobs.settings import JobsSettings

SCHEMA, TABLE = "inference", "prediction_jobs"
_LASTING = frozenset({"NoSuchKey", "NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})
MIGRATIONS = Path(__file__).parent.parent / "migrations"


def migrate_schema(settings: JobsSettings) -> tuple[str, ...]:
    """Bring the schema up to date; names what was applied."""
    return migrate(settings.database_url.get_secret_value(), SCHEMA, MIGRATIONS)


def open_inference_blobs(settings: JobsSettings) -> BlobStore:
    """Open this service's own part of the blob store."""
    access_key, secret_key = _keys(settings)
    return open_blobs(settings.blob_url, prefix="inference", access_key=access_key, secret_key=secret_key)


def object_opener(settings: JobsSettings) -> OpenObject | None:
    """Give what opens an object of the blob store's own server; None where it is a folder, or no bucket is allowed."""
    parts = urlsplit(settings.blob_url)
    if parts.scheme != "s3" or not any(root.startswith("s3:") for root in settings.job_input_roots):
        return None
    from minio import Minio
    from minio.error import MinioException, S3Error
    from urllib3.exceptions import HTTPError

    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    endpoint = urlsplit(options.get("endpoint", "https://s3.amazonaws.com"))
    access_key, secret_key = _keys(settings)
    client = Minio(
        endpoint.netloc,
        access_key=access_key,
        secret_key=secret_key,
        secure=endpoint.scheme == "https",
        region=options.get("region", "us-east-1"),
    )

    def opened(bucket: str, key: str) -> Any:
        try:
            return client.get_object(bucket, key)
        except (MinioException, HTTPError, OSError) as error:
            code = error.code if isinstance(error, S3Error) else type(error).__name__
            sentence = f"s3://{bucket}/{key} cannot be read ({code})"
            if code in _LASTING:
                raise FailedPrecondition(sentence, reason="INPUT_UNREADABLE") from error
            raise Unavailable(sentence, reason="INPUT_UNAVAILABLE") from error

    return opened


def _keys(settings: JobsSettings) -> tuple[str | None, str | None]:
    access_key, secret_key = settings.blob_access_key, settings.blob_secret_key
    return (
        access_key.get_secret_value() if access_key else None,
        secret_key.get_secret_value() if secret_key else None,
    )
