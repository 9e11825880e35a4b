"""The process that reads one Parquet file of a stranger: `… parquet_child SETTINGS < IGNORED > frame`.

What parses is imported before the sandbox closes, and the file is mapped; nothing of it is parsed before. The answer is
a frame, or what is wrong with the file; a crash is no answer, and the parent says so.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}

from services.common.children.sandbox import SandboxLimits, address_space_bytes, enter
from services.common.errors import InvalidArgument
from services.monitoring.profiles.frame_bytes import FRAME, NO_SECCOMP, OUT_OF_MEMORY, REFUSAL, UNPROTECTED, frame_bytes
from services.monitoring.profiles.parquet import parquet_frames
from services.monitoring.profiles.sampling import RowSample

_LIBRARIES = ("numpy.ma", "numpy.random", "pyarrow.compute", "pyarrow.parquet")
"""Imported by themselves on first use, which is too late in a sandbox."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the parent asks for; the memory is what the file may take beside the libraries."""

    file: str
    most_columns: int
    require_sandbox: bool
    memory_limit_bytes: int
    cpu_limit_s: int
    parent_pid: int


def main() -> None:
    """Read the settings, close the sandbox, read the file, answer, and leave without clean-up."""
    settings = Settings(**json.loads(sys.argv[1]))
    ignored = frozenset(json.load(sys.stdin))
    answer = os.dup(1)  # the answer has the pipe to itself: what a library prints goes to stderr
    os.dup2(2, 1)
    for name in _LIBRARIES:
        importlib.import_module(name)
    data = _mapped(settings.file)
    memory_limit_bytes = settings.memory_limit_bytes + address_space_bytes()
    sandbox = enter(SandboxLimits(memory_limit_bytes, settings.cpu_limit_s), settings.parent_pid)
    try:
        _write(answer, _answer(data, ignored, settings, sandbox))
    except InvalidArgument as refusal:
        _write(answer, [REFUSAL, json.dumps([refusal.reason, refusal.message]).encode()])
    except MemoryError:
        _write(answer, [OUT_OF_MEMORY])
    # The destructors of libraries have met a hostile file: the kernel cleans up after us.
    os._exit(0)


def _answer(data: memoryview, ignored: frozenset[str], settings: Settings, sandbox: Collection[str]) -> Iterator[bytes]:
    if "seccomp" not in sandbox:
        sys.stderr.write(NO_SECCOMP)
        if settings.require_sandbox:
            yield UNPROTECTED
            return
    sample = RowSample()
    for frame in parquet_frames(data, ignored, settings.most_columns):
        sample.add(frame)
    yield FRAME
    yield from frame_bytes(sample.frame())


def _mapped(path: str) -> memoryview:
    with Path(path).open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _write(out: int, parts: Iterable[bytes]) -> None:
    for part in parts:
        remaining = memoryview(part)
        while remaining:
            remaining = remaining[os.write(out, remaining) :]


if __name__ == "__main__":
    main()
