"""Transformers bundles: texts in, and each task's answer as NumPy computes it from the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.common.errors import InvalidArgument
from services.inference.models import TensorSpec
from tests.testdata import bert, text_models
from tests.testdata.bundles import bundle as averaging_bundle
from tests.testdata.text_models import TEXTS, bundle, classifier, hidden, labelled, logits, tagger
from tests.text_sessions import ENTAILMENT, ask, load, softmax


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
