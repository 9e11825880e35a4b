"""What the contract suites stand on: an S3 server for the session, and a bucket of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.s3 import S3Bucket, S3Server, s3_server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The S3 server named in the test header."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server) -> Iterator[S3Bucket]:
    """An empty bucket, removed with its content afterwards."""
    made = s3.make_bucket()
    yield made
    made.remove()
