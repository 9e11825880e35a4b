"""Embed and Rank through the whole suite, over a Transformers bundle, a reranker and a plain ONNX graph."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

import penstock
from penstock.api.inference.v1 import inference_pb2 as pb
from penstock.api.registry.v1.registry_pb2 import OllamaMode, OllamaReference
from penstock.tensors import from_tensor
from penstock.texts import Item
from penstock.values import to_struct
from services.inference.oip import open_inference_pb2 as oip
from tests import inference, ollama
from tests.inference import Suite
from tests.postgres import PostgresServer
from tests.testdata import bert, models, text_models
from tests.testdata.text_models import TEXTS, bundle, classifier

SHOPPERS = {"wants": "water", "likes": ["pipe", "turbine"], "age": 42}
ITEMS = (
    Item("tap", "a pipe", "the water is cold", "water"),
    Item("ball", "sport", "", "sport"),
    Item("town", "", "Ada lives in London", ""),
)


@pytest.fixture(scope="module")
def suite(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    folder = tmp_path_factory.mktemp("suite")
    with (
        ollama.running(words=ollama.well) as stub,
        inference.running_suite(postgres_server, folder, max_batch_size=4, ollama_url=stub.url) as suite,
    ):
        serve(suite, folder, "embedder", bundle())
        serve(suite, folder, "reranker", bundle(classifier(1)))
        serve(suite, folder, "moods", bundle(classifier(3)))
        serve(suite, folder, "quantised", bundle(quantised(folder), path="onnx/model_quantized.onnx"))
        inference.serve(suite, "linear", models.linear())
        reference = OllamaReference(model="words", mode=OllamaMode.OLLAMA_MODE_EMBED)
        suite.client.registry.register_version("ollama", "1.0.0", ollama=reference)
        inference.until_known(suite.oip, "ollama")
        yield suite


def serve(suite: Suite, folder: Path, model: str, files: Mapping[str, bytes], **more: Any) -> None:
    place = folder / model
    for path, content in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)
    suite.client.registry.register_version(model, "1.0.0", place, framework="transformers", **more)
    inference.until_known(suite.oip, model, "1.0.0")


def quantised(folder: Path) -> bytes:
    """Quantise the encoder as exporters do: each layer's inputs are scaled by the extremes of the whole batch."""
    (folder / "plain.onnx").write_bytes(text_models.encoder())
    quantize_dynamic(folder / "plain.onnx", folder / "quantised.onnx", weight_type=QuantType.QInt8)
    return (folder / "quantised.onnx").read_bytes()


def embedded(text: str) -> Any:
    return bert.embed(text_models.CONFIG, text_models.WEIGHTS, *text_models.ids_of(text))


def test_texts_become_the_vectors_that_numpy_computes_in_one_event(suite: Suite) -> None:
    texts = [text for text in TEXTS if text] * 3
    found = suite.client.inference.embed("embedder", texts, user_id="ada")
    assert found.vectors.shape == (12, 12)
    assert found.vectors.dtype == np.float32
    for text, vector in zip(texts, found.vectors, strict=True):
        np.testing.assert_allclose(vector, embedded(text), atol=1e-5)
    event = inference.event_of(suite.client, found.inference_id).event
    assert (event.model, event.framework, event.row_count, event.user_id) == ("embedder", "transformers", 12, "ada")
    [features], [prediction] = event.features.tensors.tensors, event.prediction.tensors.tensors
    assert [text.decode() for text in from_tensor(features)] == texts
    np.testing.assert_array_equal(from_tensor(prediction), found.vectors)


def test_a_prediction_takes_texts_too(suite: Suite) -> None:
    predicted = suite.client.inference.predict("moods", {"text": ["a pipe", "water"]})
    assert predicted.framework == "transformers"
    assert len(predicted.confidences) == 2
    assert predicted.outputs["label"].tolist() == [
        f"LABEL_{text_models.logits(3, text).argmax()}".encode() for text in ("a pipe", "water")
    ]
    with pytest.raises(penstock.InvalidArgument, match="no such input; the model takes 'text'"):
        suite.client.inference.predict("moods", {"input_ids": [[1, 2]], "text": "a"})


def test_invalid_utf8_is_refused_by_its_row(suite: Suite) -> None:
    texts = np.array([b"fine", b"\xff"], dtype=object)
    with pytest.raises(penstock.InvalidArgument, match="text: row 1 is not UTF-8") as caught:
        suite.client.inference.predict("embedder", tensors={"text": texts})
    assert caught.value.reason == "INVALID_UTF8"


def test_a_text_of_a_million_characters_is_embedded_by_its_beginning(suite: Suite) -> None:
    found = suite.client.inference.embed("embedder", ["pipe " * 200_000, "pipe " * 40]).vectors
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_the_open_inference_protocol_takes_texts_too(suite: Suite) -> None:
    metadata = suite.oip.ModelMetadata(oip.ModelMetadataRequest(name="embedder"), timeout=60)
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [("text", "BYTES", [-1])]
    request = inference.infer_request("embedder", {"text": text_models.as_bytes(["water is cold."])})
    answer = suite.oip.ModelInfer(request, timeout=60)
    [vector] = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(1, 12)
    np.testing.assert_allclose(vector, embedded("water is cold."), atol=1e-5)


def test_a_quantised_graphs_texts_are_answered_alike_whatever_stands_beside_them(suite: Suite) -> None:
    version = suite.client.registry.get_version("quantised", "1.0.0")
    assert not version.validation.rows_independent
    texts = [text for text in TEXTS if text]
    together = suite.client.inference.embed("quantised", texts).vectors
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_array_equal(vector, suite.client.inference.embed("quantised", [text]).vectors[0])
        assert vector @ embedded(text) > 0.9


def test_one_bad_text_among_many_callers_fails_alone(suite: Suite) -> None:
    together = threading.Barrier(8)

    def ask(number: int) -> object:
        together.wait(60)
        text = b"\xff" if number == 3 else TEXTS[number % 3].encode()
        try:
            tensors = {"text": np.array([text], dtype=object)}
            return suite.client.inference.predict("embedder", tensors=tensors).outputs["embedding"][0]
        except penstock.InvalidArgument as error:
            return error.reason

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert found.pop(3) == "INVALID_UTF8"
    for number, vector in zip((0, 1, 2, 4, 5, 6, 7), found, strict=True):
        np.testing.assert_allclose(np.asarray(vector), embedded(TEXTS[number % 3]), atol=1e-5)


def test_an_ollama_reference_embeds_and_ranks(suite: Suite) -> None:
    found = suite.client.inference.embed("ollama", ["one", "three", "eleven", "a", "bb"])
    np.testing.assert_array_equal(found.vectors, [[3, 1], [5, 1], [6, 1], [1, 1], [2, 1]])
    ranking = suite.client.inference.rank(
        "ollama", {"q": "one"}, [{"id": "far", "name": "a"}, {"id": "near", "name": "two"}]
    )
    assert [(item.id, round(item.score, 4)) for item in ranking.items] == [("near", 1), ("far", 0.8944)]


def test_items_are_ranked_by_their_likeness_to_the_context(suite: Suite) -> None:
    ranking = suite.client.inference.rank("embedder", SHOPPERS, ITEMS, session_id="s")
    query = embedded("42. pipe, turbine. water")
    texts = {"tap": "a pipe. the water is cold. water", "ball": "sport. sport", "town": "Ada lives in London"}
    expected = {name: float(query @ embedded(text)) for name, text in texts.items()}
    assert [item.id for item in ranking.items] == sorted(expected, key=lambda name: -expected[name])
    for item in ranking.items:
        assert item.score == pytest.approx(expected[item.id], abs=1e-5)
        assert item.error == ""
    event = inference.event_of(suite.client, ranking.inference_id).event
    assert (event.row_count, event.session_id, event.error_code) == (3, "s", "")
    features = {tensor.name: from_tensor(tensor).tolist() for tensor in event.features.tensors.tensors}
    assert features["id"] == [b"tap", b"ball", b"town"]
    assert features["query"] == [b"42. pipe, turbine. water"]
    [scores] = event.prediction.tensors.tensors
    np.testing.assert_allclose(from_tensor(scores), [expected[item.id] for item in ITEMS], atol=1e-5)


def test_a_reranker_judges_each_pair(suite: Suite) -> None:
    ranking = suite.client.inference.rank("reranker", {"q": "who lives in London?"}, ITEMS, top_k=2)
    texts = {"tap": "a pipe. the water is cold. water", "ball": "sport. sport", "town": "Ada lives in London"}
    scores = {name: float(text_models.logits(1, "who lives in London?", text)[0]) for name, text in texts.items()}
    best = sorted(scores, key=lambda name: -scores[name])[:2]
    assert [item.id for item in ranking.items] == best
    for item in ranking.items:
        assert item.score == pytest.approx(1 / (1 + np.exp(-scores[item.id])), abs=1e-4)


def test_items_that_cannot_be_judged_come_last_and_say_why(suite: Suite) -> None:
    items = [{"id": "nothing"}, *({"id": str(number), "name": "pipe"} for number in range(6)), {"id": "void"}]
    ranking = suite.client.inference.rank("embedder", {"wants": "pipe"}, items)
    assert [item.id for item in ranking.items] == ["0", "1", "2", "3", "4", "5", "nothing", "void"]
    assert {item.score for item in ranking.items[-2:]} == {0}
    assert "no name, description or category" in ranking.items[-1].error
    assert ranking.items[0].score == pytest.approx(1)


@pytest.mark.parametrize("model", ["linear", "moods"])
def test_a_model_that_does_not_embed_says_so(suite: Suite, model: str) -> None:
    for call in (
        lambda: suite.client.inference.embed(model, ["a"]),
        lambda: suite.client.inference.rank(model, {"q": "a"}, [Item("1", "a")]),
    ):
        with pytest.raises(penstock.FailedPrecondition) as caught:
            call()
        assert caught.value.reason == "NOT_AN_EMBEDDING_MODEL"


def ranked(*, context: Mapping[str, Any] | None = None, **more: Any) -> pb.RankRequest:
    return pb.RankRequest(model="embedder", context=to_struct(context or {}), **more)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.EmbedRequest(model="embedder"), "texts"),
        (pb.EmbedRequest(model="embedder", texts=["a"] * 10_001), "texts"),
        (pb.EmbedRequest(model="embedder", texts=["a", ""]), "texts[1]"),
        (pb.EmbedRequest(model="embedder", texts=["a"], user_id="u" * 257), "user_id"),
        (pb.EmbedRequest(texts=["a"]), "model"),
        (ranked(items=[pb.RankItem(id="1", name="a")]), "context"),
        (ranked(context={"q": "a"}), "items"),
        (ranked(context={"q": "a"}, items=[pb.RankItem(name="a")]), "items[0].id"),
        (ranked(context={"q": "a"}, items=[pb.RankItem(id="1")] * 2), "items[1].id"),
        (ranked(context={"q": "a"}, items=[pb.RankItem(id="1")], top_k=-1), "top_k"),
        (ranked(context={"q": {"a": 1}}, items=[pb.RankItem(id="1")]), "context.q"),
        (ranked(context={"q": [[1]]}, items=[pb.RankItem(id="1")]), "context.q"),
        (ranked(context={"q": [None, " "]}, items=[pb.RankItem(id="1")]), "context"),
    ],
)
def test_bad_requests_are_refused_with_the_field(suite: Suite, request_: Any, field: str) -> None:
    stub = suite.predict
    with pytest.raises(grpc.RpcError) as caught:
        (stub.Embed if isinstance(request_, pb.EmbedRequest) else stub.Rank)(request_, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in str(caught.value.details())


def test_texts_pass_the_response_cache_by_where_the_request_says_so(suite: Suite, tmp_path: Path) -> None:
    serve(suite, tmp_path, "kept", bundle())
    client = suite.client.inference
    suite.client.registry.update_version("kept", "1.0.0", serving_settings={"response_cache": {"enabled": True}})

    def asked() -> int:
        versions = client.cache_stats("kept").versions
        return sum(each.hit_count + each.miss_count for each in versions)

    def ask_until_looked_for() -> bool:
        client.embed("kept", ["water"])
        return asked() > 0

    inference.wait_until(lambda: ask_until_looked_for() or None)
    before = asked()
    client.embed("kept", ["water"], skip_cache=True)
    client.rank("kept", SHOPPERS, ITEMS, skip_cache=True)
    assert asked() == before
    client.embed("kept", ["water"])
    client.rank("kept", SHOPPERS, ITEMS)
    assert asked() == before + 2
