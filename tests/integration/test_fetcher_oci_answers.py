"""What registries answer, and what is believed of it: sockets on loopback that say what no good registry would."""

from __future__ import annotations

import hashlib
import json
import socket
from typing import Any

import pytest
from pydantic import ValidationError

from services.common.addresses import AddressRules, AllowedHosts
from services.common.errors import DomainError
from services.fetcher.faults import (
    DigestMismatch,
    FileTooLarge,
    ModelNotFound,
    NetworkError,
    RateLimited,
    SourceChanged,
    Unauthorized,
    UnsupportedFramework,
)
from services.fetcher.models import Reference
from services.fetcher.sources.http import GuardedHttp
from services.fetcher.sources.oci import OciSource
from services.fetcher.sources.oci_login import AuthFile
from services.fetcher.sources.source import Found, Stopping
from tests.flows import all_of
from tests.oci_registry import INDEX, MANIFEST, TITLE
from tests.origins import Say, answering

pytestmark = pytest.mark.slow
HASH = "sha256:" + "0" * 64


def layer(**more: Any) -> dict[str, Any]:
    return {"mediaType": "application/onnx", "digest": HASH, "size": 1, "annotations": {TITLE: "m.onnx"}, **more}


def manifest(*layers: Any, **more: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers, **more}).encode()


def index(*entries: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


def entry(body: bytes, **more: Any) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    return {"mediaType": MANIFEST, "digest": digest, "size": len(body), **more}


def saying(body: bytes, status: str = "200 OK", kind: str = MANIFEST, **headers: str) -> Say:
    """A registry with this manifest, and blobs of one byte."""
    lines = {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())

    def say(connection: socket.socket, asked: str) -> None:
        if "/blobs/" in asked:
            connection.sendall(b"HTTP/1.1 206 X\r\nContent-Range: bytes 0-0/1\r\nContent-Length: 1\r\n\r\nx")
        else:
            connection.sendall(f"HTTP/1.1 {status}\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    return say


def found(say: Say, reference: str = "{host}/models/m:v1") -> Found:
    with answering(say) as url:
        host = url.removeprefix("http://")
        source = OciSource(GuardedHttp(AddressRules(AllowedHosts.parse("127.0.0.1"))), AuthFile(None), [host])
        return source.find(Reference("oci", reference.format(host=host)), Stopping())


def test_a_manifest_is_read() -> None:
    body = manifest(layer(), annotations={"org.opencontainers.image.licenses": "MIT\x1b\n"})
    told = found(saying(body, kind=f"{MANIFEST}; charset=utf-8"))
    (file,) = told.plan.files
    assert (file.path, file.size_bytes, file.sha256, file.ranges) == ("m.onnx", 1, "0" * 64, True)
    assert told.plan.revision == f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert told.licence == "MIT"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", UnsupportedFramework),
        (b"<html>", UnsupportedFramework),
        (b"[" * 100_000, UnsupportedFramework),
        (b"[]", UnsupportedFramework),
        (b'{"layers": 1}', UnsupportedFramework),
        (manifest(layer(), manifests=[]), UnsupportedFramework),
        (manifest(layer(), mediaType=INDEX), UnsupportedFramework),
        (manifest(layer(), mediaType="text/plain"), UnsupportedFramework),
        (manifest(layer(size=-1)), UnsupportedFramework),
        (manifest(layer(size="1")), UnsupportedFramework),
        (manifest(layer(digest="sha512:" + "0" * 128)), UnsupportedFramework),
        (manifest(layer(digest="sha256:../../x")), UnsupportedFramework),
        (manifest(layer(digest=1)), UnsupportedFramework),
        (manifest(layer(annotations={TITLE: 1})), UnsupportedFramework),
        (
            manifest(layer(mediaType="application/vnd.oci.image.layer.v1.tar+zstd", annotations={})),
            UnsupportedFramework,
        ),
        (manifest(*[layer(annotations={TITLE: f"{n}"}) for n in range(1_001)]), FileTooLarge),
        (b" " * (4 * 1024 * 1024 + 1), FileTooLarge),
        (manifest(layer(mediaType="application/vnd.oci.empty.v1+json")), ModelNotFound),
        (json.dumps({"mediaType": MANIFEST}).encode(), ModelNotFound),
    ],
    ids=range(19),
)
def test_manifests_that_are_none_are_refused(body: bytes, fault: type[DomainError]) -> None:
    with pytest.raises(fault) as refused:
        found(saying(body))
    assert refused.value.message.isprintable()


@pytest.mark.parametrize(
    "body",
    [
        b'{"layers":[' + b",".join([b"{}"] * 1_000_000) + b"]}",
        b'{"manifests":[' + b",".join([b"1"] * 1_001) + b"]}",
        manifest(layer(), annotations=dict.fromkeys(map(str, range(300_000)), 1)),
        manifest(layer(), layer(annotations=dict.fromkeys(map(str, range(257)), ""))),
    ],
    ids=["layers", "manifests", "annotations", "annotations of a layer"],
)
def test_what_no_manifest_needs_is_counted_before_it_is_looked_at(body: bytes) -> None:
    with pytest.raises(FileTooLarge, match=r"manifest has [0-9,]+ (layers|manifests|annotations)"):
        found(saying(body))


def test_a_manifest_is_read_no_further_than_to_its_first_fault() -> None:
    wrong = dict.fromkeys(map(str, range(256)), 1)
    with pytest.raises(UnsupportedFramework) as refused:
        found(saying(manifest(*[layer(annotations=wrong)] * 1_000)))
    cause = refused.value.__cause__
    assert isinstance(cause, ValidationError)
    assert cause.error_count() <= 256


def test_what_annotations_say_is_bounded_in_bytes() -> None:
    said = {f"org.opencontainers.image.{name}": "模" * 2_000 for name in ("licenses", "description", "version")}
    fields = found(saying(manifest(layer(), annotations=said))).plan.metadata["fields"]
    assert {name: len(text.encode()) for name, text in fields.items()} == dict.fromkeys(fields, 1_998)


@pytest.mark.parametrize(
    ("say", "reference", "fault"),
    [
        (saying(manifest(layer()), Docker_Content_Digest=HASH), "{host}/m:v1", DigestMismatch),
        (saying(manifest(layer()), Docker_Content_Digest="sha512:" + "0" * 128), "{host}/m:v1", DigestMismatch),
        (saying(manifest(layer())), "{host}/m@" + HASH, DigestMismatch),
        (saying(manifest(layer()), "206 Partial Content"), "{host}/m:v1", NetworkError),
        (saying(b"", "404 Not Found"), "{host}/m:v1", ModelNotFound),
        (saying(b"", "403 Forbidden"), "{host}/m:v1", Unauthorized),
        (saying(b"", "401 Unauthorized"), "{host}/m:v1", Unauthorized),
        (saying(b"", "401 Unauthorized", WWW_Authenticate="Negotiate"), "{host}/m:v1", Unauthorized),
        (saying(b"", "401 Unauthorized", WWW_Authenticate="Bearer " + ", " * 9_000), "{host}/m:v1", Unauthorized),
        (saying(b"", "429 Too Many Requests", Retry_After="3"), "{host}/m:v1", RateLimited),
        (saying(b"", "500 Oh"), "{host}/m:v1", NetworkError),
    ],
    ids=range(11),
)
def test_each_refusal_says_what_it_means(say: Say, reference: str, fault: type[DomainError]) -> None:
    with pytest.raises(fault):
        found(say, reference)


def test_an_index_of_what_is_no_model_is_refused() -> None:
    inner = manifest(layer())
    for entries in (
        [],
        [entry(inner, mediaType=INDEX)],  # an index in an index
        [entry(inner, mediaType="text/plain")],
        [entry(inner, platform={"os": "windows", "architecture": "amd64"}),
         entry(inner, platform={"os": "plan9", "architecture": "mips"})],
    ):  # fmt: skip
        with pytest.raises(UnsupportedFramework, match="by its digest"):
            found(saying(index(*entries), kind=INDEX))


def test_what_can_be_read_as_an_index_and_as_a_manifest_is_refused() -> None:
    both = json.loads(index(entry(manifest(layer())))) | {"layers": [layer()]}
    with pytest.raises(UnsupportedFramework, match="two things"):
        found(saying(json.dumps(both).encode(), kind=INDEX))


def test_an_index_that_leads_to_another_manifest_than_it_says_is_refused() -> None:
    with pytest.raises(DigestMismatch):
        found(saying(index(entry(manifest(layer()))), kind=INDEX))  # the index comes again, whatever is asked for


def test_a_layer_of_another_size_is_another() -> None:
    told = found(saying(manifest(layer(size=7))))
    (file,) = told.plan.files
    with answering(saying(b"")) as url:
        host = url.removeprefix("http://")
        source = OciSource(GuardedHttp(AddressRules(AllowedHosts.parse("127.0.0.1"))), AuthFile(None), [host])
        moved = file.__class__("m.onnx", f"oci://{host}/models/m@{HASH}", "", file.size_bytes, file.sha256)
        with pytest.raises((SourceChanged, NetworkError)), source.open(moved, 0, Stopping(), end=1) as flow:
            all_of(flow)


def test_a_password_is_not_asked_for_by_whoever_a_registry_redirects_to() -> None:
    with answering(saying(b"", "401 Unauthorized", WWW_Authenticate='Basic realm="x"')) as elsewhere:
        away = saying(b"", "307 Temporary Redirect", Location=f"{elsewhere}/x")
        with pytest.raises(Unauthorized, match="answered 401"):
            found(away)
