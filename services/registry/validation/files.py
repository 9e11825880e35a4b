"""A version's files as the child has them: looked at, and where the sandbox allows no opening, mapped before."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from .report import FailureReason, Refusal

_MOST_FILES = 500
Files: TypeAlias = Mapping[str, memoryview]
"""The bytes of each file, by its path in the version with `/` between folders."""


def list_files(folder: Path) -> list[str]:
    """Name every file below `folder`; raises ValueError for what is neither a file nor a folder."""
    found = []
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                found.append(path.relative_to(folder).as_posix())
            elif not stat.S_ISDIR(mode):
                raise ValueError(f"{path.relative_to(folder)} is no file")
    return sorted(found)


def map_files(folder: Path, paths: list[str]) -> Files:
    """Map every file into memory, to be read when no file can be opened any more; nothing is read yet.

    Raises Refusal: INVALID_LAYOUT, for more files than a process may have open.
    """
    if len(paths) > _MOST_FILES:
        raise Refusal(
            FailureReason.INVALID_LAYOUT,
            f"the version has {len(paths):,} files, and at most {_MOST_FILES} are opened; keep the tensors of a graph "
            "in one file (onnx.save with all_tensors_to_one_file)",
        )
    return {path: _mapped(folder / path) for path in paths}


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
