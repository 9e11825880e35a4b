"""The judgement of Transformers bundles, in this process: only those that do no harm."""

from __future__ import annotations

import pytest

from services.registry.validation.report import FailureReason, Signature, TensorSpec, ValidationReport
from services.registry.validation.transformers_bundle import inspect
from tests.testdata import models
from tests.testdata.bundles import PANICS_WHEN_OPENED, PANICS_WHEN_USED, bundle, mean_of_table, tokenizer_of


def judged(files: dict[str, bytes]) -> ValidationReport:
    return inspect({path: memoryview(content) for path, content in files.items()}, frozenset())


@pytest.mark.parametrize("graph", ["model.onnx", "onnx/model.onnx"])
def test_a_bundle_is_known_by_its_graph(graph: str) -> None:
    report = judged(bundle(graph=graph) | {"README.md": b"#", "vocab.txt": b"a", "model.safetensors": b"beside"})
    assert report.ok, report
    assert report.signature == Signature(
        inputs=(TensorSpec("input_ids", "INT64", (-1, -1)), TensorSpec("attention_mask", "INT64", (-1, -1))),
        outputs=(TensorSpec("embedding", "FP32", (-1, 4)),),
    )
    assert report.rows_independent
    assert report.opset == 21


@pytest.mark.parametrize("length", [3, 64])
def test_a_graph_of_a_fixed_length_gets_its_text_cut_or_filled(length: int) -> None:
    assert judged(bundle(length=length)).ok


@pytest.mark.parametrize(
    "path",
    ["pytorch_model.bin", "deep/model.PT", "scaler.pkl", "tf_model.h5", "modeling_custom.py", "lib/kernel.so"],
)
def test_pickles_and_code_are_refused_beside_a_good_graph(path: str) -> None:
    report = judged(bundle() | {path: b"\x80\x04."})
    assert report.failure is not None
    assert report.failure.reason is FailureReason.UNSAFE_FILE
    assert repr(path) in report.failure.message


@pytest.mark.parametrize(
    ("changes", "reason", "said"),
    [
        ({"tokenizer.json": None}, FailureReason.INVALID_LAYOUT, "no tokenizer.json on top"),
        ({"config.json": None}, FailureReason.INVALID_LAYOUT, "no config.json on top"),
        ({"config.json": b"{"}, FailureReason.INVALID_LAYOUT, "config.json is no JSON object"),
        ({"config.json": b"[" * 100_000}, FailureReason.INVALID_LAYOUT, "config.json is no JSON object"),
        ({"config.json": b" " * 5_000_000}, FailureReason.INVALID_LAYOUT, "5,000,000 bytes"),
        ({"tokenizer_config.json": b"[]"}, FailureReason.INVALID_LAYOUT, "tokenizer_config.json is no JSON object"),
        ({"tokenizer.json": b"{}"}, FailureReason.INVALID_TOKENIZER, "cannot be opened"),
        ({"tokenizer.json": PANICS_WHEN_OPENED}, FailureReason.INVALID_TOKENIZER, "cannot be opened (range end index"),
        ({"tokenizer.json": PANICS_WHEN_USED}, FailureReason.INVALID_TOKENIZER, "fails on an English sentence (chunk"),
        (
            {"tokenizer.json": tokenizer_of(model={"type": "Unigram", "unk_id": None, "vocab": []})},
            FailureReason.INVALID_TOKENIZER,
            "fails on an English sentence (Encountered an unknown token",
        ),
        ({"model.onnx": None}, FailureReason.INVALID_LAYOUT, "none is there"),
        (
            {"model.onnx": None, "model.safetensors": b"weights"},
            FailureReason.INVALID_LAYOUT,
            "weights ('model.safetensors') and no ONNX graph",
        ),
        ({"model.onnx": models.truncated()}, FailureReason.NOT_ONNX, "cut short"),
        ({"model.onnx": models.linear()}, FailureReason.TOKENIZER_MISMATCH, "'x' (FP32 [-1, 4])"),
        ({"model.onnx": mean_of_table(7, ids="ids")}, FailureReason.TOKENIZER_MISMATCH, "input_ids must be there"),
        ({"model.onnx": mean_of_table(6)}, FailureReason.TOKENIZER_MISMATCH, "number 6, and the graph's table"),
        ({"config.json": b'{"vocab_size": 5}'}, FailureReason.TOKENIZER_MISMATCH, "vocab_size in config.json has 5"),
    ],
)
def test_a_bundle_that_does_not_fit_together_is_refused(
    changes: dict[str, bytes | None], reason: FailureReason, said: str
) -> None:
    files = {path: content for path, content in (bundle() | changes).items() if content is not None}
    failure = judged(files).failure
    assert failure is not None
    assert failure.reason is reason
    assert said in failure.message
