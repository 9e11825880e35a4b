"""The judgement of a file, in this process: only models that do no harm. The hostile ones are in tests/faults."""

from __future__ import annotations

import re

import onnx
import pytest

from services.registry.validation.onnx_model import inspect
from services.registry.validation.report import FailureReason, Signature, TensorSpec, ValidationReport
from tests.testdata import models


def judged(content: bytes, *allowed: str) -> ValidationReport:
    return inspect({"model.onnx": memoryview(content)}, frozenset(allowed))


def refused(content: bytes) -> tuple[FailureReason, str]:
    report = judged(content)
    assert report.failure is not None
    assert not report.ok
    return report.failure.reason, report.failure.message


def test_the_signature_is_read_as_the_model_names_it() -> None:
    report = judged(models.classifier(width=5, classes=2))
    assert report.ok
    assert report.signature == Signature(
        inputs=(TensorSpec("X", "FP32", (-1, 5)),),
        outputs=(TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2))),
    )


def test_origin_and_operator_sets_are_read() -> None:
    report = judged(models.strings())
    assert (report.opset, report.ir_version, report.producer) == (21, 10, "penstock-tests")
    assert report.opsets == {"ai.onnx": 21, "ai.onnx.ml": 4}


@pytest.mark.parametrize(
    ("element_type", "datatype", "runs"),
    [
        (onnx.TensorProto.BOOL, "BOOL", True),
        (onnx.TensorProto.UINT8, "UINT8", True),
        (onnx.TensorProto.INT16, "INT16", True),
        (onnx.TensorProto.UINT64, "UINT64", True),
        (onnx.TensorProto.FLOAT16, "FP16", True),
        (onnx.TensorProto.DOUBLE, "FP64", True),
        (onnx.TensorProto.STRING, "BYTES", True),
        (onnx.TensorProto.BFLOAT16, "BF16", False),
    ],
)
def test_datatypes_have_the_names_of_the_open_inference_protocol(element_type: int, datatype: str, runs: bool) -> None:
    report = judged(models.identity(element_type))
    assert report.signature is not None
    assert report.signature.inputs == (TensorSpec("x", datatype, (-1, 4)),)
    assert report.rows_independent is runs
    assert ("BF16" in report.rows_independent_reason) is not runs


@pytest.mark.parametrize(
    "content",
    [
        models.linear(),
        models.classifier(),
        models.strings(),
        models.embedding(),
        models.local_function(),
        models.identity(onnx.TensorProto.STRING, ["N"]),
    ],
    ids=["linear", "classifier", "strings", "embedding", "local function", "labels"],
)
def test_rows_that_do_not_touch_each_other_are_found_independent(content: bytes) -> None:
    report = judged(content)
    assert (report.rows_independent, report.rows_independent_reason) == (True, "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (models.batch_centred(), "'y' answers a row differently in a batch of 2 than alone"),
        (models.dynamically_quantised(), "'y' answers a row differently"),
        (models.fixed_batch(), "[1, 4], whose first dimension is not open"),
        (models.summed(), "first dimension"),
        (models.identity(onnx.TensorProto.FLOAT, ()), "[], whose first dimension is not open"),
        (models.unrunnable(), "does not run on generated rows"),
        (models.one_row(), "takes a row alone but not several"),
        (models.stacked(), "its first dimension does not count the rows"),
    ],
    ids=["mean", "dynamic quantisation", "fixed", "summed", "scalar", "unrunnable", "one row", "stacked"],
)
def test_a_model_that_must_not_be_batched_is_accepted_and_says_why(content: bytes, said: str) -> None:
    report = judged(content)
    assert report.ok
    assert not report.rows_independent
    assert said in report.rows_independent_reason


def test_a_shape_that_nobody_declares_is_taken_from_a_run() -> None:
    report = judged(models.embedding(width=3))
    assert report.signature is not None
    assert report.signature.outputs[0].datatype == "FP32"
    assert len(report.signature.outputs[0].shape) == 3


@pytest.mark.parametrize(
    ("content", "output"),
    [
        (models.zipmap_classifier(), TensorSpec("probabilities", "FP32", (-1, -1))),
        (models.zipmap_of_words(), TensorSpec("scores", "FP32", (-1, -1))),
    ],
    ids=["numbers", "words"],
)
def test_a_map_a_row_is_a_tensor_of_its_values_and_its_rows_are_judged(content: bytes, output: TensorSpec) -> None:
    report = judged(content)
    assert report.signature is not None
    assert report.signature.outputs == (output,)
    assert report.rows_independent


def test_a_sequence_of_tensors_is_their_stack_and_counts_no_rows() -> None:
    report = judged(models.sequence())
    assert report.signature is not None
    assert report.signature.outputs == (TensorSpec("parts", "FP32", (-1, -1, -1)),)
    assert not report.rows_independent
    assert "does not count the rows" in report.rows_independent_reason


def test_a_sequence_that_is_no_tensor_is_refused() -> None:
    reason, message = refused(models.sequence(like=False))
    assert reason is FailureReason.INVALID_MODEL
    assert "tensors of different shapes" in message


@pytest.mark.parametrize(
    ("content", "reason", "said"),
    [
        (b"", FailureReason.NOT_ONNX, "0 bytes hold no ONNX model"),
        (b"\x08\x07", FailureReason.NOT_ONNX, "hold no ONNX model"),
        (models.garbage(), FailureReason.NOT_ONNX, "4,096 bytes do not parse"),
        (models.truncated(), FailureReason.NOT_ONNX, "cut short"),
        (models.dangling(), FailureReason.INVALID_MODEL, "'nowhere' is not a graph input"),
        (models.external_data(), FailureReason.EXTERNAL_DATA_INVALID, "'W' keeps its data in the file"),
        (models.hidden_external_data(), FailureReason.EXTERNAL_DATA_INVALID, "'W'"),
        (models.custom_operator(), FailureReason.CUSTOM_OPERATOR, "'acme.kernels::Frobnicate'"),
        (models.custom_operator("ai.onnx.contrib", "PyOp"), FailureReason.FORBIDDEN_OPERATOR, "runs Python"),
        (models.custom_operator("com.microsoft", "EPContext"), FailureReason.FORBIDDEN_OPERATOR, "reads files"),
        (models.map_input(), FailureReason.UNSUPPORTED_INPUT_TYPE, "requests carry tensors only"),
        (
            models.identity(onnx.TensorProto.COMPLEX64),
            FailureReason.INVALID_MODEL,
            "complex64",
        ),
        (models.identity(onnx.TensorProto.FLOAT, None), FailureReason.UNSUPPORTED_INPUT_TYPE, "declares no shape"),
        (models.unrunnable(shaped=False), FailureReason.INVALID_MODEL, "'y' declares no shape"),
        (models.named("x\x00y"), FailureReason.INVALID_MODEL, "control characters"),
        (models.named("x" * 10_000), FailureReason.INVALID_MODEL, "longer than 250"),
    ],
    ids=lambda value: value.name if isinstance(value, FailureReason) else "",
)
def test_a_bad_file_is_refused_with_its_reason(content: bytes, reason: FailureReason, said: str) -> None:
    found, message = refused(content)
    assert found is reason
    assert said in message


def test_no_message_names_a_place_in_the_source_or_on_the_server() -> None:
    for content in (
        models.dangling(),
        models.custom_operator("com.microsoft", "Nonsense"),
        models.newer_than_runtime(),
    ):
        _, message = refused(content)
        assert not re.search(r"_src|\.cc|\.h:|/work|/home|/root|/usr", message)
        assert "ONNXRuntimeError" not in message
        assert len(message) < 600


def test_a_domain_that_policy_allows_reaches_the_runtime() -> None:
    report = judged(models.custom_operator(), "onnx-domain:acme.kernels")
    assert report.failure is not None
    assert report.failure.reason is FailureReason.INVALID_MODEL, "no library is loaded for it, so it fails there"


def test_no_policy_allows_an_operator_that_runs_python() -> None:
    report = judged(models.custom_operator("acme.kernels", "PyOp"), "onnx-domain:acme.kernels")
    assert report.failure is not None
    assert report.failure.reason is FailureReason.FORBIDDEN_OPERATOR
