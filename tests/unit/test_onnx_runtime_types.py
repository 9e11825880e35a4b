"""What numpy has no name for, or is no tensor in ONNX: BF16, text beside it, sequences and maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from services.common.errors import FailedPrecondition
from services.common.onnx_outputs import NotATensor, as_tensor, composite_type
from services.inference.models import ModelFailed, TensorSpec
from services.inference.runtimes.onnx_runtime import OnnxRuntime, OnnxSession
from services.inference.runtimes.runtime import Artifact
from services.inference.tensors import BFLOAT16
from tests.serving import BlobShelf
from tests.testdata import models

X = np.array([[0.25, 0.5, 0.75], [1, 2, 3]], np.float32)


def load(folder: Path, model: bytes) -> OnnxSession:
    (folder / "model.onnx").write_bytes(model)
    return OnnxRuntime(intra_op_threads=1).load(Artifact(BlobShelf().version({"model.onnx": model}), folder))


def test_a_map_a_row_comes_out_as_a_column_a_class(tmp_path: Path) -> None:
    session = load(tmp_path, models.zipmap_classifier())
    assert session.signature.outputs == (TensorSpec("probabilities", "FP32", (-1, -1)),)
    answer = session.run({"x": X})["probabilities"]
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer, X)


def test_classes_with_names_stand_in_their_ascending_order(tmp_path: Path) -> None:
    session = load(tmp_path, models.zipmap_of_words())
    # The graph has versicolor, setosa, virginica.
    np.testing.assert_array_equal(session.run({"x": X}, ("scores",))["scores"], X[:, [1, 0, 2]])


def test_no_rows_give_no_maps(tmp_path: Path) -> None:
    assert load(tmp_path, models.zipmap_of_words()).run({"x": X[:0]})["scores"].shape == (0, 0)


def test_a_sequence_is_stacked(tmp_path: Path) -> None:
    session = load(tmp_path, models.sequence())
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(session.run({"x": x})["parts"], [x, x])


def test_a_sequence_of_different_shapes_is_the_models_failure(tmp_path: Path) -> None:
    session = load(tmp_path, models.sequence(like=False))
    with pytest.raises(ModelFailed, match=r"'parts' .* \[1, 4\] and \[4, 1\]") as caught:
        session.run({"x": np.ones((1, 4), np.float32)})
    assert caught.value.reason == "OUTPUT_NOT_A_TENSOR"


def test_a_map_as_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"'x' is map\(string,tensor\(float\)\)") as caught:
        load(tmp_path, models.map_input())
    assert caught.value.reason == "UNSUPPORTED_DATATYPE"


@pytest.mark.parametrize(
    ("declared", "served"),
    [
        ("seq(map(int64,tensor(float)))", ("FP32", (-1, -1))),
        ("map(string,tensor(double))", ("FP64", (-1,))),
        ("seq(tensor(string))", ("BYTES", ())),
        ("seq(tensor(bfloat16))", None),
        ("optional(tensor(float))", None),
        ("tensor(float)", None),
    ],
)
def test_a_composite_type_is_known_as_a_tensors(declared: str, served: tuple[str, tuple[int, ...]] | None) -> None:
    assert composite_type(declared) == served


def test_a_single_map_is_a_row_of_its_values() -> None:
    assert as_tensor({"b": 2.0, "a": 1.0}, "FP64").tolist() == [1, 2]
    with pytest.raises(NotATensor, match="different keys"):
        as_tensor([{1: 1.0}, {2: 1.0}], "FP32")
    with pytest.raises(NotATensor, match="NoneType"):
        as_tensor(None, "FP32")


@pytest.mark.parametrize("shape", [(2, 4), (0, 4)])
def test_bf16_goes_through_bit_by_bit(tmp_path: Path, shape: tuple[int, int]) -> None:
    session = load(tmp_path, models.identity(TensorProto.BFLOAT16))
    assert session.signature.inputs == (TensorSpec("x", "BF16", (-1, 4)),)
    # A read-only view, as the wire gives it; a NaN with bits of its own among them.
    bits = np.array([0x3F80, 0x7FC1, 0x8000, 0x0001, 0xFF80, 0x4049, 0, 1], np.uint16)[: shape[0] * shape[1]]
    tensor = np.frombuffer(bits.tobytes(), BFLOAT16).reshape(shape)
    answer = session.run({"x": tensor})["y"]
    assert (answer.dtype, answer.shape) == (BFLOAT16, shape)
    assert answer.tobytes() == tensor.tobytes()


def mixed(*outputs: str) -> bytes:
    """A graph of a BF16 and a text, each given back, the BF16 as FP32 too."""
    kinds = {"bits": TensorProto.BFLOAT16, "text": TensorProto.STRING, "wide": TensorProto.FLOAT}
    nodes = {
        "bits": helper.make_node("Identity", ["b"], ["bits"]),
        "text": helper.make_node("Identity", ["t"], ["text"]),
        "wide": helper.make_node("Cast", ["b"], ["wide"], to=TensorProto.FLOAT),
    }
    inputs = [("b", TensorProto.BFLOAT16)] + ([("t", TensorProto.STRING)] if "text" in outputs else [])
    graph = helper.make_graph(
        [nodes[name] for name in outputs],
        "mixed",
        [helper.make_tensor_value_info(name, kind, ["N"]) for name, kind in inputs],
        [helper.make_tensor_value_info(name, kinds[name], ["N"]) for name in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_bf16_and_text_go_in_together(tmp_path: Path) -> None:
    answer = load(tmp_path, mixed("wide", "text")).run(
        {"b": np.array([1.5, -2], BFLOAT16), "t": np.array([b"one", b"two"], object)}
    )
    assert (answer["wide"].tolist(), answer["text"].tolist()) == ([1.5, -2], ["one", "two"])


def test_bf16_comes_out_beside_other_numbers(tmp_path: Path) -> None:
    answer = load(tmp_path, mixed("bits", "wide")).run({"b": np.array([1.5, -2], BFLOAT16)})
    assert (answer["bits"].tolist(), answer["wide"].tolist()) == ([1.5, -2], [1.5, -2])


def test_bf16_out_beside_text_in_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="'t' is no plain tensor") as caught:
        load(tmp_path, mixed("bits", "text"))
    assert caught.value.reason == "UNSUPPORTED_DATATYPE"
