"""The private copies of versions that the validator's child is put into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from services.common.blobs import FileBlobStore
from services.common.errors import FailedPrecondition, NotFound
from services.registry.models import File
from services.registry.validation.report import FailureReason, Refusal
from services.registry.validation.workspace import Workspace


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobStore:
    store = FileBlobStore(tmp_path / "blobs")
    store.prepare()
    return store


@pytest.fixture
def stored(blobs: FileBlobStore) -> Callable[..., list[File]]:
    def store(*paths: str) -> list[File]:
        blob = blobs.put([b"bytes"], max_bytes=5)
        return [File(path, blob.sha256, blob.size_bytes) for path in paths]

    return store


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "copies")
    made.open()
    return made


def test_files_lie_as_they_are_registered_for_nobody_else_and_go_again(
    workspace: Workspace, blobs: FileBlobStore, stored: Callable[..., list[File]], tmp_path: Path
) -> None:
    with workspace.copy(blobs, stored("model.onnx", "deep/er/weights.data")) as folder:
        assert (folder / "model.onnx").read_bytes() == (folder / "deep/er/weights.data").read_bytes() == b"bytes"
        # Whoever was put into it reads it under any uid; nobody comes to it.
        assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder, folder / "deep/er")] == [
            0o700,
            0o755,
            0o755,
        ]
        assert (folder / "model.onnx").stat().st_mode & 0o777 == 0o444
    assert not list((tmp_path / "copies").iterdir())


@pytest.mark.parametrize(
    "paths",
    [("../outside",), ("/etc/outside",), ("a//b",), ("a/./b",), ("",), ("a", "a/b"), ("a/b", "a"), ("x" * 300,)],
)
def test_a_path_that_cannot_lie_in_the_folder_is_refused(
    workspace: Workspace,
    blobs: FileBlobStore,
    stored: Callable[..., list[File]],
    tmp_path: Path,
    paths: tuple[str, ...],
) -> None:
    with pytest.raises(Refusal) as caught, workspace.copy(blobs, stored(*paths)):
        pass
    assert caught.value.reason is FailureReason.INVALID_LAYOUT
    assert not list((tmp_path / "copies").iterdir())


def test_a_folder_that_cannot_be_made_is_named_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FailedPrecondition, match="PENSTOCK_VALIDATION_DIR") as caught:
        Workspace(tmp_path / "file/copies").open()
    assert caught.value.reason == "VALIDATION_DIR_UNUSABLE"


def test_bytes_that_are_gone_leave_no_copy(workspace: Workspace, blobs: FileBlobStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound), workspace.copy(blobs, [File("model.onnx", "0" * 64, 5)]):
        pass
    assert not list((tmp_path / "copies").iterdir())


def test_the_next_to_start_sweeps_what_is_of_nobody_and_nothing_else(
    workspace: Workspace, blobs: FileBlobStore, stored: Callable[..., list[File]], tmp_path: Path
) -> None:
    left, foreign = tmp_path / "copies/penstock-validate-left", tmp_path / "copies/other"
    (left / "files").mkdir(parents=True)
    foreign.mkdir()
    with workspace.copy(blobs, stored("model.onnx")) as folder:
        Workspace(tmp_path / "copies").open()
        assert (folder / "model.onnx").exists()
    assert list((tmp_path / "copies").iterdir()) == [foreign]
