"""Models made by Keras, through the real registry, its validator, and both front doors of inference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import keras
import numpy as np
import pytest
import tensorflow as tf

import penstock
from penstock.api.registry.v1 import registry_pb2
from penstock.values import to_struct
from services.inference.tensors import from_raw
from tests import inference
from tests.inference import DEADLINE_S, Suite, infer_request
from tests.postgres import PostgresServer
from tests.tensorflow import saved_models

# Each registration imports TensorFlow in a process of its own, which takes long where the processors are busy.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def network(folder: Path) -> Any:
    """A network, kept as a `.keras` file, and as a SavedModel of two signatures: what it says, and its logits."""
    inputs = keras.Input((4,), name="x")
    logits = keras.layers.Dense(3, name="logits")(keras.layers.Dense(8, activation="relu")(inputs))
    network = keras.Model(inputs, keras.layers.Softmax(name="probabilities")(logits))
    network.save(folder / "network.keras")
    inner = keras.Model(inputs, logits)
    spec = [tf.TensorSpec([None, 4], tf.float32, name="x")]
    module = tf.Module()
    module.network, module.inner = network, inner
    module.serve = tf.function(lambda x: {"probabilities": network(x)}, input_signature=spec)
    module.logits = tf.function(lambda x: {"logits": inner(x)}, input_signature=spec)
    tf.saved_model.save(module, str(folder / "saved"), {"serving_default": module.serve, "logits": module.logits})
    return network


@pytest.fixture(scope="module")
def suite(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, network: Any, folder: Path
) -> Iterator[Suite]:
    saved_models.branched(folder / "branched.keras")
    with inference.running_suite(postgres_server, tmp_path_factory.mktemp("suite")) as suite:
        sources: dict[str, tuple[Path, dict[str, Any]]] = {
            "saved": (folder / "saved", {}),
            "logits": (folder / "saved", {"signature_name": "logits"}),
            "keras": (folder / "network.keras", {}),
            "branched": (folder / "branched.keras", {}),
        }
        for model, (source, fields) in sources.items():
            register(suite.client, model, source, fields)
            inference.until_known(suite.oip, model)
        yield suite


def register(client: penstock.Client, model: str, source: Path, fields: dict[str, Any]) -> Any:
    metadata = registry_pb2.Metadata(fields=to_struct(fields))
    return client.registry.register_version(model, "1.0.0", source, framework="tensorflow", metadata=metadata)


@pytest.mark.parametrize("model", ["saved", "keras"])
def test_predictions_equal_keras_own(suite: Suite, network: Any, model: str) -> None:
    version = suite.client.registry.get_version(model, "1.0.0")
    assert version.validation.rows_independent
    answer = suite.client.inference.predict(model, tensors={"x": X})
    np.testing.assert_allclose(answer.outputs["probabilities"], network.predict(X, verbose=0), rtol=1e-5)
    assert len(answer.confidences) == len(X)
    request = infer_request(model, {"x": X}, outputs=["probabilities"])
    raw = suite.oip.ModelInfer(request, timeout=DEADLINE_S)
    read = from_raw("probabilities", "FP32", (5, 3), raw.raw_output_contents[0])
    np.testing.assert_allclose(read, answer.outputs["probabilities"], rtol=1e-6)


def test_another_signature_of_the_same_files_is_served_as_a_version_of_its_own(suite: Suite, network: Any) -> None:
    version = suite.client.registry.get_version("logits", "1.0.0")
    assert [output.name for output in version.signature.outputs] == ["logits"]
    answer = suite.client.inference.predict("logits", {"x": X.tolist()}).outputs
    assert list(answer) == ["logits"]
    np.testing.assert_allclose(tf.nn.softmax(answer["logits"]), network.predict(X, verbose=0), rtol=1e-4)


def test_text_and_numbers_go_into_a_keras_file(suite: Suite, folder: Path) -> None:
    words, sizes = [["a"], ["c"]], [[1.0, 2.0], [3.0, 4.0]]
    answer = suite.client.inference.predict("branched", {"word": words, "size": sizes}).outputs
    loaded = keras.saving.load_model(folder / "branched.keras")
    expected = loaded({"word": tf.constant(words), "size": tf.constant(sizes)})
    for name in ("large", "small"):
        np.testing.assert_allclose(answer[name], expected[name].numpy(), rtol=1e-5)


def test_a_wrong_input_is_refused_before_the_model_sees_it(suite: Suite) -> None:
    with pytest.raises(penstock.InvalidArgument, match="the model takes rank 2"):
        suite.client.inference.predict("keras", tensors={"x": X[0]})
    with pytest.raises(grpc.RpcError) as caught:
        suite.oip.ModelInfer(infer_request("saved", {"x": X[:, :3]}), timeout=DEADLINE_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_signature_that_is_not_there_fails_in_validation_with_those_that_are(suite: Suite, folder: Path) -> None:
    with pytest.raises(penstock.PenstockError, match=r"no signature 'other'.*'logits', 'serving_default'"):
        register(suite.client, "other", folder / "saved", {"signature_name": "other"})
