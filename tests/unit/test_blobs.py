"""Where blob URLs lead, and how bytes are cut into parts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.blobs import FileBlobStore, open_blobs
from services.common.blobs.flow import Inflow
from services.common.blobs.s3 import S3BlobStore
from services.common.errors import FailedPrecondition


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(1, 30))
def test_parts_are_full_but_the_last_and_join_to_what_came(chunks: list[bytes], part_bytes: int) -> None:
    content = b"".join(chunks)
    inflow = Inflow(chunks, sha256=None, size_bytes=len(content), max_bytes=len(content))
    parts, ended = [], []
    for part in inflow.parts(part_bytes):
        parts.append(part)
        ended.append(inflow.ended)

    assert b"".join(parts) == content
    assert {len(part) for part in parts[:-1]} <= {part_bytes}
    assert len(parts[-1]) <= part_bytes
    assert ended == [False] * (len(parts) - 1) + [True]
    assert inflow.sha256 == hashlib.sha256(content).hexdigest()


def test_a_file_url_opens_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "with a space"
    assert isinstance(open_blobs(root.as_uri(), prefix="registry"), FileBlobStore)
    assert (root / "registry").is_dir()


def test_an_s3_server_that_is_down_does_not_keep_a_service_from_starting() -> None:
    store = open_blobs(
        "s3://bucket?endpoint=http://127.0.0.1:1", prefix="registry", access_key="key", secret_key="secret"
    )
    assert isinstance(store, S3BlobStore)
    # Nobody said where clients reach it, and its own endpoint may be one that only services know.
    assert store.presign("0" * 64, lifetime_s=900, file_name="model.onnx") is None
    store.close()


def test_a_url_is_signed_for_the_address_that_clients_know_and_nobody_is_asked() -> None:
    store = open_blobs(
        "s3://bucket?endpoint=http://127.0.0.1:1&public_endpoint=https://models.example.org",
        prefix="registry",
        access_key="key",
        secret_key="secret",
    )
    url = store.presign("0" * 64, lifetime_s=900, file_name="model.onnx")
    assert url is not None
    assert url.startswith(f"https://models.example.org/bucket/registry/00/{'0' * 64}?")
    assert "X-Amz-Expires=900" in url
    assert "secret" not in url
    for lifetime_s in (0, 604_801):
        with pytest.raises(ValueError, match="1 to 604800"):
            store.presign("0" * 64, lifetime_s=lifetime_s, file_name="model.onnx")
    store.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "use file:///absolute/path or s3://bucket"),
        ("/var/lib/penstock", "use file:///absolute/path"),
        ("file://relative/path", "use file:///absolute/path"),
        ("file:///", "use file:///absolute/path"),
        ("s3://", "s3://bucket"),
        ("s3://bucket/folder", "s3://bucket"),
        ("s3://bucket?endpont=http://127.0.0.1:1", "unknown option endpont"),
        ("s3://bucket?endpoint=127.0.0.1:9000", "use http://host:port"),
        ("s3://bucket?endpoint=http://127.0.0.1:9000/path", "use http://host:port"),
        (
            "s3://bucket?public_endpoint=models.example.org",
            "public_endpoint 'models.example.org': use http://host:port",
        ),
        ("s3://B?endpoint=http://127.0.0.1:1", "invalid bucket name B"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_with_what_can(url: str, says: str) -> None:
    with pytest.raises(FailedPrecondition, match=says):
        open_blobs(url, prefix="registry", access_key="key", secret_key="secret")


@pytest.mark.parametrize(
    "url", ["s3://key:hush@bucket", "s3://bucket?endpoint=http://key:hush@127.0.0.1:1", "http://key:hush@host"]
)
def test_keys_inside_the_url_are_refused_and_not_told_on(url: str) -> None:
    with pytest.raises(FailedPrecondition, match="PENSTOCK_BLOB_SECRET_KEY") as refused:
        open_blobs(url, prefix="registry", access_key="key", secret_key="secret")
    assert "hush" not in refused.value.message


def test_s3_without_keys_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="needs an access key and a secret key"):
        open_blobs("s3://bucket", prefix="registry", access_key="key")


@pytest.mark.parametrize("prefix", ["", "../up", "a/b", "Upper", "-dash"])
def test_a_prefix_is_one_plain_name(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(FailedPrecondition, match="blob prefix"):
        open_blobs(tmp_path.as_uri(), prefix=prefix)
