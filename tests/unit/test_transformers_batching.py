"""Transformers bundles: how texts are cut, filled and batched, and what is refused."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.common.errors import FailedPrecondition, InvalidArgument
from services.inference.models import ModelFailed
from services.inference.runtimes.transformers.session import TransformersSession
from tests.serving import wait_until
from tests.testdata import bert, text_models
from tests.testdata import models as onnx_models
from tests.testdata.bundles import bundle as averaging_bundle
from tests.testdata.text_models import TEXTS, as_bytes, bundle, classifier, labelled, tagger
from tests.text_sessions import ENTAILMENT, ask, load


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
        assert go_on.wait(60)
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
    assert running.wait(60)
    assert session.terminate(longer_than_s=60) == 0
    assert session.terminate() == 1
    assert session.terminate() == 1, "told before, and still going: that is how a watchdog knows that it hangs"
    go_on.set()
    thread.join(60)
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
