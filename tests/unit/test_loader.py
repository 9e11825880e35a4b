from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from services.common.errors import FailedPrecondition
from services.inference.artifacts.artifacts import ArtifactCache
from services.inference.composition import open_sessions
from services.inference.runtimes.onnx_runtime import OnnxRuntime
from services.inference.sessions.loader import ModelLoader
from services.inference.settings import InferenceSettings
from tests.serving import BlobShelf, onnx_loader
from tests.testdata import models


def test_the_files_stay_on_disk_for_as_long_as_their_session_lives(tmp_path: Path) -> None:
    shelf = BlobShelf()
    loader = onnx_loader(shelf, tmp_path)
    version = shelf.version({"model.onnx": models.linear()})
    with ExitStack() as resources:
        session = loader(version, resources)
        assert session.signature == version.signature
        assert (tmp_path / "models" / version.digest / "model.onnx").exists()


def test_a_runtime_is_built_with_the_first_model_and_once(tmp_path: Path) -> None:
    shelf = BlobShelf()
    built: list[OnnxRuntime] = []

    def build() -> OnnxRuntime:
        built.append(OnnxRuntime(intra_op_threads=1))
        return built[-1]

    artifacts = ArtifactCache(tmp_path, shelf.fetch)
    artifacts.open()
    loader = ModelLoader(artifacts, build)
    assert built == []
    with ExitStack() as resources:
        for _ in range(2):
            loader(shelf.version({"model.onnx": models.linear()}), resources)
    assert len(built) == 1


def test_a_runtime_that_is_not_installed_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    def build() -> OnnxRuntime:
        raise ModuleNotFoundError("No module named 'fortran'")

    loader = ModelLoader(ArtifactCache(tmp_path, BlobShelf().fetch), build)
    with pytest.raises(FailedPrecondition, match="No module named 'fortran'") as caught:
        loader.runtime()
    assert caught.value.reason == "FRAMEWORK_NOT_SERVED"


def test_what_was_fetched_stays_on_disk_until_it_is_let_go(tmp_path: Path) -> None:
    shelf = BlobShelf()
    loader = onnx_loader(shelf, tmp_path)
    version = shelf.version({"model.onnx": models.linear()})
    with ExitStack() as resources:
        loader.fetch(version, resources)
        assert (tmp_path / "models" / version.digest / "model.onnx").exists()
        loader(version, resources)
    assert len(shelf.asked) == 1


def test_the_services_caches_fetch_before_they_make_room(tmp_path: Path) -> None:
    settings = InferenceSettings(cache_dir=tmp_path)
    with ExitStack() as stack:
        for cache in open_sessions(settings, stack).caches.values():
            assert cache._fetch is not None
