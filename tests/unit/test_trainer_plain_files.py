"""What a recipe leaves is read by whoever keeps it or hands it in, and no link in it leads to anybody else's files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from penstock.training_worker import Source, TrainingWorkerClient
from services.trainer.executing.plain_files import plain_files
from services.trainer.faults import TrainingFailed
from services.trainer.task import CheckpointWritten, RunFolder
from services.trainer.worker.reporting import Reporting


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "token").write_text("the worker's token")
    folder = RunFolder(tmp_path / "run")
    folder.make()
    (folder.checkpoint / "part").mkdir()
    (folder.checkpoint / "part" / "token").write_text("the recipe's own")
    return folder


class Uploads:
    """In the place of the trainer: what was handed in."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def report(self, *told: Any, **more: Any) -> bool:
        return False

    def upload(self, token: str, kind: str, files: Mapping[str, Source], *, epoch: int) -> None:
        for path, source in files.items():
            with source.open("rb") as file:
                self.files[path] = file.read()


def handed_in(folder: RunFolder) -> dict[str, bytes]:
    uploads = Uploads()
    with Reporting(cast(TrainingWorkerClient, uploads), "t", folder, 60.0) as reporting:
        reporting.tell(CheckpointWritten(1))
    return uploads.files


def test_a_checkpoint_is_handed_in(folder: RunFolder) -> None:
    assert handed_in(folder) == {"part/token": b"the recipe's own"}


@pytest.mark.parametrize("target", ["token", ""])
def test_a_link_in_a_checkpoint_is_refused(folder: RunFolder, target: str) -> None:
    (folder.checkpoint / "state").symlink_to(folder.path.parent / "secret" / target)
    with pytest.raises(TrainingFailed, match="no plain file") as refused:
        handed_in(folder)
    assert refused.value.reason == "INVALID_OUTCOME"


def test_a_pipe_in_a_checkpoint_is_refused(folder: RunFolder) -> None:
    os.mkfifo(folder.checkpoint / "state")
    with pytest.raises(TrainingFailed, match="no plain file"):
        handed_in(folder)


def test_a_link_that_comes_after_the_look_is_not_followed(folder: RunFolder) -> None:
    found = {plain.path: plain for plain in plain_files(folder.checkpoint)}
    assert list(found) == ["part", "part/token"]
    (folder.checkpoint / "part").rename(folder.checkpoint / "aside")
    (folder.checkpoint / "part").symlink_to(folder.path.parent / "secret")
    with pytest.raises(TrainingFailed, match="no plain file"):
        found["part/token"].open()
    (folder.checkpoint / "part").unlink()
    (folder.checkpoint / "part").mkdir()
    (folder.checkpoint / "part" / "token").symlink_to(folder.path.parent / "secret" / "token")
    with pytest.raises(TrainingFailed, match="no plain file"):
        found["part/token"].open()
