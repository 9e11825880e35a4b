"""Text from models that an Ollama server keeps, through the whole suite; the server is a stand-in (tests/ollama.py)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

import penstock
from penstock.api.inference.v1 import inference_pb2 as pb
from penstock.api.monitoring.v1.monitoring_pb2 import InferenceEvent
from penstock.api.registry.v1.registry_pb2 import CapturePolicy, OllamaMode, OllamaReference, ServingSettings
from services.inference.tensors import from_raw
from tests import inference, ollama
from tests.inference import Suite
from tests.ollama import WAIT_S, Exchange, StubOllama, well
from tests.postgres import PostgresServer

HELLO = [{"role": "system", "content": "Echo."}, {"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def stub() -> Iterator[StubOllama]:
    with ollama.running(words=well) as running:
        yield running


@pytest.fixture(scope="module")
def suite(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, stub: StubOllama
) -> Iterator[Suite]:
    folder = tmp_path_factory.mktemp("suite")
    with inference.running_suite(
        postgres_server, folder, ollama_url=stub.url, stream_idle_timeout_ms=500, ollama_stall_timeout_ms=10_000
    ) as suite:
        for mode in ("chat", "generate", "embed"):
            refer(suite, mode, mode=mode)
        yield suite


def refer(suite: Suite, model: str, *, mode: str = "generate", name: str = "words", **more: Any) -> None:
    reference = OllamaReference(model=name, mode=OllamaMode.Value(f"OLLAMA_MODE_{mode.upper()}"))
    suite.client.registry.register_version(model, "1", ollama=reference, **more)
    inference.until_known(suite.oip, model)


def behaving(suite: Suite, stub: StubOllama, model: str, behave: ollama.Behaviour, **more: Any) -> str:
    """Serve a model that behaves as told."""
    stub.models[model] = behave
    refer(suite, model, name=model, **more)
    return model


def texts_of(event: InferenceEvent) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Read the payloads that an event bears, the inputs and the outputs."""
    found = [
        {
            tensor.name: from_raw(tensor.name, "BYTES", tensor.shape, tensor.raw).item()
            for tensor in payload.tensors.tensors
        }
        for payload in (event.features, event.prediction)
    ]
    return found[0], found[1]


def test_a_prompt_becomes_a_text_a_completion_and_an_event(suite: Suite) -> None:
    generated = suite.client.inference.generate("generate", "hello", user_id="ada")
    assert list(generated) == ["you said ", "hello"]
    completion = generated.completion
    assert completion is not None
    assert (completion.model, completion.version, completion.finish_reason) == ("generate", "1", "stop")
    assert (completion.prompt_token_count, completion.output_token_count) == (7, 3)
    assert 0 < completion.first_token_ms <= completion.latency_ms
    event = inference.event_of(suite.client, generated.inference_id).event
    assert (event.model, event.version, event.framework, event.user_id) == ("generate", "1", "ollama", "ada")
    assert (event.error_code, event.row_count) == ("", 1)
    assert event.latency_ms > 0
    assert texts_of(event) == ({"prompt": b"hello"}, {"response": b"you said hello"})


def test_a_conversation_goes_to_the_model_as_it_came(suite: Suite, stub: StubOllama) -> None:
    generated = suite.client.inference.generate("chat", messages=HELLO, temperature=0, max_tokens=9, stop=["."])
    assert generated.text() == "you said hello"
    asked = stub.asked("/api/chat")[-1]
    assert asked["messages"] == HELLO
    assert asked["options"] == {"temperature": 0.0, "num_predict": 9, "stop": ["."]}
    inputs, _ = texts_of(inference.event_of(suite.client, generated.inference_id).event)
    assert json.loads(inputs["messages"]) == HELLO


def test_predict_asks_row_by_row(suite: Suite) -> None:
    answer = suite.client.inference.predict("generate", {"prompt": ["one", "two"]})
    assert answer.outputs["response"].tolist() == [b"you said one", b"you said two"]
    assert answer.framework == "ollama"
    vectors = suite.client.inference.predict("embed", {"text": ["one", "three"]}).outputs["embedding"]
    np.testing.assert_array_equal(vectors, np.array([[3, 1], [5, 1]], np.float32))


def test_embed_gives_the_vectors_that_ollama_gives(suite: Suite) -> None:
    request = pb.EmbedRequest(model="embed", texts=["one", "three", "eleven"])
    answer = suite.predict.Embed(request, timeout=WAIT_S)
    assert answer.dimensions == 2
    assert [list(each.values) for each in answer.embeddings] == [[3, 1], [5, 1], [6, 1]]


def test_a_prediction_whose_client_leaves_is_ended_at_ollama(suite: Suite, stub: StubOllama) -> None:
    asked, closed = threading.Event(), threading.Event()

    def linger(exchange: Exchange) -> None:
        asked.set()
        exchange.until_closed()
        closed.set()

    model = behaving(suite, stub, "unwanted", linger)
    request = pb.PredictRequest(model=model)
    request.features.update({"prompt": "x"})
    call = suite.predict.Predict.future(request, timeout=WAIT_S)
    assert asked.wait(WAIT_S)
    call.cancel()
    assert closed.wait(WAIT_S), "Ollama went on for nobody"
    assert inference.failures_of(suite.client, model)[0].error_code == "CANCELLED"


@pytest.mark.parametrize(
    ("model", "ask", "reason"),
    [
        ("chat", {"prompt": "hello"}, "WRONG_MODE"),
        ("generate", {"messages": HELLO}, "WRONG_MODE"),
        ("embed", {"prompt": "hello"}, "NOT_A_GENERATING_MODEL"),
    ],
)
def test_what_writes_no_such_text_is_refused_with_its_reason(
    suite: Suite, model: str, ask: dict[str, object], reason: str
) -> None:
    with pytest.raises(penstock.PenstockError) as caught:
        suite.client.inference.generate(model, **ask).text()  # type: ignore[arg-type] # by cases
    assert caught.value.reason == reason


def test_a_model_that_there_is_not_is_refused_and_recorded(suite: Suite) -> None:
    with pytest.raises(penstock.NotFound):
        suite.client.inference.generate("nobody", "hello").text()
    assert inference.failures_of(suite.client, "nobody")[0].error_code == "MODEL_NOT_FOUND"


def test_bad_requests_name_their_fields(suite: Suite) -> None:
    request = pb.GenerateRequest(
        model="chat",
        messages=[pb.ChatMessage(role="robot", content="x")],
        options=pb.GenerateOptions(max_tokens=0, temperature=2.5, top_p=0, top_k=0, stop=[""]),
    )
    with pytest.raises(grpc.RpcError) as raised:
        list(suite.predict.Generate(request, timeout=WAIT_S))
    error = penstock.errors.from_rpc(raised.value, rpc="Generate", target="", tls=False)
    assert error.reason == "INVALID_FIELD"
    assert [each.field for each in error.violations] == [
        "messages[0].role", "options.max_tokens", "options.temperature", "options.top_p", "options.top_k",
        "options.stop",
    ]  # fmt: skip


@pytest.mark.parametrize("both", [True, False])
def test_a_prompt_or_messages_and_not_both(suite: Suite, both: bool) -> None:
    request = pb.GenerateRequest(model="chat", prompt="x" if both else "")
    request.messages.extend([pb.ChatMessage(role="user", content="x")] * both)
    with pytest.raises(grpc.RpcError) as raised:
        list(suite.predict.Generate(request, timeout=WAIT_S))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_client_that_leaves_ends_the_generation_and_is_recorded_with_what_was_written(
    suite: Suite, stub: StubOllama
) -> None:
    closed = threading.Event()

    def linger(exchange: Exchange) -> None:
        exchange.begin()
        exchange.say("one")
        exchange.until_closed()
        closed.set()

    model = behaving(suite, stub, "left", linger)
    with suite.client.inference.generate(model, "count") as generated:
        assert next(iter(generated)) == "one"
    assert closed.wait(WAIT_S), "Ollama went on for nobody"
    event = inference.event_of(suite.client, generated.inference_id).event
    assert event.error_code == "CANCELLED"
    assert texts_of(event) == ({"prompt": b"count"}, {"response": b"one"})
    counted = f'nv_inference_request_failure{{model="{model}",reason="CANCELED",version="1"}}'
    inference.until_metric(suite.inference, counted, 1)


def test_a_deadline_ends_a_generation_that_is_under_way(suite: Suite, stub: StubOllama) -> None:
    closed = threading.Event()

    def linger(exchange: Exchange) -> None:
        exchange.begin()
        exchange.say("one")
        exchange.until_closed()
        closed.set()

    model = behaving(suite, stub, "late", linger)
    with pytest.raises(penstock.DeadlineExceeded):
        suite.client.inference.generate(model, "count", timeout_s=0.5).text()
    assert closed.wait(WAIT_S)
    # The client's clock began first: on a busy machine its deadline may look like its leaving.
    assert inference.failures_of(suite.client, model)[0].error_code in ("REQUEST_TIMEOUT", "CANCELLED")


def test_a_model_that_thinks_for_longer_than_streams_may_be_idle_is_waited_for(suite: Suite, stub: StubOllama) -> None:
    """The idle limit of this suite is half a second; it is for clients, and this one owes nothing."""

    def think(exchange: Exchange) -> None:
        threading.Event().wait(1.6)  # three sweeps and the limit
        well(exchange)

    assert suite.client.inference.generate(behaving(suite, stub, "thinks", think), "x").text() == "you said x"


def test_a_client_that_does_not_read_stops_the_server_from_reading(suite: Suite, stub: StubOllama) -> None:
    stuck = threading.Event()
    sent = 0

    def flood(exchange: Exchange) -> None:
        nonlocal sent
        exchange.begin()
        exchange._handler.connection.settimeout(0.3)
        try:
            while True:
                exchange.say("x" * 10_000)
                sent += 1
        except TimeoutError:  # nobody takes it
            stuck.set()
        exchange.hang_up()

    model = behaving(suite, stub, "floods", flood)
    with suite.client.inference.generate(model, "x") as generated:
        next(iter(generated))
        assert stuck.wait(WAIT_S), "it was read to no end"
    assert sent < 5_000, "50 MB were taken in for a client that reads none of it"


def test_a_server_that_fails_mid_stream_gives_the_pieces_and_then_the_reason(suite: Suite, stub: StubOllama) -> None:
    def break_off(exchange: Exchange) -> None:
        exchange.begin()
        exchange.say("one")
        exchange.line(error="out of memory")

    model = behaving(suite, stub, "breaks", break_off)
    pieces = iter(suite.client.inference.generate(model, "x"))
    assert next(pieces) == "one"
    with pytest.raises(penstock.Unavailable, match="out of memory") as caught:
        next(pieces)
    assert caught.value.reason == "OLLAMA_FAILED"
    assert inference.failures_of(suite.client, model)[0].error_code == "OLLAMA_FAILED"


def test_a_model_that_ollama_does_not_have_says_how_to_bring_it(suite: Suite) -> None:
    refer(suite, "absent", name="absent:7b")
    with pytest.raises(penstock.FailedPrecondition, match="ollama pull absent:7b") as caught:
        suite.client.inference.generate("absent", "x").text()
    assert caught.value.reason == "OLLAMA_MODEL_MISSING"


def test_the_capture_policy_holds_for_texts(suite: Suite) -> None:
    refer(suite, "silent", capture_policy=CapturePolicy(disabled=True))
    refer(suite, "brief", capture_policy=CapturePolicy(max_bytes=20))
    for model in ("silent", "brief"):
        generated = suite.client.inference.generate(model, "a word of many letters")
        assert generated.text()
        event = inference.event_of(suite.client, generated.inference_id).event
        assert (event.HasField("features"), event.HasField("prediction")) == (False, False)


def test_generations_take_places_in_flight(suite: Suite, stub: StubOllama) -> None:
    """As many as one model may have; the next is refused, and served once there is room."""
    go = threading.Event()
    begun = threading.Semaphore(0)

    def wait(exchange: Exchange) -> None:
        begun.release()
        assert go.wait(WAIT_S)
        well(exchange)

    model = behaving(suite, stub, "crowded", wait, serving_settings=ServingSettings(max_in_flight=2))
    with ThreadPoolExecutor(2) as callers:
        ask: Callable[[], str] = lambda: suite.client.inference.generate(model, "x").text()  # noqa: E731
        asked = [callers.submit(ask) for _ in range(2)]
        for _ in asked:
            assert begun.acquire(timeout=WAIT_S)
        with pytest.raises(penstock.ResourceExhausted) as caught:
            ask()
        assert caught.value.reason == "QUEUE_FULL"
        go.set()
        assert [each.result(WAIT_S) for each in asked] == ["you said x"] * 2
    assert ask() == "you said x"
