"""The S3 server that files of rows may lie on: the blob store's own."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from services.common.errors import NotFound, Unavailable
from services.monitoring.profiles.files import OpenObject
from services.monitoring.settings import MonitoringSettings

_LASTING = frozenset({"NoSuchKey", "NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})


def object_opener(settings: MonitoringSettings) -> OpenObject | None:
    """Give what opens an object; None where the blob store is a folder, or no bucket is allowed."""
    parts = urlsplit(settings.blob_url)
    if parts.scheme != "s3" or not any(root.startswith("s3:") for root in settings.profile_input_roots):
        return None
    from minio import Minio
    from minio.error import MinioException, S3Error
    from urllib3.exceptions import HTTPError

    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    endpoint = urlsplit(options.get("endpoint", "https://s3.amazonaws.com"))
    access_key, secret_key = settings.blob_access_key, settings.blob_secret_key
    client = Minio(
        endpoint.netloc,
        access_key=access_key.get_secret_value() if access_key else None,
        secret_key=secret_key.get_secret_value() if secret_key else None,
        secure=endpoint.scheme == "https",
        region=options.get("region", "us-east-1"),
    )

    def opened(bucket: str, key: str) -> Any:
        try:
            return client.get_object(bucket, key)
        except (MinioException, HTTPError, OSError, ValueError) as error:
            code = error.code if isinstance(error, S3Error) else type(error).__name__
            sentence = f"the object cannot be read ({code})"
            if code in _LASTING or isinstance(error, ValueError):
                raise NotFound(sentence, reason="INPUT_NOT_FOUND") from error
            raise Unavailable(sentence, reason="INPUT_UNAVAILABLE") from error

    return opened
