"""What is said of models of TensorFlow and Keras that do no harm, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

from services.registry.validation.report import FailureReason, Refusal, Signature, TensorSpec, ValidationReport
from services.registry.validation.tensorflow_model import inspect
from services.registry.validation.trial import NotRunnable, Run, try_rows
from tests.tensorflow import saved_models

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child runs in the folder of the version's files."""
    monkeypatch.chdir(tmp_path)


def judged(function: Callable[[Any], Any], **more: Any) -> ValidationReport:
    saved_models.calling(Path("model"), function, **more)
    return inspect("model", "", frozenset())


def refused(inspected: Callable[[], object]) -> tuple[FailureReason, str]:
    with pytest.raises(Refusal) as caught:
        inspected()
    return caught.value.reason, caught.value.message


def test_a_saved_model_is_known_by_its_signature() -> None:
    saved_models.linear(Path("model"))
    report = inspect("model", "", frozenset())
    assert report.signature == Signature(
        inputs=(TensorSpec("word", "BYTES", (-1,)), TensorSpec("x", "FP32", (-1, 4))),
        outputs=(TensorSpec("number", "INT32", (-1,)), TensorSpec("y", "FP32", (-1, 3))),
    )
    assert (report.rows_independent, report.producer) == (True, f"tensorflow {tf.__version__}")


def test_a_saved_model_is_judged_by_the_signature_that_its_version_names() -> None:
    saved_models.with_two_signatures(Path("model"))
    assert refused(lambda: inspect("model", "", frozenset()))[0] is FailureReason.AMBIGUOUS_SIGNATURE
    assert inspect("model", "", frozenset(), signature_name="two").rows_independent
    saved_models.dense(Path("model.keras"))
    reason, message = refused(lambda: inspect(None, "model.keras", frozenset(), signature_name="two"))
    assert reason is FailureReason.AMBIGUOUS_SIGNATURE
    assert "has no signatures" in message


def test_a_saved_model_on_top_of_its_folder_is_found() -> None:
    saved_models.calling(Path(), lambda x: {"y": x})
    assert inspect("", "", frozenset()).rows_independent


def test_a_keras_file_is_known_by_its_names() -> None:
    saved_models.branched(Path("model.keras"))
    report = inspect(None, "model.keras", frozenset())
    assert report.signature == Signature(
        inputs=(TensorSpec("word", "BYTES", (-1, 1)), TensorSpec("size", "FP32", (-1, 2))),
        outputs=(TensorSpec("large", "FP32", (-1, 2)), TensorSpec("small", "FP32", (-1, 1))),
    )
    assert (report.rows_independent, report.producer) == (True, f"keras {keras.__version__}")


def test_a_sequential_model_is_known_by_its_last_layer() -> None:
    layers = [keras.Input((4,), name="x"), keras.layers.Dense(2, name="scores")]
    keras.Sequential(layers).save("model.keras")
    report = inspect(None, "model.keras", frozenset())
    assert report.signature == Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("scores", "FP32", (-1, 2)),))
    assert report.rows_independent


def test_rows_that_change_each_other_are_seen() -> None:
    report = judged(lambda x: {"y": x - tf.reduce_mean(x, axis=0)})
    assert not report.rows_independent
    assert "answers a row differently" in report.rows_independent_reason


@pytest.mark.parametrize("said", ["/etc/passwd; Permission denied", "socket: Operation not permitted"])
def test_a_model_that_is_denied_something_is_refused(said: str) -> None:
    reason, message = refused(lambda: try_rows(failing(said), ONE_INPUT, frozenset()))
    assert reason is FailureReason.FORBIDDEN_OPERATOR
    assert "the sandbox denies" in message


def test_a_model_that_does_not_take_generated_rows_is_let_in() -> None:
    verdict = try_rows(failing("no such row in the table"), ONE_INPUT, frozenset())
    assert not verdict.rows_independent
    assert "does not run on generated rows" in verdict.reason


ONE_INPUT = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 4)),))


def failing(said: str) -> Run:
    def run(_: object) -> Any:
        raise NotRunnable("it failed") from RuntimeError(said)

    return run


def test_an_output_without_a_shape_has_the_rank_that_was_seen() -> None:
    def unshaped(x: Any) -> dict[str, Any]:
        y = tf.raw_ops.PlaceholderWithDefault(input=x, shape=None)
        return {"y": y}

    report = judged(unshaped)
    assert report.signature is not None
    assert report.signature.outputs == (TensorSpec("y", "FP32", (-1, -1)),)


def test_a_tensor_that_cannot_be_served_is_named() -> None:
    reason, message = refused(lambda: judged(lambda x: {"y": x}, dtype=tf.complex64))
    assert reason is FailureReason.UNSUPPORTED_INPUT_TYPE
    assert "'x' is a tensor of complex64" in message


def test_a_model_without_its_variables_is_refused_without_naming_the_server() -> None:
    saved_models.linear(Path("model"))
    for path in Path("model/variables").iterdir():
        path.unlink()
    reason, message = refused(lambda: inspect("model", "", frozenset()))
    assert reason is FailureReason.INVALID_MODEL
    assert "cannot load the SavedModel" in message
    assert str(Path.cwd()) not in message
    assert "site-packages" not in message


def test_python_that_policy_lets_in_is_run() -> None:
    saved_models.with_lambda(Path("model.keras"))
    assert inspect(None, "model.keras", frozenset({"keras-lambda"})).rows_independent
    assert refused(lambda: inspect(None, "model.keras", frozenset()))[0] is FailureReason.FORBIDDEN_LAYER
