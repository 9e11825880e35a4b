"""Blobs that pass through one service: past the system's cache, addressed by BLAKE3, whatever their size and memory."""

from __future__ import annotations

import fcntl
import os
from mmap import mmap
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from services.common.blobs import Blob, open_passing_blobs
from services.common.errors import DataLoss

PAGE = 4096
ALIGNED = mmap(-1, 3 * PAGE)
ALIGNED.write(os.urandom(3 * PAGE))


@pytest.mark.parametrize(
    "chunks",
    [
        [memoryview(ALIGNED)],
        [memoryview(ALIGNED)[: PAGE + 9]],
        [memoryview(ALIGNED)[:PAGE], memoryview(ALIGNED)[1:7], memoryview(ALIGNED)[PAGE:]],
        [b"bytes that lie anywhere"],
        [],
    ],
)
def test_any_memory_is_stored(tmp_path: Path, chunks: list[memoryview | bytes]) -> None:
    content = b"".join(chunks)
    taken: list[bool] = []
    store = open_passing_blobs(tmp_path.as_uri(), prefix="fetcher")
    blob = store.put(
        chunks, max_bytes=1 << 20, on_taken=lambda: taken.append(store.exists(blake3(content).hexdigest()))
    )
    assert blob == Blob(blake3(content).hexdigest(), len(content))
    assert b"".join(store.open(blob.sha256)) == content
    assert taken == [False], "once, before all the rest of the work"


def test_a_file_system_that_has_no_such_way_takes_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, control = list[int](), fcntl.fcntl

    def refusing(file: Any, command: int, value: int = 0) -> int:
        if command == fcntl.F_SETFL:
            asked.append(value)
            raise OSError(22, "Invalid argument")
        return control(file, command, value)

    monkeypatch.setattr(fcntl, "fcntl", refusing)
    store = open_passing_blobs(tmp_path.as_uri(), prefix="fetcher")
    blob = store.put([memoryview(ALIGNED)], max_bytes=1 << 20)
    assert b"".join(store.open(blob.sha256)) == ALIGNED[:]
    assert asked


def test_what_was_damaged_is_found(tmp_path: Path) -> None:
    store = open_passing_blobs(tmp_path.as_uri(), prefix="fetcher")
    blob = store.put([b"right"], max_bytes=9)
    (path,) = tmp_path.rglob(blob.sha256)
    path.write_bytes(b"wrong")
    with pytest.raises(DataLoss):
        list(store.open(blob.sha256))
