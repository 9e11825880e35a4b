"""Models of TensorFlow as the inference service runs them, beside their own makers' answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import pytest
import tensorflow as tf

from services.common.errors import FailedPrecondition, InvalidArgument
from services.inference.models import Metadata, ModelFailed, TensorSpec
from services.inference.runtimes.runtime import Artifact, Session
from services.inference.runtimes.tensorflow_runtime import TensorFlowRuntime
from services.inference.tensors import BFLOAT16, Tensor
from tests.serving import BlobShelf
from tests.tensorflow import saved_models

pytestmark = pytest.mark.slow
X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def load(folder: Path, **fields: Any) -> Session:
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    version = replace(BlobShelf().version(files), framework="tensorflow", metadata=Metadata(fields=fields))
    return TensorFlowRuntime(threads=1).load(Artifact(version, folder))


def test_a_saved_model_answers_as_tensorflow_does(tmp_path: Path) -> None:
    saved_models.linear(tmp_path / "model")
    session = load(tmp_path)
    assert session.signature.inputs == (TensorSpec("word", "BYTES", (-1,)), TensorSpec("x", "FP32", (-1, 4)))
    assert session.signature.outputs == (TensorSpec("number", "INT32", (-1,)), TensorSpec("y", "FP32", (-1, 3)))
    answer = session.run({"x": X, "word": np.array([b"a", b"b", b"zz"], object)})
    assert answer["number"].tolist() == [1, 2, -1]
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_allclose(answer["y"], tf.nn.softmax(X @ weights).numpy(), rtol=1e-6)
    assert list(session.run({"x": X, "word": np.array([b"a"] * 3, object)}, ("y",))) == ["y"]
    assert session.size_bytes >= weights.nbytes


def two_signatures(folder: Path) -> None:
    """`serving_default` doubles, `square` squares."""
    module = tf.Module()
    spec = [tf.TensorSpec([None, 4], tf.float32, name="x")]
    module.double = tf.function(lambda x: {"y": 2 * x}, input_signature=spec)
    module.square = tf.function(lambda x: {"z": x * x}, input_signature=spec)
    tf.saved_model.save(module, str(folder), {"serving_default": module.double, "square": module.square})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, {"y": 2 * X}), ({"signature_name": "square"}, {"z": X * X})],
    ids=["the default", "by name"],
)
def test_any_signature_is_served_by_its_name(
    tmp_path: Path, fields: dict[str, str], expected: Mapping[str, Any]
) -> None:
    two_signatures(tmp_path)
    session = load(tmp_path, **fields)
    assert [spec.name for spec in session.signature.outputs] == list(expected)
    answer = session.run({"x": X})
    for name, values in expected.items():
        np.testing.assert_allclose(answer[name], values)


def test_a_signature_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    saved_models.with_two_signatures(tmp_path)
    for fields in ({}, {"signature_name": "three"}):
        with pytest.raises(FailedPrecondition, match="it has one, two") as caught:
            load(tmp_path, **fields)
        assert caught.value.reason == "SIGNATURE_NOT_FOUND"
    assert load(tmp_path, signature_name="two").run({"x": X})["y"].tolist() == X.tolist()


def test_a_keras_file_answers_as_keras_does(tmp_path: Path) -> None:
    saved_models.dense(tmp_path / "model.keras")
    session = load(tmp_path)
    assert session.signature.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert session.signature.outputs == (TensorSpec("y", "FP32", (-1, 3)),)
    expected = keras.saving.load_model(tmp_path / "model.keras").predict(X, verbose=0)
    np.testing.assert_allclose(session.run({"x": X})["y"], expected, rtol=1e-5)
    assert session.run({"x": X[:0]})["y"].shape == (0, 3)


def test_a_keras_file_of_several_inputs_and_outputs_is_served_by_its_names(tmp_path: Path) -> None:
    saved_models.branched(tmp_path / "model.keras")
    session = load(tmp_path)
    words, sizes = np.array([[b"a"], [b"c"]], object), np.array([[1, 2], [3, 4]], np.float32)
    answer = session.run({"size": sizes, "word": words})
    texts = tf.constant([["a"], ["c"]])
    expected = keras.saving.load_model(tmp_path / "model.keras")({"word": texts, "size": tf.constant(sizes)})
    for name in ("large", "small"):
        np.testing.assert_allclose(answer[name], expected[name].numpy(), rtol=1e-5)


def test_a_sequential_keras_file_is_served_too(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2, name="scores")])
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(load(tmp_path).run({"x": X})["scores"], model.predict(X, verbose=0), rtol=1e-5)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16, tf.int8, tf.uint64, tf.bool, tf.float64])
def test_tensors_of_each_type_go_through(tmp_path: Path, dtype: Any) -> None:
    saved_models.calling(tmp_path, lambda x: {"y": tf.identity(x)}, dtype=dtype)
    session = load(tmp_path)
    numpy_dtype = BFLOAT16 if dtype == tf.bfloat16 else np.dtype(dtype.as_numpy_dtype)
    tensor = np.frombuffer(np.array([[0, 1, 1, 0]]).astype(numpy_dtype).tobytes(), numpy_dtype).reshape(1, 4)
    answer = session.run({"x": tensor})["y"]
    assert (answer.dtype, answer.tobytes()) == (numpy_dtype, tensor.tobytes())


def test_strings_come_out_as_bytes(tmp_path: Path) -> None:
    saved_models.calling(tmp_path, lambda x: {"y": tf.strings.upper(x)}, dtype=tf.string)
    answer = load(tmp_path).run({"x": np.array([[b"a", "b", b"\xff", b""]], object)})["y"]
    assert answer.tolist() == [[b"A", b"B", b"\xff", b""]]


def test_what_the_input_did_and_what_the_model_did_are_told_apart(tmp_path: Path) -> None:
    table = tf.constant([[1.0], [2.0]])
    saved_models.calling(tmp_path / "in", lambda x: {"y": tf.gather(table, x)}, dtype=tf.int32)
    with pytest.raises(InvalidArgument, match="not in") as caught:
        load(tmp_path / "in").run({"x": np.full((1, 4), 9, np.int32)})
    assert caught.value.reason == "INPUT_REFUSED"
    boundless = tf.constant(2**50, tf.int64)
    saved_models.calling(
        tmp_path / "model", lambda x: {"y": x + tf.reduce_sum(tf.fill([boundless * tf.size(x, tf.int64)], 1.0))}
    )
    with pytest.raises(ModelFailed, match="the model failed") as failed:
        load(tmp_path / "model").run({"x": X})
    assert str(tmp_path) not in str(failed.value)
    assert "site-packages" not in str(failed.value)


def test_a_damaged_model_is_refused_without_naming_our_folders(tmp_path: Path) -> None:
    saved_models.linear(tmp_path / "model")
    for path in (tmp_path / "model" / "variables").iterdir():
        path.unlink()
    with pytest.raises(FailedPrecondition, match="cannot open the model") as caught:
        load(tmp_path)
    assert caught.value.reason == "MODEL_LOAD_FAILED"
    assert str(tmp_path) not in str(caught.value)


def test_python_in_a_keras_file_is_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    saved_models.with_python(tmp_path / "model.keras", f"open({str(canary)!r}, 'w').close()")
    with pytest.raises(FailedPrecondition) as caught:
        load(tmp_path)
    assert caught.value.reason == "MODEL_LOAD_FAILED"
    assert not canary.exists()


def test_a_run_that_hangs_is_seen_to_go_on_for_as_long_as_it_does(tmp_path: Path) -> None:
    """Nothing ends it, so the watchdog must see it, or the worker would never be replaced."""
    saved_models.calling(tmp_path, lambda x: {"y": x})
    session = load(tmp_path)
    running, go_on = threading.Event(), threading.Event()

    class Hanging:
        dtype = np.float32

        def __array__(self, *_: object, **__: object) -> Tensor:
            running.set()
            assert go_on.wait(60)
            return X

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(session.run, {"x": cast("Tensor", Hanging())})
        assert running.wait(60)
        assert session.terminate(longer_than_s=1000) == 0
        assert [session.terminate() for _ in range(2)] == [1, 1]
        go_on.set()
        assert run.result(60)["y"].tolist() == X.tolist()
    assert session.terminate() == 0


def test_a_closed_session_answers_no_more(tmp_path: Path) -> None:
    saved_models.calling(tmp_path, lambda x: {"y": x})
    session = load(tmp_path)
    session.close()
    with pytest.raises(ModelFailed, match="closed"):
        session.run({"x": X})
