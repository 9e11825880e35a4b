"""Makes the bucket that PENSTOCK_BLOB_URL names, where it is missing: `python -m services.registry.bucket`.

The registry itself never makes one: a mistyped name would become an empty bucket. This is for whoever sets a suite
up, in a container that runs once before the services; where files are kept in a folder there is nothing to do.
"""

from __future__ import annotations

import sys
import time
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error
from pydantic import Field, SecretStr, ValidationError
from urllib3.exceptions import HTTPError

from services.common.settings import Settings

DONE, FAILED, MISUSED = 0, 1, 2
ATTEMPT_INTERVAL_S = 0.5
ANSWER_TIMEOUT_S = 5.0
_EXISTS = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


class BucketSettings(Settings):
    """What of the registry's settings is about its files, and how long a server may take to come up."""

    blob_url: str
    """Where the files are kept, as the registry reads it."""
    blob_access_key: SecretStr = SecretStr("")
    """The access key of S3; it has to be allowed to make buckets."""
    blob_secret_key: SecretStr = SecretStr("")
    """The secret key of S3."""
    bucket_wait_ms: Annotated[int, Field(ge=0, le=3_600_000)] = 60_000
    """How long to wait for a server that does not answer yet."""


def main() -> int:
    """Make the bucket; returns the exit code, and says on stderr what was done or what is wrong."""
    try:
        settings = BucketSettings()  # type: ignore[call-arg] # the environment gives the URL
    except ValidationError:
        return _say("PENSTOCK_BLOB_URL has to say where the files are kept", MISUSED)
    parts = urlsplit(settings.blob_url)
    if parts.scheme == "file":
        return _say("files are kept in a folder: no bucket to make", DONE)
    if parts.scheme != "s3" or not parts.netloc:
        return _say("PENSTOCK_BLOB_URL is neither file:///folder nor s3://bucket?endpoint=http://host:port", MISUSED)
    deadline = time.monotonic() + settings.bucket_wait_ms / 1000
    while True:
        try:
            return _make_bucket(parts.netloc, _client(parts.query, settings))
        except S3Error as error:
            if error.code in _EXISTS:
                return _say(f"bucket {parts.netloc} is there", DONE)
            # A server that is still starting says so with a 503; any other answer is its last word.
            if error.response.status != 503 or time.monotonic() > deadline:
                return _say(f"bucket {parts.netloc}: {error.code}: {error.message}", FAILED)
        except ValueError as error:  # minio's own word on names
            return _say(f"bucket {parts.netloc}: {error}", MISUSED)
        except (MinioException, HTTPError) as error:
            if time.monotonic() > deadline:
                return _say(f"bucket {parts.netloc}: the server does not answer: {error}", FAILED)
        time.sleep(ATTEMPT_INTERVAL_S)


def _client(query: str, settings: BucketSettings) -> Minio:
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    endpoint = urlsplit(options.get("endpoint", "https://s3.amazonaws.com"))
    return Minio(
        endpoint.netloc,
        access_key=settings.blob_access_key.get_secret_value(),
        secret_key=settings.blob_secret_key.get_secret_value(),
        secure=endpoint.scheme == "https",
        region=options.get("region", "us-east-1"),
        http_client=urllib3.PoolManager(timeout=ANSWER_TIMEOUT_S, retries=False),
    )


def _make_bucket(name: str, client: Minio) -> int:
    if client.bucket_exists(name):
        return _say(f"bucket {name} is there", DONE)
    client.make_bucket(name)
    return _say(f"bucket {name} made", DONE)


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(f"{sentence}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
