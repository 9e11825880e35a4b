from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from services.common.cpus import cpu_count, find_quota
from services.common.errors import FailedPrecondition, InvalidArgument
from services.inference.models import ModelFailed, TensorSpec
from services.inference.runtimes.onnx_runtime import OnnxRuntime, OnnxSession
from services.inference.runtimes.runtime import Artifact
from tests.serving import BlobShelf, wait_until
from tests.testdata import models


def load(folder: Path, model: bytes, **settings: Any) -> OnnxSession:
    version = BlobShelf().version({"model.onnx": model})
    (folder / "model.onnx").write_bytes(model)
    return OnnxRuntime(**{"intra_op_threads": 1, **settings}).load(Artifact(version, folder))


def test_a_model_is_loaded_with_its_signature_and_answers(tmp_path: Path) -> None:
    session = load(tmp_path, models.linear())
    assert session.signature.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert session.signature.outputs == (TensorSpec("y", "FP32", (-1, 3)),)
    answer = session.run({"x": np.ones((2, 4), np.float32)})
    assert answer["y"].shape == (2, 3)
    np.testing.assert_allclose(answer["y"].sum(axis=1), 1, rtol=1e-6)
    assert session.size_bytes == len(models.linear())


def test_only_the_outputs_asked_for_come_back(tmp_path: Path) -> None:
    session = load(tmp_path, models.classifier(), memory_arena=False, intra_op_threads=0)
    assert list(session.run({"X": np.ones((1, 4), np.float32)}, ("probabilities",))) == ["probabilities"]


@pytest.mark.parametrize(
    ("element_type", "dtype", "datatype"),
    [
        (TensorProto.BOOL, "?", "BOOL"),
        (TensorProto.UINT8, "u1", "UINT8"),
        (TensorProto.INT8, "i1", "INT8"),
        (TensorProto.INT32, "i4", "INT32"),
        (TensorProto.INT64, "i8", "INT64"),
        (TensorProto.FLOAT16, "f2", "FP16"),
        (TensorProto.FLOAT, "f4", "FP32"),
        (TensorProto.DOUBLE, "f8", "FP64"),
    ],
)
def test_tensors_of_each_type_go_through(tmp_path: Path, element_type: int, dtype: str, datatype: str) -> None:
    session = load(tmp_path, models.identity(element_type))
    assert session.signature.inputs[0].datatype == datatype
    # A read-only view of bytes, as the wire gives it.
    tensor = np.frombuffer(np.arange(8).astype(dtype).tobytes(), dtype).reshape(2, 4)
    np.testing.assert_array_equal(session.run({"x": tensor})["y"], tensor)


def test_nan_goes_through(tmp_path: Path) -> None:
    session = load(tmp_path, models.identity(TensorProto.FLOAT))
    assert np.isnan(session.run({"x": np.full((1, 4), np.nan, np.float32)})["y"]).all()


def test_byte_strings_reach_the_model_as_text(tmp_path: Path) -> None:
    session = load(tmp_path, models.strings())
    colours = np.array([[b"red"], [b"green"]], dtype=object)
    assert session.run({"colour": colours})["number"].tolist() == [[7], [8]]


def test_byte_strings_that_are_no_text_are_refused_by_name(tmp_path: Path) -> None:
    session = load(tmp_path, models.strings())
    with pytest.raises(InvalidArgument, match="colour: element 1 is not UTF-8") as caught:
        session.run({"colour": np.array([[b"red"], [b"\xff"]], dtype=object)})
    assert caught.value.reason == "INVALID_UTF8"


@pytest.mark.parametrize("model", [models.garbage(), models.truncated(), models.dangling(), b""])
def test_a_file_that_is_no_model_is_refused_without_naming_our_folders(tmp_path: Path, model: bytes) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        load(tmp_path, model)
    assert caught.value.reason == "MODEL_LOAD_FAILED"
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("graph", ["odd.onnx", "model.onnx", "onnx/model.onnx"])
def test_of_several_files_the_graph_is_found_and_its_data_beside_it(tmp_path: Path, graph: str) -> None:
    weights = np.arange(4, dtype=np.float32)
    files = {
        graph: models.external_data("weights.data", offset=16, length=16),
        f"{graph.rpartition('/')[0]}/weights.data".lstrip("/"): bytes(16) + weights.tobytes(),
        "README.md": b"how it was made",
    }
    if graph != "odd.onnx":
        files |= {"onnx/model_quantised.onnx": b"another"}
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    session = OnnxRuntime(intra_op_threads=1).load(Artifact(BlobShelf().version(files), tmp_path))
    np.testing.assert_array_equal(session.run({"x": np.zeros((1, 4), np.float32)})["y"], [weights])


@pytest.mark.parametrize(("names", "said"), [(("a.onnx", "b.onnx"), "holds a.onnx, b.onnx"), ((), "holds none")])
def test_a_version_without_one_graph_to_choose_is_refused(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    version = BlobShelf().version(dict.fromkeys(names, b"a"))
    with pytest.raises(FailedPrecondition, match=said):
        OnnxRuntime().load(Artifact(version, tmp_path))


def test_input_that_the_model_itself_refuses_is_the_callers_fault_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    session = load(tmp_path, models.embedding())
    with pytest.raises(InvalidArgument, match="out of data bounds") as caught:
        session.run({"ids": np.array([[99]])})
    assert caught.value.reason == "INPUT_REFUSED"
    assert "ONNXRuntimeError" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_model_that_breaks_is_a_failed_model(tmp_path: Path) -> None:
    session = load(tmp_path, models.unrunnable())
    with pytest.raises(ModelFailed) as caught:
        session.run({"x": np.ones((1, 7), np.float32), "shape": np.array([5, 5])})
    assert caught.value.reason == "MODEL_FAILED"
    assert "/onnxruntime" not in str(caught.value)


def test_a_run_that_never_ends_is_terminated_and_the_session_lives_on(tmp_path: Path) -> None:
    session = load(tmp_path, models.unending())
    errors: list[ModelFailed] = []

    def run() -> None:
        try:
            session.run({"x": np.ones((1, 4), np.float32)})
        except ModelFailed as error:
            errors.append(error)

    for expected in (1, 2):
        thread = threading.Thread(target=run)
        thread.start()
        assert session.terminate(longer_than_s=60) == 0
        wait_until(lambda: session.terminate() == 1)
        thread.join(60)
        assert len(errors) == expected
    assert {error.reason for error in errors} == {"RUN_TERMINATED"}
    assert session.terminate() == 0


def test_the_memory_goes_with_the_session(tmp_path: Path) -> None:
    import gc
    import weakref

    with ExitStack() as resources:
        session = load(tmp_path, models.linear())
        inner = weakref.ref(session._call.__self__)  # type: ignore[union-attr]  # the runtime's own
        resources.callback(session.close)
    gc.collect()
    assert inner() is None


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_either_cgroup_version_is_read(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert find_quota(tmp_path) == quota
    assert cpu_count(tmp_path) >= 1
    if quota is not None and quota <= 1:
        assert cpu_count(tmp_path) == 1
