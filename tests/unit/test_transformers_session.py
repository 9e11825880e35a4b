"""Transformers bundles: texts in, and each task's answer as NumPy computes it from the same weights."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.common.errors import FailedPrecondition, InvalidArgument
from services.inference.models import ModelFailed, TensorSpec
from services.inference.runtimes.onnx_runtime import OnnxRuntime
from services.inference.runtimes.transformers.session import TransformersRuntime, TransformersSession
from services.inference.tensors import Tensor
from tests.serving import wait_until
from tests.testdata import bert, text_models
from tests.testdata import models as onnx_models
from tests.testdata.bundles import bundle as averaging_bundle
from tests.testdata.text_models import TEXTS, as_bytes, bundle, classifier, hidden, labelled, logits, tagger

ENTAILMENT = labelled("contradiction", "neutral", "ENTAILMENT")


def load(
    folder: Path, files: dict[str, bytes], task_type: str = "", *, max_batch_tokens: int = 512, **more: Any
) -> TransformersSession:
    runtime = TransformersRuntime(OnnxRuntime(intra_op_threads=1), max_batch_tokens=max_batch_tokens)
    return runtime.load(text_models.artifact(folder, files, task_type, **more))


def ask(session: TransformersSession, *texts: str | bytes, **others: list[str]) -> dict[str, Tensor]:
    return session.run({"text": as_bytes(texts), **{name: as_bytes(values) for name, values in others.items()}})


def softmax(values: Any) -> Any:
    shares = np.exp(values - values.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("max_batch_tokens", [1, 20, 512])
def test_embeddings_are_the_mean_of_the_tokens_however_texts_are_batched(tmp_path: Path, max_batch_tokens: int) -> None:
    session = load(tmp_path, bundle(), max_batch_tokens=max_batch_tokens)
    assert session.signature.inputs == (TensorSpec("text", "BYTES", (-1,)),)
    assert session.signature.outputs == (TensorSpec("embedding", "FP32", (-1, 12)),)
    found = ask(session, *TEXTS)["embedding"]
    assert found.dtype == np.float32
    for text, row in zip(TEXTS, found, strict=True):
        expected = bert.embed(text_models.CONFIG, text_models.WEIGHTS, *text_models.ids_of(text))
        np.testing.assert_allclose(row, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("files", "fields"),
    [
        ({}, {"pooling": "cls"}),
        ({"1_Pooling/config.json": b'{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'}, {}),
    ],
)
def test_the_first_token_stands_for_the_text_where_the_bundle_or_its_metadata_says_so(
    tmp_path: Path, files: dict[str, bytes], fields: dict[str, Any]
) -> None:
    session = load(tmp_path, bundle() | files, "feature-extraction", normalize=False, **fields)
    for text, row in zip(TEXTS, ask(session, *TEXTS)["embedding"], strict=True):
        np.testing.assert_allclose(row, hidden(text)[0], atol=1e-4)


def test_without_normalising_an_embedding_keeps_its_length(tmp_path: Path) -> None:
    [row] = ask(load(tmp_path, bundle(), normalize=False), "water is cold")["embedding"]
    np.testing.assert_allclose(row, hidden("water is cold").mean(axis=0), atol=1e-4)


def test_an_embedding_that_the_graph_gives_is_served_as_it_is(tmp_path: Path) -> None:
    (folder := tmp_path / "bert").mkdir()
    session = load(folder, bundle(text_models.sentence_encoder()))
    for text, row in zip(TEXTS, ask(session, *TEXTS)["embedding"], strict=True):
        expected = bert.embed(text_models.CONFIG, text_models.WEIGHTS, *text_models.ids_of(text))
        np.testing.assert_allclose(row, expected, atol=1e-5)
    (folder := tmp_path / "mean").mkdir()
    plain = ask(load(folder, averaging_bundle()), "the pipe feeds")["embedding"]
    assert not np.isclose(np.linalg.norm(plain), 1)
    scaled = ask(load(folder, averaging_bundle(), normalize=True), "the pipe feeds")["embedding"]
    np.testing.assert_allclose(scaled, plain / np.linalg.norm(plain), atol=1e-6)


def test_texts_are_classified_with_their_names_and_shares(tmp_path: Path) -> None:
    session = load(tmp_path, bundle(classifier(3), **labelled("cold", "warm", "hot")))
    assert [(spec.name, spec.shape) for spec in session.signature.outputs] == [
        ("label", (-1,)),
        ("score", (-1,)),
        ("scores", (-1, 3)),
    ]
    found = ask(session, *TEXTS)
    expected = softmax(np.array([logits(3, text) for text in TEXTS]))
    np.testing.assert_allclose(found["scores"], expected, atol=1e-5)
    np.testing.assert_allclose(found["score"], expected.max(axis=1), atol=1e-5)
    assert found["label"].tolist() == [(b"cold", b"warm", b"hot")[best] for best in expected.argmax(axis=1)]


def test_several_classes_may_hold_where_the_model_was_trained_so(tmp_path: Path) -> None:
    session = load(tmp_path, bundle(classifier(3), problem_type="multi_label_classification"), "text-classification")
    expected = 1 / (1 + np.exp(-np.array([logits(3, text) for text in TEXTS])))
    found = ask(session, *TEXTS)
    np.testing.assert_allclose(found["scores"], expected, atol=1e-5)
    assert found["label"].tolist() == [f"LABEL_{best}".encode() for best in expected.argmax(axis=1)]


def test_one_class_is_a_yes_or_no(tmp_path: Path) -> None:
    session = load(tmp_path, bundle(classifier(1), **labelled("toxic")), "text-classification")
    [score] = ask(session, "the pipe")["score"]
    np.testing.assert_allclose(score, 1 / (1 + np.exp(-logits(1, "the pipe")[0])), atol=1e-5)


def test_entities_stand_where_they_are_in_the_text(tmp_path: Path) -> None:
    names = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    session = load(tmp_path, bundle(tagger(5), architectures=["BertForTokenClassification"], **labelled(*names)))
    assert session.signature.outputs == (TensorSpec("entities", "BYTES", (-1,)),)
    text = "Ada Lovelace, lives in New York and london."
    found, none = (json.loads(each) for each in ask(session, text, "")["entities"])
    assert none == []
    shares = softmax(hidden(text) @ text_models.HEADS[5])
    # The same grouping, written the other way round: from tokens that are no special ones.
    encoding = text_models.tokenizer()
    encoding.no_padding()
    encoding.no_truncation()
    whole = encoding.encode(text)
    expected: list[dict[str, Any]] = []
    before = "O"
    for place in range(1, len(whole.ids) - 1):
        name = names[int(shares[place].argmax())]
        kind = name.partition("-")[2]
        start, end = whole.offsets[place]
        if kind and kind == before and not name.startswith("B-"):
            expected[-1]["end"] = end
            expected[-1]["shares"].append(shares[place].max())
        elif kind:
            expected.append({"entity": kind, "start": start, "end": end, "shares": [shares[place].max()]})
        before = kind
    assert len(expected) > 1
    assert [(each["entity"], each["start"], each["end"]) for each in found] == [
        (each["entity"], each["start"], each["end"]) for each in expected
    ]
    for each, wanted in zip(found, expected, strict=True):
        assert each["word"] == text[each["start"] : each["end"]]
        assert each["score"] == pytest.approx(np.mean(wanted["shares"]), abs=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_each_row_brings_labels_of_its_own(tmp_path: Path, multi_label: bool) -> None:
    session = load(
        tmp_path,
        bundle(classifier(3), **ENTAILMENT),
        "zero-shot-classification",
        hypothesis_template="this is about {}.",
        multi_label=multi_label,
    )
    assert [spec.name for spec in session.signature.inputs] == ["text", "labels"]
    found = ask(session, "the pipe feeds", "water is cold", labels=['["sport", "politics", "water"]', "pipe, turbine"])
    for row, (text, labels) in enumerate(
        [("the pipe feeds", ["sport", "politics", "water"]), ("water is cold", ["pipe", "turbine"])]
    ):
        pairs = np.array([logits(3, text, f"this is about {label}.") for label in labels])
        expected = softmax(pairs[:, [0, 2]])[:, 1] if multi_label else softmax(pairs[:, 2])
        ranking = json.loads(found["ranking"][row])
        assert [each["label"] for each in ranking] == [labels[place] for place in np.argsort(-expected)]
        np.testing.assert_allclose([each["score"] for each in ranking], np.sort(expected)[::-1], atol=1e-5)
        assert found["label"][row].decode() == ranking[0]["label"]
        assert found["score"][row] == pytest.approx(ranking[0]["score"], abs=1e-5)


@pytest.mark.parametrize("labels", ["", "[]", "[1]", '["a", ""]', "[", "a,,b", json.dumps(["a"] * 101)])
def test_labels_that_are_none_are_refused_with_their_row(tmp_path: Path, labels: str) -> None:
    session = load(tmp_path, bundle(classifier(3), **ENTAILMENT), "zero-shot")
    with pytest.raises(InvalidArgument, match="labels: row 1 is no list of labels") as caught:
        ask(session, "a", "b", labels=["sport", labels])
    assert caught.value.reason == "INVALID_LABELS"


@pytest.mark.parametrize(
    ("width", "config", "fields"),
    [
        (1, {}, {}),
        (1, {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, {}),
        (1, {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, {}),
        (1, {}, {"normalize": False}),
        (2, {}, {}),
    ],
)
def test_pairs_are_scored(tmp_path: Path, width: int, config: dict[str, Any], fields: dict[str, Any]) -> None:
    session = load(tmp_path, bundle(classifier(width), **config), "text-ranking" if width == 2 else "", **fields)
    assert [spec.name for spec in session.signature.inputs] == ["query", "text"]
    found = ask(session, *TEXTS, query=["who lives in London?"] * len(TEXTS))["score"]
    raw = np.array([logits(width, "who lives in London?", text) for text in TEXTS])
    shares = softmax(raw)[:, 1] if width == 2 else 1 / (1 + np.exp(-raw[:, 0]))
    expected = raw[:, 0] if config or fields else shares
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_query_for_each_text(tmp_path: Path) -> None:
    session = load(tmp_path, bundle(classifier(1)))
    with pytest.raises(InvalidArgument, match="text: 2 rows came, and 1 of 'query'") as caught:
        ask(session, "a", "the", query=["who"])
    assert caught.value.reason == "RAGGED_INPUT"


def test_rows_that_depend_on_each_other_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    session = load(tmp_path, bundle(), independent=False)
    watch_shapes(session, shapes, monkeypatch)
    found = ask(session, *TEXTS)["embedding"]
    assert [rows for rows, _ in shapes] == [1] * len(TEXTS)
    assert sorted(tokens for _, tokens in shapes) == sorted(len(text_models.ids_of(text)[0]) for text in TEXTS)
    for text, row in zip(TEXTS, found, strict=True):
        np.testing.assert_array_equal(row, ask(session, text)["embedding"][0])


def test_a_long_text_does_not_make_short_ones_pay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    session = load(tmp_path, bundle(), max_batch_tokens=24)
    watch_shapes(session, shapes, monkeypatch)
    ask(session, *["a"] * 7, "the pipe feeds a turbine and water is cold in london", "a")
    assert shapes == [(1, 13), (8, 3)]


def watch_shapes(session: TransformersSession, shapes: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    run = session._graph.run

    def seen(feed: Any, outputs: Any = ()) -> Any:
        shapes.append(feed["input_ids"].shape)
        return run(feed, outputs)

    monkeypatch.setattr(session._graph, "run", seen)


def test_more_texts_than_are_tokenised_at_once_come_back_in_order(tmp_path: Path) -> None:
    session = load(tmp_path, bundle())
    texts = [" ".join(["pipe"] * (number % 7)) + " water" * (number % 3) for number in range(600)]
    found = ask(session, *texts)["embedding"]
    for number in (0, 1, 255, 256, 257, 599):
        np.testing.assert_allclose(found[number], ask(session, texts[number])["embedding"][0], atol=1e-6)


@pytest.mark.parametrize("tokens", [4, 16])
def test_a_graph_of_a_fixed_length_gets_its_texts_cut_and_filled(tmp_path: Path, tokens: int) -> None:
    session = load(tmp_path, bundle(text_models.encoder(texts=1, tokens=tokens)), normalize=False)
    for text, row in zip(TEXTS, ask(session, *TEXTS)["embedding"], strict=True):
        ids, kinds = text_models.ids_of(text)
        if len(ids) > tokens:
            ids, kinds = [*ids[: tokens - 1], 3], kinds[:tokens]
        expected = bert.hidden(text_models.CONFIG, text_models.WEIGHTS, ids, kinds).mean(axis=0)
        np.testing.assert_allclose(row, expected, atol=1e-4)


def test_a_text_beyond_the_table_of_positions_is_cut_at_its_end(tmp_path: Path) -> None:
    session = load(tmp_path, bundle())
    long = "pipe " * 40
    [row] = ask(session, long)["embedding"]
    expected = bert.embed(text_models.CONFIG, text_models.WEIGHTS, [2, *[5] * 15, 3], [0] * 17)
    np.testing.assert_allclose(row, expected, atol=1e-5)


def test_a_text_of_a_million_characters_costs_no_more_than_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = load(tmp_path, bundle())
    came: list[int] = []
    tokenizer = session._tokenizer._tokenizer

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def encode(self, text: str) -> Any:
            came.append(len(text))
            return tokenizer.encode(text)

        def encode_batch_fast(self, texts: list[str]) -> Any:
            came.extend(map(len, texts))
            return tokenizer.encode_batch_fast(texts)

    monkeypatch.setattr(session._tokenizer, "_tokenizer", Watched())
    [row] = ask(session, "pipe " * 200_000)["embedding"]
    assert sum(came) < 10_000
    np.testing.assert_allclose(row, ask(session, "pipe " * 40)["embedding"][0], atol=1e-6)


@pytest.mark.parametrize("row", [0, 2])
def test_invalid_utf8_is_refused_with_its_row(tmp_path: Path, row: int) -> None:
    texts: list[str | bytes] = ["a", "b", "c"]
    texts[row] = b"caf\xe9"
    with pytest.raises(InvalidArgument, match=f"text: row {row} is not UTF-8") as caught:
        ask(load(tmp_path, bundle()), *texts)
    assert caught.value.reason == "INVALID_UTF8"


@pytest.mark.parametrize(
    ("files", "task_type", "shapes"),
    [
        (bundle(), "", {"embedding": (0, 12)}),
        (bundle(classifier(3)), "", {"label": (0,), "score": (0,), "scores": (0, 3)}),
        (bundle(tagger(5)), "", {"entities": (0,)}),
        (bundle(classifier(1)), "", {"score": (0,)}),
        (bundle(classifier(3), **ENTAILMENT), "nli", {"label": (0,), "score": (0,), "ranking": (0,)}),
    ],
    ids=["embedding", "classes", "entities", "reranking", "zero-shot"],
)
def test_no_text_gets_no_answer(
    tmp_path: Path, files: dict[str, bytes], task_type: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    session = load(tmp_path, files, task_type)
    found = session.run({spec.name: as_bytes([]) for spec in session.signature.inputs})
    assert {name: array.shape for name, array in found.items()} == shapes


def test_a_text_without_any_token_is_answered(tmp_path: Path) -> None:
    found = ask(load(tmp_path, averaging_bundle()), "", "the")["embedding"]
    assert np.isfinite(found).all()


def test_only_the_outputs_asked_for_come_back(tmp_path: Path) -> None:
    session = load(tmp_path, bundle(classifier(3)))
    assert list(session.run({"text": as_bytes(["a"])}, ("score",))) == ["score"]


def test_threads_share_a_session(tmp_path: Path) -> None:
    session = load(tmp_path, bundle(), max_batch_tokens=20)
    expected = ask(session, *TEXTS)["embedding"]
    same: list[bool] = []

    def work() -> None:
        same.extend(np.allclose(ask(session, *TEXTS)["embedding"], expected, atol=1e-6) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 80


def test_a_long_run_ends_between_two_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(tmp_path, bundle(), max_batch_tokens=1)
    running, go_on = threading.Event(), threading.Event()
    run = session._graph.run

    def held(feed: Any, outputs: Any = ()) -> Any:
        running.set()
        assert go_on.wait(10)
        return run(feed, outputs)

    monkeypatch.setattr(session._graph, "run", held)  # a graph that takes its time
    errors: list[ModelFailed] = []

    def work() -> None:
        try:
            ask(session, *TEXTS)
        except ModelFailed as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert running.wait(10)
    assert session.terminate(longer_than_s=60) == 0
    assert session.terminate() == 1
    assert session.terminate() == 1, "told before, and still going: that is how a watchdog knows that it hangs"
    go_on.set()
    thread.join(10)
    assert [error.reason for error in errors] == ["RUN_TERMINATED"]
    wait_until(lambda: session.terminate() == 0)
    assert len(ask(session, "a")["embedding"]) == 1


def test_a_graph_that_answers_with_another_number_of_rows_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = load(tmp_path, bundle())
    answer = {"last_hidden_state": np.zeros((1, 3, 12), np.float32)}
    monkeypatch.setattr(session._graph, "run", lambda feed, outputs: answer)
    with pytest.raises(ModelFailed, match=r"shape \[1, 3, 12\] for 2 texts"):
        ask(session, "a", "the")


@pytest.mark.parametrize(
    ("files", "task_type", "fields", "said"),
    [
        (bundle(), "question-answering", {}, "'question-answering' is not served; register it with the task type feat"),
        (bundle(onnx_models.linear()), "", {}, "the graph takes 'x'"),
        (bundle(tagger(5), architectures=["BertForMaskedLM"]), "", {}, "config.json says BertForMaskedLM"),
        (bundle(classifier(3)), "token-classification", {}, "needs an output 'logits' of rank 3"),
        (
            bundle(),
            "text-classification",
            {},
            "needs an output 'logits' of rank 2; the graph gives 'last_hidden_state'",
        ),
        (bundle(classifier(3)), "text-ranking", {}, "3 scores a pair"),
        (bundle(classifier(3), **labelled("a", "b", "c")), "zero-shot", {}, "it names a, b, c"),
        (bundle(), "", {"pooling": "max"}, "`pooling` is 'max'"),
        (bundle(), "", {"normalize": "yes"}, "`normalize` is 'yes'"),
        (bundle(), "", {"variant": "quantized"}, "`variant` is 'quantized', and the registry judged another graph"),
        (bundle(classifier(3), **ENTAILMENT), "nli", {"hypothesis_template": "it is"}, "`hypothesis_template`"),
        (bundle() | {"tokenizer.json": b"{}"}, "", {}, "tokenizer.json cannot be opened"),
        (bundle() | {"config.json": b"{"}, "", {}, "config.json is no JSON"),
        (bundle() | {"modules.json": b"{}"}, "", {}, "modules.json is not what it should be"),
        (
            bundle() | {"modules.json": b'[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]'},
            "",
            {},
            "modules.json has Dense after the encoder",
        ),
        (
            bundle() | {"1_Pooling/config.json": b'{"pooling_mode_max_tokens": true}'},
            "",
            {},
            "pools by pooling_mode_max_tokens",
        ),
        (bundle(text_models.encoder(texts=8)), "", {}, "takes 8 texts at once"),
        (bundle(text_models.encoder(tokens=3)), "", {}, "reads 3 tokens, and 3 are taken"),
        (bundle() | {"modules.json": b" " * 17_000_000}, "", {}, "modules.json has more than 16,777,216 bytes"),
    ],
)
def test_a_bundle_that_cannot_be_served_says_why(
    tmp_path: Path, files: dict[str, bytes], task_type: str, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        load(tmp_path, files, task_type, **fields)
    assert caught.value.reason == "MODEL_LOAD_FAILED"
    assert said in caught.value.message
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("variant", ["quantized", "model_quantized", "onnx/model_quantized.onnx"])
def test_a_quantised_graph_is_served_where_it_is_the_only_one(tmp_path: Path, variant: str) -> None:
    session = load(tmp_path, bundle(path="onnx/model_quantized.onnx"), variant=variant)
    assert ask(session, "a")["embedding"].shape == (1, 12)
