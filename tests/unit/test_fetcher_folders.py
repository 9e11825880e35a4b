"""Folders as a source: what is read of them, which names are taken, and what changes or leads out meanwhile."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import DomainError, InvalidArgument
from services.fetcher.faults import (
    FileTooLarge,
    Forbidden,
    ModelNotFound,
    RegistrationRefused,
    SourceChanged,
)
from services.fetcher.models import Reference
from services.fetcher.sources import filesystem
from services.fetcher.sources.filesystem import FilesystemSource
from services.fetcher.sources.source import Found, Stopping
from services.registry.file_names import FileNames
from tests.flows import all_of, pieces


def folder_source(root: Path) -> FilesystemSource:
    return FilesystemSource([f"file://{root}"])


def looked_at(root: Path) -> Found:
    return folder_source(root).find(Reference("filesystem", str(root)), Stopping())


def handles_in(root: Path) -> int:
    """Count what this process has open there."""
    count = 0
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            count += handle.readlink().is_relative_to(root)
    return count


def test_a_folder_of_many_folders_needs_few_handles(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:03}").mkdir()
    (tmp_path / "000" / "graph.onnx").write_bytes(b"x")
    counts: list[int] = []
    stopping = Stopping(check=lambda: counts.append(handles_in(tmp_path)))
    plan = folder_source(tmp_path).find(Reference("filesystem", str(tmp_path)), stopping).plan
    assert [file.path for file in plan.files] == ["000/graph.onnx"]
    assert len(counts) == 301
    assert max(counts) <= 2


def test_a_folder_leaves_no_handle_open(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "graph.onnx").write_bytes(b"x")
    file = looked_at(tmp_path).plan.files[0]
    with folder_source(tmp_path).open(file, 0, Stopping()) as flow:
        assert all_of(flow) == b"x"
    with pytest.raises(DomainError):
        folder_source(tmp_path).find(Reference("filesystem", f"{tmp_path}/deep/none/x"), Stopping())
    assert handles_in(tmp_path) == 0


@pytest.mark.parametrize("limit", ["MAX_ENTRIES", "MAX_FILES", "MAX_DEPTH"])
def test_a_folder_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    inner = tmp_path / "1" / "2" / "3" / "4"
    inner.mkdir(parents=True)
    for number in range(5):
        (inner / f"{number}.bin").write_bytes(b"x")
    assert len(looked_at(tmp_path).plan.files) == 5
    monkeypatch.setattr(filesystem, limit, 3)
    with pytest.raises(FileTooLarge):
        looked_at(tmp_path)


def test_names_that_are_no_text_are_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"x")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b.onnx"))).write_bytes(b"x")
    told = looked_at(tmp_path)
    assert [file.path for file in told.plan.files] == ["graph.onnx"]
    assert told.warnings == ("\\udcff\\x1b.onnx is left out: its name is not UTF-8",)


def test_many_that_are_left_out_are_counted(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"x")
    for number in range(60):
        (tmp_path / f"{number:02}").symlink_to("/etc")
    warnings = looked_at(tmp_path).warnings
    assert (len(warnings), warnings[-1]) == (51, "10 more are left out")


@pytest.mark.parametrize("change", [lambda f: f.write_bytes(b"b" * 5), lambda f: f.write_bytes(b"b" * 9_000_000)])
def test_a_file_that_changes_while_it_is_read_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    monkeypatch.setattr(filesystem, "MOST_AT_ONCE", 2)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"a" * 5)
    os.utime(path, (1, 1))
    file = looked_at(tmp_path).plan.files[0]
    with folder_source(tmp_path).open(file, 0, Stopping()) as flow:
        chunks = pieces(flow)
        came = next(chunks)
        change(path)
        with pytest.raises(SourceChanged):
            came += b"".join(chunks)
    with pytest.raises(SourceChanged), folder_source(tmp_path).open(file, 0, Stopping()):
        pass


def test_a_folders_files_have_names_that_the_registry_takes(tmp_path: Path) -> None:
    for name in ("model.onnx", "a\nb.txt", "back\\slash", "\x1b[2J", "l" * 255):
        (tmp_path / name).write_bytes(b"x")
    source = FilesystemSource([tmp_path.as_uri()])
    told = source.find(Reference("filesystem", str(tmp_path)), Stopping())
    assert [file.path for file in told.plan.files] == ["l" * 255, "model.onnx"]
    assert sorted(warning.partition(" is left out")[0] for warning in told.warnings) == [
        "\\x1b[2J", "a\\nb.txt", "back\\slash",
    ]  # fmt: skip
    with pytest.raises(RegistrationRefused, match="can be no file of a version"):
        source.find(Reference("filesystem", str(tmp_path / "back\\slash")), Stopping())
    deep = tmp_path.joinpath("deep", *["d" * 200] * 3)
    deep.mkdir(parents=True)
    (deep / "m").write_bytes(b"x")
    with pytest.raises(ModelNotFound):  # its path is longer than any of a version's
        source.find(Reference("filesystem", str(tmp_path / "deep")), Stopping())


@pytest.mark.parametrize(
    "names",
    [("README.md", "readme.md"), ("gr\u00f6\u00dfe", "gro\u0308sse"), ("Assets/x", "assets/y"), ("a/B/c", "a/b")],
)
def test_files_of_a_folder_that_some_file_system_mixes_up_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(RegistrationRefused, match="some file systems mix them up"):
        FilesystemSource([tmp_path.as_uri()]).find(Reference("filesystem", str(tmp_path)), Stopping())
    registry = FileNames()
    registry.take(names[0])
    with pytest.raises(InvalidArgument):
        registry.take(names[1])


def test_a_fault_of_whoever_reads_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"a")
    file = looked_at(tmp_path).plan.files[0]
    with (
        pytest.raises(OSError, match="No space left"),
        folder_source(tmp_path).open(file, 0, Stopping()),
    ):
        raise OSError(28, "No space left on device")


def test_a_link_put_where_a_file_was_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "m.onnx").write_bytes(b"a")
    file = looked_at(tmp_path).plan.files[0]
    (tmp_path / "in").rename(tmp_path / "was")
    (tmp_path / "in").symlink_to(tmp_path / "was")
    with pytest.raises(Forbidden), folder_source(tmp_path).open(file, 0, Stopping()):
        pass
