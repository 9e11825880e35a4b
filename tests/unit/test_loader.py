from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from services.common.errors import FailedPrecondition
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


def test_a_framework_without_a_runtime_is_refused(tmp_path: Path) -> None:
    version = replace(BlobShelf().version({"model.onnx": b"graph"}), framework="fortran")
    with ExitStack() as resources, pytest.raises(FailedPrecondition, match="no runtime for fortran; it has onnx"):
        onnx_loader(BlobShelf(), tmp_path)(version, resources)
