"""The ready-made suites of examples/suites: their files are built as they name them, and a real registry takes them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import penstock
from examples.models.__main__ import SETS, build_set
from penstock.cli.suites.schema import PathSource, read_suite
from tests.services import Running

pytestmark = pytest.mark.slow
SUITES = Path(__file__).resolve().parents[2] / "examples" / "suites"
BUILT = ("minimal", "testing", "benchmarking")
NAN = float("nan")
BIG = 2**53 + 1


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite files, and beside them the models that they name."""
    folder = tmp_path_factory.mktemp("suites")
    shutil.copytree(SUITES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("models"))
    for name in BUILT:
        build_set(name, folder / "models")
    return folder


def run(path: Path, feeds: Mapping[str, Any]) -> list[Any]:
    outputs: list[Any] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, dict(feeds))
    return outputs


def test_every_suite_has_a_set_and_every_set_a_suite() -> None:
    assert {path.stem for path in SUITES.glob("*.yaml")} == set(SETS)


@pytest.mark.parametrize("name", BUILT)
def test_a_suite_names_what_its_set_builds(name: str, suites: Path, tmp_path: Path) -> None:
    suite = read_suite(suites / f"{name}.yaml")
    sources = [version.source for model in suite.models for version in model.versions]
    named = {source.path for source in sources if isinstance(source, PathSource)}
    built = {suites / "models" / path.relative_to(tmp_path).parts[0] for path in build_set(name, tmp_path)}
    assert named == built


@pytest.mark.parametrize("name", ["testing", "benchmarking"])
def test_building_again_gives_the_same_bytes(name: str, suites: Path, tmp_path: Path) -> None:
    for path in build_set(name, tmp_path):
        assert path.read_bytes() == (suites / "models" / path.relative_to(tmp_path)).read_bytes(), path


def test_the_models_do_what_they_are_described_to_do(suites: Path) -> None:
    models = suites / "models"
    x = np.array([[NAN, np.inf, -0.0, 1]], np.float32)
    np.testing.assert_array_equal(run(models / "identity-1.0.0.onnx", {"x": x})[0], x)
    one, two = np.array([[1, 2, BIG]]), np.array([[1, -2, 1]])
    assert run(models / "add-1.0.0.onnx", {"a": one, "b": two})[0].tolist() == [[2, 0, BIG + 1]]
    names = np.array([["Ada"], ["Zoë"]], dtype=object)
    assert run(models / "greet-1.0.0.onnx", {"name": names})[0].tolist() == [["hello, Ada"], ["hello, Zoë"]]
    a, b = np.array([[1, 2, 3, 4]], np.float32), np.array([[4, 3, 2, 1]], np.float32)
    total, larger = run(models / "two-by-two-1.0.0.onnx", {"a": a, "b": b})
    assert (total.tolist(), larger.tolist()) == ([[20]], [[False, False, True, True]])
    assert run(models / "centred-1.0.0.onnx", {"x": np.concatenate([a, b])})[0].tolist()[0] == [-1.5, -0.5, 0.5, 1.5]
    kernel = np.frombuffer((models / "external-1.0.0" / "weights.bin").read_bytes(), "<f4").reshape(64, 8)
    [y] = run(models / "external-1.0.0" / "model.onnx", {"x": np.eye(64, dtype=np.float32)})
    np.testing.assert_array_equal(y, kernel)
    [scores] = run(models / "resnet18-1.0.0.onnx", {"image": np.ones((1, 3, 224, 224), np.float32)})
    assert scores.shape == (1, 1000)
    assert 0.1 < scores.std() < 100  # signals neither die out nor explode on their way


def test_a_registry_takes_every_version(suites: Path, registry: Running) -> None:
    with penstock.Client(registry=registry.address) as client:
        dependent = []
        for spec in read_suite(suites / "testing.yaml").models:
            for each in spec.versions:
                assert isinstance(each.source, PathSource)
                version = client.registry.register_version(
                    spec.name, each.version, each.source.path, framework=each.framework, columns=each.columns
                )
                dependent += [] if version.validation.rows_independent else [spec.name]
        assert dependent == ["test-centred"]
