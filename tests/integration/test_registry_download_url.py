"""URLs that read a file from the blob store itself, without the registry and without a key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import urllib3

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from tests import registry
from tests.s3 import S3Bucket

FILES = {"model.onnx": b"graph", "weights/größe 1.bin": b"weights"}


def url_for(stub: RegistryServiceStub, **more: object) -> pb.CreateDownloadUrlResponse:
    asked = {"model": "iris", "version": "1", "path": "model.onnx", **more}
    return stub.CreateDownloadUrl(pb.CreateDownloadUrlRequest(**asked), timeout=registry.DEADLINE_S)  # type: ignore[arg-type] # the test's


def test_a_url_reads_one_file_and_nothing_else(
    clone_database: Callable[[str], str], tmp_path: Path, bucket: S3Bucket
) -> None:
    settings = registry.settings_for(
        clone_database("registry"),
        tmp_path,
        blob_url=bucket.url,
        blob_access_key=bucket.server.access_key,
        blob_secret_key=bucket.server.secret_key,
    )
    with registry.registry(settings) as stub:
        version = stub.RegisterVersion(registry.upload_files(FILES), timeout=registry.DEADLINE_S).version
        for file in version.files:
            before_ns = version.create_time.ToNanoseconds()
            made = url_for(stub, path=file.path, lifetime_s=60)
            assert made.file == file
            assert 0 < made.expire_time.ToNanoseconds() - before_ns < 120e9
            answer = urllib3.request("GET", made.url)
            assert (answer.status, answer.data) == (200, FILES[file.path])
            assert bucket.server.secret_key not in made.url
        assert "gr%C3%B6%C3%9Fe%201.bin" in answer.headers["content-disposition"]
        assert "X-Amz-Expires=900" in url_for(stub).url

        with pytest.raises(grpc.RpcError) as caught:
            url_for(stub, path="other")
        assert registry.refusal(caught.value)[:2] == (grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND")
        for more, reason in (({"path": ""}, "PATH_REQUIRED"), ({"lifetime_s": -1}, "OUT_OF_BOUNDS")):
            with pytest.raises(grpc.RpcError) as caught:
                url_for(stub, **more)
            assert registry.refusal(caught.value)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, reason)


def test_a_store_without_urls_says_to_stream(clone_database: Callable[[str], str], tmp_path: Path) -> None:
    with registry.registry(registry.settings_for(clone_database("registry"), tmp_path)) as stub:
        version = stub.RegisterVersion(registry.upload_files(FILES), timeout=registry.DEADLINE_S).version
        made = url_for(stub)
        assert (made.file, made.url, made.HasField("expire_time")) == (version.files[0], "", False)
