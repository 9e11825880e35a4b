"""Types that numpy or ONNX make a matter of: scikit-learn's maps, BF16 and FP16, through registry, wire and model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from services.inference.oip import open_inference_pb2 as oip
from services.inference.tensors import from_raw
from tests import inference
from tests.inference import DEADLINE_S, Suite, infer_request
from tests.postgres import PostgresServer
from tests.testdata import models

FLOWERS = load_iris()
ROWS = FLOWERS.data[::25].astype(np.float32)
# It stands on stubs of its own for the same protocol, so it has a process of its own.
TRITON = """
import json, sys
import ml_dtypes
import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
rows = np.array([[1.5, -2.25, 0.5, 300]], np.float32)
found = {}
for model, datatype, dtype in (("bf16", "BF16", ml_dtypes.bfloat16), ("fp16", "FP16", np.float16)):
    tensor = triton.InferInput("x", [1, 4], datatype)
    tensor.set_data_from_numpy(rows.astype(dtype))
    answer = client.infer(model, [tensor])
    found[model] = [answer.get_output("y").datatype, answer.as_numpy("y").tolist()]
print(json.dumps(found))
"""
NAMES = FLOWERS.target_names[FLOWERS.target]


@pytest.fixture(scope="module")
def classifier() -> Any:
    """A classifier of words, whose classes are not in the order in which they were seen."""
    return LogisticRegression(max_iter=200).fit(FLOWERS.data[::-1], NAMES[::-1])


@pytest.fixture(scope="module")
def suite(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, classifier: Any
) -> Iterator[Suite]:
    with inference.running_suite(postgres_server, tmp_path_factory.mktemp("suite")) as suite:
        # As skl2onnx makes it unless told otherwise: with a ZipMap at its end.
        inference.serve(suite, "flowers", to_onnx(classifier, ROWS[:1]).SerializeToString())
        inference.serve(suite, "bf16", models.identity(TensorProto.BFLOAT16))
        inference.serve(suite, "fp16", models.identity(TensorProto.FLOAT16))
        yield suite


def test_scikit_learns_probabilities_come_as_a_column_a_class_in_the_order_of_classes_(
    suite: Suite, classifier: Any
) -> None:
    version = suite.client.registry.get_version("flowers", "1.0.0")
    label, scores = version.signature.outputs
    assert (scores.name, list(scores.shape)) == ("output_probability", [-1, -1])
    assert version.validation.rows_independent
    answer = suite.client.inference.predict("flowers", {"X": ROWS.tolist()})
    np.testing.assert_allclose(answer.outputs[scores.name], classifier.predict_proba(ROWS), atol=1e-5)
    assert [name.decode() for name in answer.outputs[label.name]] == classifier.predict(ROWS).tolist()
    # The labels and a matrix of probabilities: that is a classifier, with a confidence a row.
    np.testing.assert_allclose(answer.confidences, classifier.predict_proba(ROWS).max(axis=1), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "dtype", "datatype"), [("bf16", ml_dtypes.bfloat16, "BF16"), ("fp16", np.float16, "FP16")]
)
def test_half_precision_goes_through_both_front_doors_raw(suite: Suite, model: str, dtype: Any, datatype: str) -> None:
    tensor = np.array([[1.5, -2.25, np.inf, 0.1], [0, -0.0, 1e-3, 300]], dtype)
    request = infer_request(model, {"x": tensor})
    assert request.inputs[0].datatype == datatype
    answer = suite.oip.ModelInfer(request, timeout=DEADLINE_S)
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == (datatype, [2, 4])
    assert answer.raw_output_contents == [tensor.tobytes()]
    assert from_raw("y", datatype, (2, 4), answer.raw_output_contents[0]).dtype == tensor.dtype
    back = suite.client.inference.predict(model, tensors={"x": tensor}).outputs["y"]
    assert (back.dtype, back.tobytes()) == (tensor.dtype, tensor.tobytes())
    config = suite.oip.ModelConfig(oip.ModelConfigRequest(name=model), timeout=DEADLINE_S).config
    assert oip.DataType.Name(config.input[0].data_type) == f"TYPE_{datatype}"


@pytest.mark.slow
def test_tritonclient_reads_half_precision_too(suite: Suite) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRITON, suite.inference.address],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    values = [[1.5, -2.25, 0.5, 300]]
    assert json.loads(done.stdout) == {"bf16": ["BF16", values], "fp16": ["FP16", values]}


def test_bf16_is_read_from_features_by_name(suite: Suite) -> None:
    answer = suite.client.inference.predict("bf16", {"x": [1.5, 2, None, -3]})
    assert answer.outputs["y"][0, :2].tolist() == [1.5, 2]
    assert np.isnan(float(answer.outputs["y"][0, 2]))
