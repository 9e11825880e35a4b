"""Models of Hugging Face's Hub as callers meet them: a real registry, fetcher and PostgreSQL, and a stand-in of the Hub
that is asked by the real huggingface_hub client.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from google.protobuf.json_format import MessageToDict
from pydantic import SecretStr

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from tests import hub
from tests.fetching import Place, fetching
from tests.postgres import PostgresServer
from tests.testdata import bundles, models

pytestmark = pytest.mark.slow
SECRET = "hf_never-to-be-seen"
ADDED = {"README.md": b"read me", "pytorch_model.bin": b"p" * 20_000, "logo.png": b"png", "vocab.txt": b"a\nb"}


@pytest.fixture(scope="module")
def server() -> Iterator[hub.Hub]:
    with hub.serving() as served:
        served.token = SECRET
        yield served


@pytest.fixture(scope="module")
def place(
    server: hub.Hub, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("fetcher")
    with fetching(
        postgres_server, folder, fetcher_hf_endpoint=server.url, fetcher_hf_token=SecretStr(SECRET)
    ) as running:
        yield running


def exported(**graphs: str) -> dict[str, bytes]:
    """A repository as optimum and transformers.js make it, with tiny graphs."""
    files = bundles.bundle(graph="onnx/model.onnx")
    more = {path: bundles.mean_of_table(len(bundles.WORDS), length=length) for path, length in graphs.items()}
    return {**files, **more, **ADDED}


def test_a_bundle_becomes_a_version_with_what_its_card_says(place: Place, server: hub.Hub) -> None:
    commit = server.publish(
        "org/Tiny-Encoder", exported(), card={"license": "apache-2.0"}, tags=["license:apache-2.0", "en"],
        pipeline_tag="sentence-similarity",
    )  # fmt: skip
    job = place.fetch("huggingface", "org/Tiny-Encoder")
    assert job.state == pb.FETCH_JOB_STATE_COMPLETED, job.error
    assert (job.result.model, job.result.version, job.resolved_revision) == ("tiny-encoder", "v1", commit)
    version = place.client.registry.get_version("tiny-encoder", "v1")
    assert version.framework == registry.FRAMEWORK_TRANSFORMERS
    assert {file.path for file in version.files} == {
        "onnx/model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert (version.source.origin, version.source.reference, version.source.revision) == (
        "huggingface", "org/Tiny-Encoder", commit,
    )  # fmt: skip
    metadata = MessageToDict(version.metadata)
    assert (metadata["taskType"], metadata["tags"]) == ("feature-extraction", ["license:apache-2.0", "en"])
    assert (metadata["fields"]["licence"], metadata["fields"]["max_tokens"]) == ("apache-2.0", 512)


def test_inspecting_reads_no_weights(place: Place, server: hub.Hub) -> None:
    server.publish("org/inspected", exported(**{"onnx/model_fp16.onnx": "long"}), card={"license": "cc-by-nc-4.0"})
    asked = len(server.asked)
    found = place.client.fetcher.inspect("huggingface", "org/inspected", variant="fp16")
    assert [(each.name, each.precision, each.is_default) for each in found.variants] == [
        ("default", "fp32", True), ("fp16", "fp16", False),
    ]  # fmt: skip
    assert (found.framework, found.suggested_model, found.licence) == (
        registry.FRAMEWORK_TRANSFORMERS, "inspected", "cc-by-nc-4.0",
    )  # fmt: skip
    assert found.download_size_bytes == found.variants[1].size_bytes
    assert any("no commercial use" in warning for warning in found.warnings)
    assert not any(path.endswith((".onnx", ".bin", "tokenizer.json")) for path in server.paths()[asked:])


def test_where_no_variant_is_the_default_one_is_named(place: Place, server: hub.Hub) -> None:
    server.publish("org/undecided", {"model_fp16.onnx": models.classifier(), "model_q4.onnx": models.classifier()})
    seen = place.client.fetcher.inspect("huggingface", "org/undecided")
    assert [(each.name, each.is_default) for each in seen.variants] == [("fp16", False), ("q4", False)]
    assert "name one of: fp16, q4" in seen.warnings[0]
    assert not seen.HasField("download_size_bytes"), "nothing would be downloaded"
    job = place.fetch("huggingface", "org/undecided")
    assert (job.state, job.error.reason) == (pb.FETCH_JOB_STATE_FAILED, "UNKNOWN_VARIANT")
    found = place.client.fetcher.inspect("huggingface", "org/undecided", variant="q4")
    assert [(each.name, each.is_default) for each in found.variants] == [("fp16", False), ("q4", False)]
    assert found.download_size_bytes == len(models.classifier())


def test_what_makes_texts_is_shown_and_refused_before_anything_comes(place: Place, server: hub.Hub) -> None:
    server.publish("org/generator", exported(), pipeline_tag="text-generation")
    seen = place.client.fetcher.inspect("huggingface", "org/generator")
    assert "which no bundle does here: Ollama" in seen.warnings[0]
    asked = len(server.asked)
    job = place.fetch("huggingface", "org/generator")
    assert (job.state, job.error.reason) == (pb.FETCH_JOB_STATE_FAILED, "UNSUPPORTED_FRAMEWORK")
    assert not any(path.endswith((".onnx", "tokenizer.json")) for path in server.paths()[asked:])
    # Whoever knows better has the last word.
    named = place.fetch("huggingface", "org/generator", framework=registry.FRAMEWORK_TRANSFORMERS)
    assert named.state == pb.FETCH_JOB_STATE_COMPLETED, named.error


def test_a_variant_is_served_by_its_own_graph(place: Place, server: hub.Hub) -> None:
    server.publish("org/variants", exported(**{"onnx/model_quantized.onnx": "long"}))
    for variant, graph, version in (("", "onnx/model.onnx", "v1"), ("q8", "onnx/model_quantized.onnx", "v2")):
        job = place.fetch("huggingface", "org/variants", variant=variant)
        assert (job.state, job.result.version) == (pb.FETCH_JOB_STATE_COMPLETED, version), job.error
        made = place.client.registry.get_version("variants", version)
        assert [file.path for file in made.files if file.path.endswith(".onnx")] == [graph]
    assert made.metadata.fields["variant"] == "quantized"
    with pytest.raises(InvalidArgument) as refused:
        place.client.fetcher.inspect("huggingface", "org/variants", variant="q3")
    assert refused.value.reason == "UNKNOWN_VARIANT"


def test_the_same_commit_is_the_same_version_and_a_new_one_the_next(place: Place, server: hub.Hub) -> None:
    server.publish("org/again", exported())
    assert place.fetch("huggingface", "org/again").result.version == "v1"
    sent = server.cdn.sent_bytes
    again = place.fetch("huggingface", "org/again")
    assert (again.result.version, again.result.existed, again.result.downloaded_bytes) == ("v1", True, 0)
    assert server.cdn.sent_bytes == sent
    server.publish("org/again", exported() | {"config.json": json.dumps({"vocab_size": 7, "x": 1}).encode()})
    assert place.fetch("huggingface", "org/again").result.version == "v2"
    assert place.fetch("huggingface", "org/again", revision="main").result.version == "v2"


def test_a_graph_with_external_data_opens_as_it_was_saved(place: Place, server: hub.Hub, tmp_path: Path) -> None:
    onnx.save_model(
        onnx.load_from_string(models.classifier()),
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
    )
    files = {f"onnx/{path.name}": path.read_bytes() for path in tmp_path.iterdir()}
    server.publish("org/external", {**files, "README.md": b"x"})
    job = place.fetch("huggingface", "org/external")
    assert job.state == pb.FETCH_JOB_STATE_COMPLETED, job.error
    version = place.client.registry.get_version("external", "v1")
    assert (version.framework, {file.path for file in version.files}) == (
        registry.FRAMEWORK_ONNX, {"model.onnx", "model.onnx_data"},
    )  # fmt: skip


def test_a_transfer_from_the_cdn_goes_on_where_it_broke(place: Place, server: hub.Hub) -> None:
    mebibyte = 1024 * 1024
    content = os.urandom(20 * mebibyte)
    server.publish("org/large", {"model.onnx": content})
    sha256 = place.client.fetcher.inspect("huggingface", "org/large").variants[0].files[0].sha256
    server.cdn.serve(server.signed_path("org/large", sha256), content, cut_after=[3 * mebibyte])
    # Bytes that are no model: how they come is what counts here, and the registry refuses them in the end.
    job = place.fetch("huggingface", "org/large")
    assert job.error.reason == "REGISTRATION_REFUSED"
    assert job.progress.done_bytes == len(content)
    asked = [headers for path, headers in server.cdn.asked if sha256 in path]
    assert len(asked) > 3, "a part was asked for again"
    assert all("Range" in headers and "Authorization" not in headers for headers in asked)


def test_a_digest_that_the_hub_names_must_be_met(place: Place, server: hub.Hub) -> None:
    graph = models.classifier()
    server.publish("org/spoilt", {"model.onnx": graph})
    found = place.client.fetcher.inspect("huggingface", "org/spoilt").variants[0].files[0]
    server.cdn.serve(server.signed_path("org/spoilt", found.sha256), bytes(len(graph)))
    job = place.fetch("huggingface", "org/spoilt")
    assert (job.state, job.error.reason) == (pb.FETCH_JOB_STATE_FAILED, "DIGEST_MISMATCH")


def test_private_and_gated_repositories_come_with_the_token(place: Place, server: hub.Hub) -> None:
    graph = bundles.mean_of_table(11)
    server.publish("org/closed", {"model.onnx": graph}, private=True, gated=True, card={"license": "llama3"})
    before = len(server.cdn.asked)
    job = place.fetch("huggingface", "org/closed")
    assert job.state == pb.FETCH_JOB_STATE_COMPLETED, job.error
    assert not any("Authorization" in headers for _, headers in server.cdn.asked[before:])
    assert len(server.cdn.asked) > before
    server.repositories["org/closed"].allowed = False
    refused = place.fetch("huggingface", "org/closed", version="other")
    assert (refused.state, refused.error.reason, refused.error.retryable) == (
        pb.FETCH_JOB_STATE_FAILED, "UNAUTHORIZED", False,
    )  # fmt: skip
    assert f"{server.url}/org/closed" in refused.error.message
    rows = place.rows("SELECT to_jsonb(fetch_jobs)::text FROM fetcher.fetch_jobs")
    assert rows
    assert SECRET not in f"{rows}{job}{refused}"


@pytest.mark.parametrize(
    ("reference", "more", "error", "reason"),
    [
        ("org/missing", {}, NotFound, "MODEL_NOT_FOUND"),
        ("org/weights", {}, FailedPrecondition, "UNSUPPORTED_FRAMEWORK"),
        ("org/weights", {"revision": "v9"}, NotFound, "MODEL_NOT_FOUND"),
        ("org/busy", {}, ResourceExhausted, "RATE_LIMITED"),
        ("../../etc/passwd", {}, InvalidArgument, "INVALID_REFERENCE"),
        ("https://elsewhere.example/org/name", {}, InvalidArgument, "INVALID_REFERENCE"),
    ],
)
def test_what_cannot_be_fetched_is_said_at_once(
    place: Place, server: hub.Hub, reference: str, more: dict[str, str], error: type[Exception], reason: str
) -> None:
    server.publish("org/weights", {"model.safetensors": b"x", "config.json": b"{}"})
    server.publish("org/busy", {"model.onnx": b"x"}, answers=[(429, {"RateLimit": '"api";r=0;t=1'})] * 9)
    with pytest.raises(error) as refused:
        place.client.fetcher.inspect("huggingface", reference, **more)
    assert refused.value.reason == reason  # type: ignore[attr-defined]


def test_the_source_is_listed(place: Place) -> None:
    [source] = [each for each in place.client.fetcher.sources() if each.name == "huggingface"]
    assert (source.enabled, source.has_revisions, source.reference_form) == (True, True, "org/name")


def test_a_commit_is_one_version_however_its_reference_is_written(place: Place, server: hub.Hub) -> None:
    server.publish("org/one", {"model.onnx": models.classifier()})
    made: list[tuple[str, bool]] = []
    for reference in ("org/one@main", "org/one", "hf://org/one", f"{server.url}/org/one"):
        result = place.fetch("huggingface", reference).result
        made.append((result.version, result.existed))
    assert made == [("v1", False)] + [("v1", True)] * 3
    version = place.client.registry.get_version("one", "v1")
    assert (version.source.reference, version.metadata.fields["fetched_reference"]) == ("org/one", "org/one@main")
