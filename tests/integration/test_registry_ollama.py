"""References to models of Ollama's, which bring no files; and what is no framework here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

import penstock
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from penstock.api.tensors.v1 import tensors_pb2
from tests import catalogue
from tests.catalogue import DEADLINE_S, INVALID, Catalogue, refused
from tests.registry import APPROVED, go_live, refusal, upload, wait_until
from tests.services import Running
from tests.testdata import models

BYTES, FP32 = tensors_pb2.DATA_TYPE_BYTES, tensors_pb2.DATA_TYPE_FP32


@pytest.fixture
def running(clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[Catalogue]:
    with catalogue.served(clone_database("registry"), tmp_path) as opened:
        yield opened


def send(running: Catalogue, header: pb.VersionHeader, *parts: pb.RegisterVersionRequest) -> pb.ModelVersion:
    messages = iter([pb.RegisterVersionRequest(header=header), *parts])
    return running.stub.RegisterVersion(messages, timeout=DEADLINE_S).version


@pytest.mark.parametrize(
    ("mode", "inputs", "outputs"),
    [
        (pb.OLLAMA_MODE_CHAT, [("messages", BYTES, [-1])], [("response", BYTES, [-1])]),
        (pb.OLLAMA_MODE_GENERATE, [("prompt", BYTES, [-1])], [("response", BYTES, [-1])]),
        (pb.OLLAMA_MODE_EMBED, [("text", BYTES, [-1])], [("embedding", FP32, [-1, -1])]),
    ],
)
def test_a_reference_is_ready_at_once_with_the_signature_of_its_mode(
    running: Catalogue, mode: pb.OllamaMode.ValueType, inputs: list[Any], outputs: list[Any]
) -> None:
    reference = pb.OllamaReference(model="hf.co/acme/llama3.2:1b-q4_K_M", mode=mode)
    version = catalogue.register(running.stub, "1", ollama=reference)
    assert (version.state, version.framework, version.ollama) == (
        pb.VERSION_STATE_READY, pb.FRAMEWORK_OLLAMA, reference,
    )  # fmt: skip
    for specs, expected in ((version.signature.inputs, inputs), (version.signature.outputs, outputs)):
        assert [(spec.name, spec.datatype, list(spec.shape)) for spec in specs] == expected
    assert (list(version.files), version.size_bytes, version.HasField("validation")) == ([], 0, False)
    assert version.HasField("ready_time")
    assert version == catalogue.get_version(running.stub, "1")
    assert catalogue.get_model(running.stub).latest_version == "1"


def test_a_reference_climbs_the_stages_as_others_do(running: Catalogue) -> None:
    catalogue.register(running.stub, "1")
    go_live(running.stub, "1")
    live = catalogue.register(running.stub, "2", stage=pb.STAGE_PRODUCTION, **APPROVED)
    assert (live.stage, live.parent_deployment_number) == (pb.STAGE_PRODUCTION, 1)
    assert catalogue.get_version(running.stub, "1").stage == pb.STAGE_ARCHIVED
    moves = running.stub.ListTransitions(pb.ListTransitionsRequest(model="iris", version="2")).transitions
    assert [move.to_stage for move in moves] == [pb.STAGE_PRODUCTION, pb.STAGE_STAGING, pb.STAGE_CANDIDATE]


@pytest.mark.parametrize(
    "name",
    ["", "a b", "../x", "https://ollama.com/llama", "user:secret@host/llama", "llama:", ":1b", "a/b/c/d", "x" * 257],
)
def test_what_ollama_would_not_pull_is_refused(running: Catalogue, name: str) -> None:
    reference = pb.OllamaReference(model=name, mode=pb.OLLAMA_MODE_CHAT)
    call = partial(catalogue.register, running.stub, "1", ollama=reference)
    assert refused(call) == (INVALID, "INVALID_REFERENCE", ["ollama.model"])


@pytest.mark.parametrize(
    "name", ["llama3.2", "llama3.2:1b", "acme/llama:Q4_K_M", "localhost:11434/acme/llama", "hf.co/a/b:c"]
)
def test_what_ollama_would_pull_is_taken(running: Catalogue, name: str) -> None:
    reference = pb.OllamaReference(model=name, mode=pb.OLLAMA_MODE_CHAT)
    assert catalogue.register(running.stub, "1", ollama=reference).ollama.model == name


def test_a_reference_needs_its_mode_and_brings_nothing_else(running: Catalogue) -> None:
    def refused_with(*parts: pb.RegisterVersionRequest, **more: Any) -> tuple[str, list[str]]:
        return refused(partial(send, running, catalogue.header("iris", "1", **more), *parts))[1:]

    assert refused_with(ollama=pb.OllamaReference(model="llama")) == ("INVALID_REFERENCE", ["ollama.mode"])
    assert refused_with(ollama=None) == ("INVALID_REFERENCE", ["ollama"])
    assert refused_with(framework=pb.FRAMEWORK_ONNX) == ("INVALID_REFERENCE", ["ollama"])
    assert refused_with(declared_signature=tensors_pb2.Signature()) == ("INVALID_REFERENCE", ["declared_signature"])
    file = pb.RegisterVersionRequest(file=pb.FileHeader(path="model.gguf", size_bytes=1))
    assert refused_with(file, pb.RegisterVersionRequest(chunk=b"x"))[0] == "FILES_NOT_ALLOWED"
    assert refused_with(file_count=1)[0] == "FILES_NOT_ALLOWED"
    assert list(running.stub.ListModels(pb.ListModelsRequest()).models) == []


def test_the_same_request_registers_one_reference(running: Catalogue) -> None:
    first = catalogue.register(running.stub, "1", request_id="a")
    assert catalogue.register(running.stub, "1", request_id="a") == first
    assert refused(partial(catalogue.register, running.stub, "1", request_id="a", note="b"))[1] == "REQUEST_ID_REUSED"
    assert refused(partial(catalogue.register, running.stub, "1"))[1] == "VERSION_EXISTS"


def test_a_reference_has_no_file_to_download(running: Catalogue) -> None:
    catalogue.register(running.stub, "1")
    request = pb.DownloadFileRequest(model="iris", version="1", path="model.gguf")
    assert refused(lambda: list(running.stub.DownloadFile(request, timeout=DEADLINE_S)))[1] == "FILE_NOT_FOUND"


def test_tensorflow_js_is_refused_with_what_to_do(running: Catalogue) -> None:
    parts = upload(models.linear(), framework=pb.FRAMEWORK_TENSORFLOWJS)
    with pytest.raises(grpc.RpcError, match="tf2onnx") as caught:
        running.stub.RegisterVersion(parts, timeout=DEADLINE_S)
    assert refusal(caught.value) == (INVALID, "UNSUPPORTED_FRAMEWORK", ["framework"])


@pytest.mark.parametrize("reference", ["https://ada:secret@host/model", "https://host/m?access_token=abc123"])
def test_a_source_bears_no_credentials(running: Catalogue, reference: str) -> None:
    call = partial(catalogue.register, running.stub, "1", source=pb.Source(reference=reference))
    assert refused(call) == (INVALID, "CREDENTIALS_IN_URL", ["source.reference"])


@pytest.mark.slow
def test_a_reference_is_served_and_without_its_server_that_is_said(client: penstock.Client, registry: Running) -> None:
    with grpc.insecure_channel(registry.address) as channel:
        catalogue.register(RegistryServiceStub(channel), "1", "writer")

    def asked() -> penstock.PenstockError:
        with pytest.raises(penstock.PenstockError) as caught:
            client.inference.predict("writer", {"prompt": ["Once upon a time"]})
        return caught.value

    # What was just registered reaches inference a moment later.
    error = wait_until(lambda: found if (found := asked()).reason != "MODEL_NOT_FOUND" else None)
    # Nothing listens where Ollama would; a machine where it does lacks the model.
    assert error.reason.startswith("OLLAMA_")
