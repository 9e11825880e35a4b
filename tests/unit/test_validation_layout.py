"""Which of a version's files is the model, and what a graph may say of the files beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.registry.validation import tensorflow_js
from services.registry.validation.files import list_files, map_files
from services.registry.validation.layout import is_tensorflow_js, main_graph, saved_model_folder, tensorflow_model
from services.registry.validation.onnx_model import inspect
from services.registry.validation.report import FailureReason, Refusal, ValidationReport
from tests.testdata import models

DATA = bytes(32)


def judged(files: dict[str, bytes]) -> ValidationReport:
    return inspect({path: memoryview(content) for path, content in files.items()}, frozenset())


@pytest.mark.parametrize(
    ("paths", "graph"),
    [
        (["a/b/odd.ONNX", "config.json"], "a/b/odd.ONNX"),
        (["model.onnx", "model_fp16.onnx", "onnx/model.onnx"], "model.onnx"),
        (["onnx/model.onnx", "onnx/model_quantized.onnx"], "onnx/model.onnx"),
    ],
)
def test_the_graph_is_the_only_one_or_the_one_of_the_usual_name(paths: list[str], graph: str) -> None:
    assert main_graph(paths) == graph


@pytest.mark.parametrize(
    ("paths", "said"), [(["b.onnx", "a.onnx"], "'a.onnx', 'b.onnx'"), (["a.txt"], "none is there")]
)
def test_no_graph_to_choose_is_refused_with_the_candidates(paths: list[str], said: str) -> None:
    with pytest.raises(Refusal, match=said) as caught:
        main_graph(paths)
    assert caught.value.reason is FailureReason.INVALID_LAYOUT


def test_a_graph_with_its_data_beside_it_is_opened() -> None:
    report = judged(
        {
            "onnx/model.onnx": models.external_data("deep/weights.data", offset=16, length=16),
            "onnx/deep/weights.data": DATA,
        }
    )
    assert report.ok, report
    assert report.rows_independent


@pytest.mark.parametrize(
    ("location", "said", "expected"),
    [
        ("../weights.data", {}, "'../weights.data', which is none of this version's files"),
        ("/etc/passwd", {}, "'/etc/passwd', which is none"),
        ("./weights.data", {}, "which is none"),
        ("", {}, "'', which is none"),
        ("model.onnx", {}, "which is none"),
        ("weights.data", {"offset": 17, "length": 16}, "at 17 to 33 of the file 'weights.data', which has 32 bytes"),
        ("weights.data", {"offset": 10**17}, "which has 32 bytes"),
        ("weights.data", {"offset": -1}, "'-1', and no number"),
        ("weights.data", {"length": "9" * 40}, "no number of bytes"),
        ("weights.data", {"length": "16\x00"}, "no number of bytes"),
    ],
)
def test_data_outside_of_what_was_registered_is_refused(location: str, said: dict[str, object], expected: str) -> None:
    report = judged({"model.onnx": models.external_data(location, **said), "weights.data": DATA})
    assert report.failure is not None
    assert report.failure.reason is FailureReason.EXTERNAL_DATA_INVALID
    assert expected in report.failure.message


def test_data_that_is_shorter_than_its_tensor_is_refused_by_the_runtime() -> None:
    report = judged({"model.onnx": models.external_data("weights.data", offset=24, length=8), "weights.data": DATA})
    assert report.failure is not None
    assert report.failure.reason is FailureReason.INVALID_MODEL


@pytest.mark.parametrize(
    ("paths", "folder"),
    [
        (["saved_model.pb", "variables/variables.index"], ""),
        (["exported/saved_model.pb", "exported/variables/variables.index"], "exported"),
        (["a/saved_model.pb", "b/saved_model.pb"], None),
        (["a/b/saved_model.pb"], None),
        (["model.keras"], None),
    ],
)
def test_a_saved_model_lies_on_top_or_in_the_one_top_folder(paths: list[str], folder: str | None) -> None:
    assert saved_model_folder(paths) == folder


def test_a_version_of_tensorflow_holds_one_model() -> None:
    assert tensorflow_model(["deep/saved_model.pb"]) == ("deep", "")
    assert tensorflow_model(["deep/model.keras", "README.md"]) == (None, "deep/model.keras")
    for paths in (["weights.h5"], ["a.keras", "b.keras"], ["saved_model.pb", "model.keras"], []):
        with pytest.raises(Refusal) as caught:
            tensorflow_model(paths)
        assert caught.value.reason is FailureReason.INVALID_LAYOUT


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"format": "graph-model"}', "tf2onnx"),
        (b'{"format": "layers-model"}', "load_keras_model"),
        (b"{", "SavedModel or .keras"),
        (b"[" * 100_000, "SavedModel or .keras"),
        (b"[]", "SavedModel or .keras"),
    ],
)
def test_tensorflow_js_is_known_and_refused_with_what_to_do(content: bytes, said: str) -> None:
    files = {"web/model.json": memoryview(content), "web/group1-shard1of1.bin": memoryview(b"")}
    assert is_tensorflow_js(files)
    failure = tensorflow_js.inspect(files, frozenset()).failure
    assert failure is not None
    assert failure.reason is FailureReason.TFJS_UNSUPPORTED
    assert said in failure.message


def test_files_are_listed_and_mapped_and_a_link_is_none(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/full").write_bytes(b"full")
    (tmp_path / "empty").write_bytes(b"")
    assert list_files(tmp_path) == ["deep/full", "empty"]
    mapped = map_files(tmp_path, list_files(tmp_path))
    assert {path: bytes(content) for path, content in mapped.items()} == {"deep/full": b"full", "empty": b""}
    with pytest.raises(Refusal, match="has 501 files"):
        map_files(tmp_path, ["empty"] * 501)
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="link is no file"):
        list_files(tmp_path)
