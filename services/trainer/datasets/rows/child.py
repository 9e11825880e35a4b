"""The process that reads one file of a stranger: `… child SETTINGS > rows`, a stream of Arrow.

What parses is imported before the sandbox closes, and the file is mapped; nothing of it is parsed before. A file that
is refused ends it with REFUSED, the last line of stderr saying why.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}

import pyarrow as pa

from services.common.children.complaints import NO_SECCOMP, OUT_OF_MEMORY, REFUSED, complaint
from services.common.children.sandbox import SandboxLimits, address_space_bytes, enter
from services.common.errors import DomainError, InvalidArgument, ResourceExhausted
from services.trainer.datasets.kinds import ColumnType, DatasetFormat
from services.trainer.datasets.rows.limits import RowLimits
from services.trainer.datasets.rows.parquet import guarded, parquet_batches
from services.trainer.datasets.rows.typed import text_batches

_LIBRARIES = ("numpy.ma", "numpy.random", "pyarrow.compute", "pyarrow.parquet", "_strptime", "encodings.utf_8_sig")
"""Imported by themselves on first use, which is too late in a sandbox."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the parent asks for; the memory is what the file may take beside the libraries."""

    file: str
    form: DatasetFormat
    declared: Mapping[str, ColumnType]
    limits: RowLimits
    memory_limit_bytes: int
    cpu_limit_s: int
    parent_pid: int
    delimiter: str = ""

    def written(self) -> str:
        """Write it as the child's argument."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Settings:
        """Read what `written` wrote."""
        said = json.loads(text)
        declared = {name: ColumnType(kind) for name, kind in said["declared"].items()}
        return cls(
            **said | {"form": DatasetFormat(said["form"]), "declared": declared, "limits": RowLimits(**said["limits"])}
        )


def main() -> None:
    """Read the settings, close the sandbox, read the file, answer, and leave without clean-up."""
    settings = Settings.read(sys.argv[1])
    answer = os.dup(1)  # the answer has the pipe to itself: what a library prints goes to stderr
    os.dup2(2, 1)
    for name in _LIBRARIES:
        importlib.import_module(name)
    data = _mapped(settings.file)
    memory_limit_bytes = settings.memory_limit_bytes + address_space_bytes()
    sandbox = enter(SandboxLimits(memory_limit_bytes, settings.cpu_limit_s), settings.parent_pid)
    if "seccomp" not in sandbox:
        sys.stderr.write(NO_SECCOMP + "\n")
    code = 0
    try:
        _answer(data, settings, answer)
    except (InvalidArgument, ResourceExhausted) as refusal:
        _complain(refusal)
        code = REFUSED
    except MemoryError:
        code = OUT_OF_MEMORY
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        _complain(guarded(error))
        code = REFUSED
    # The destructors of libraries have met a hostile file: the kernel cleans up after us.
    sys.stderr.flush()
    os._exit(code)


def _answer(data: memoryview, settings: Settings, answer: int) -> None:
    if settings.form is DatasetFormat.PARQUET:
        schema, batches = parquet_batches(data, settings.declared, settings.limits)
    else:
        schema, batches = text_batches(data, settings.form, settings.declared, settings.limits, settings.delimiter)
    with open(answer, "wb") as out, pa.ipc.new_stream(out, schema) as stream:
        for batch in batches:
            stream.write_batch(batch)


def _complain(refusal: DomainError) -> None:
    sys.stderr.write(complaint(refusal.reason, refusal.message, refusal.metadata.get("row", "")))


def _mapped(path: str) -> memoryview:
    with Path(path).open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


if __name__ == "__main__":
    main()
