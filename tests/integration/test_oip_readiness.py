"""When a model is ready in the Open Inference Protocol's sense, what is said of one that is not, and the dialects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import penstock
from services.inference.oip import open_inference_pb2 as oip
from tests import inference
from tests.inference import DEADLINE_S, Suite, fp32, infer_request, wait_until
from tests.postgres import PostgresServer
from tests.testdata import models

ROWS = fp32([[1, 2, 3, 4]])
FOLDERS: dict[str, Path] = {}
"""Where each registry keeps its blobs, by its address."""


@pytest.fixture(scope="module")
def suite(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    folder = tmp_path_factory.mktemp("suite")
    with inference.running_suite(postgres_server, folder, typed_answers="mirrored", server_name="triton") as suite:
        FOLDERS[suite.registry.address] = folder
        yield suite


def ready(suite: Suite, model: str) -> bool:
    return suite.oip.ModelReady(oip.ModelReadyRequest(name=model), timeout=DEADLINE_S).ready


def index(suite: Suite) -> dict[str, tuple[str, str]]:
    models = suite.oip.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=DEADLINE_S).models
    return {each.name: (each.state, each.reason) for each in models}


def loaded(suite: Suite, model: str) -> bool:
    return bool(suite.client.inference.sessions(model).sessions)


def test_a_model_that_is_warmed_up_is_ready_once_that_is_done_and_asking_brings_it_about(suite: Suite) -> None:
    settings = {"warm_up": [{"row_count": 2, "repeat_count": 3}]}
    inference.register(suite.client, "warmed", models.classifier(), serving_settings=settings)
    wait_until(lambda: ready(suite, "warmed") or None)
    assert loaded(suite, "warmed")
    suite.client.inference.unload_model("warmed")
    wait_until(lambda: not loaded(suite, "warmed") or None)
    wait_until(lambda: ready(suite, "warmed") or None)
    assert loaded(suite, "warmed")


def test_a_model_without_such_wishes_is_ready_to_be_loaded_by_its_first_request(suite: Suite) -> None:
    inference.serve(suite, "plain", models.classifier())
    assert ready(suite, "plain")
    assert not loaded(suite, "plain")


def test_a_model_whose_load_failed_is_not_ready_and_the_index_says_why(suite: Suite) -> None:
    inference.serve(suite, "lost", models.classifier(seed=9))
    assert ready(suite, "lost")
    # The bytes are gone from the registry's store: what was READY can no longer be fetched.
    blobs = [path for path in FOLDERS[suite.registry.address].rglob("*") if path.is_file()]
    content = models.classifier(seed=9)
    gone = [path for path in blobs if path.stat().st_size == len(content) and path.read_bytes() == content]
    assert gone
    for path in gone:
        path.unlink()
    with pytest.raises(penstock.PenstockError):
        suite.client.inference.load_model("lost")
    assert not ready(suite, "lost")
    state, reason = index(suite)["lost"]
    assert state == "UNAVAILABLE"
    assert reason


def test_a_load_that_names_no_model_or_an_unknown_one_is_refused(suite: Suite) -> None:
    for request, code in (
        (oip.RepositoryModelLoadRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (oip.RepositoryModelLoadRequest(model_name="nowhere"), grpc.StatusCode.NOT_FOUND),
        (oip.RepositoryModelLoadRequest(repository_name="nowhere"), grpc.StatusCode.NOT_FOUND),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            suite.oip.RepositoryModelLoad(request, timeout=DEADLINE_S)
        assert caught.value.code() is code


def test_shared_memory_is_off_unless_it_is_asked_for(suite: Suite) -> None:
    request = oip.SystemSharedMemoryRegisterRequest(name="r", key="k", byte_size=1)
    with pytest.raises(grpc.RpcError) as caught:
        suite.oip.SystemSharedMemoryRegister(request, timeout=DEADLINE_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    server = suite.oip.ServerMetadata(oip.ServerMetadataRequest(), timeout=DEADLINE_S)
    assert "system_shared_memory" not in server.extensions


def test_the_server_goes_by_the_name_that_it_was_given(suite: Suite) -> None:
    assert suite.oip.ServerMetadata(oip.ServerMetadataRequest(), timeout=DEADLINE_S).name == "triton"


def test_a_server_that_mirrors_answers_typed_what_comes_typed_and_raw_what_comes_raw(suite: Suite) -> None:
    inference.serve(suite, "mirrored", models.classifier())
    typed = infer_request("mirrored", {"X": ROWS})
    typed.ClearField("raw_input_contents")
    typed.inputs[0].contents.fp32_contents.extend(ROWS.ravel().tolist())
    answer = suite.oip.ModelInfer(typed, timeout=DEADLINE_S)
    assert len(answer.outputs[1].contents.fp32_contents) == 3
    assert not answer.raw_output_contents
    raw = suite.oip.ModelInfer(infer_request("mirrored", {"X": ROWS}), timeout=DEADLINE_S)
    assert len(raw.raw_output_contents) == 2


def test_a_model_is_loaded_ahead_pinned_listed_and_let_go(suite: Suite) -> None:
    inference.serve(suite, "steered", models.classifier())
    (session,) = suite.client.inference.load_model("steered", pin=True)
    assert (session.model, session.version, session.framework, session.worker) == ("steered", "1.0.0", "onnx", 0)
    assert session.pinned
    assert session.size_bytes > 0
    assert session.load_ms > 0
    listed = suite.client.inference.sessions()
    assert listed.used_bytes >= session.size_bytes
    assert listed.budget_bytes > 0
    assert suite.client.inference.unload_model("steered", "1.0.0") == 1
    assert not loaded(suite, "steered")
    with pytest.raises(penstock.NotFound):
        suite.client.inference.unload_model("nowhere")
