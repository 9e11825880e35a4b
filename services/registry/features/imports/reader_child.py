"""The process that reads one file of a stranger: `… reader_child SETTINGS`, blocks of rows on stdout.

What parses is imported before the sandbox closes, and the file is mapped; nothing is parsed before. Each answer is a
letter, a length and as many bytes: B a block (an ImportFeaturesRequest), R what is wrong with the file, M no memory,
U no sandbox where one is demanded, and at last E.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}

from services.common.children.sandbox import SandboxLimits, address_space_bytes, enter
from services.common.errors import InvalidArgument
from services.registry.features.imports.batches import block_of
from services.registry.features.imports.models import FileFormat, SourceColumns
from services.registry.features.models import FeatureType

BLOCK_ROWS = 8_192
_LIBRARIES = ("numpy.ma", "pyarrow.compute", "pyarrow.csv", "pyarrow.parquet")
"""Imported by themselves on first use, which is too late in a sandbox."""
_CSV_BLOCK_BYTES = 4 * 1024 * 1024
_FIRST_LINE_BYTES = 256 * 1024
_FOOTER_BYTES = 16 * 1024 * 1024


def main() -> None:
    """Read the settings, close the sandbox, read the file, answer, and leave without clean-up."""
    settings = json.loads(sys.argv[1])
    answer = os.dup(1)  # the answer has the pipe to itself: what a library prints goes to stderr
    os.dup2(2, 1)
    for name in _LIBRARIES:
        importlib.import_module(name)
    _warm_up()
    data = _mapped(settings["file"])
    limits = SandboxLimits(settings["memory_limit_bytes"] + address_space_bytes(), settings["cpu_limit_s"])
    protected = "seccomp" in enter(limits, settings["parent_pid"])
    try:
        if settings["require_sandbox"] and not protected:
            _send(answer, b"U", b"")
        else:
            for block in _blocks(data, settings):
                _send(answer, b"B", block)
            _send(answer, b"E", b"")
    except InvalidArgument as refusal:
        _send(answer, b"R", json.dumps([refusal.reason, refusal.message]).encode())
    except MemoryError:
        _send(answer, b"M", b"")
    # The destructors of libraries have met a hostile file: the kernel cleans up after us.
    os._exit(0)


def _blocks(data: memoryview, settings: dict[str, Any]) -> Iterator[bytes]:
    import pyarrow as pa

    kinds = {name: FeatureType(kind) for name, kind in settings["kinds"].items()}
    said = settings["columns"]
    columns = SourceColumns(said["key"], said["event_time"], said["create_time"], frozenset(said["ignored"]))
    read = _csv if settings["format"] == FileFormat.CSV else _parquet
    row = 0
    try:
        for batch in read(data, kinds):
            for begin in range(0, batch.num_rows, BLOCK_ROWS):
                part = batch.slice(begin, BLOCK_ROWS)
                yield block_of(part, kinds, columns, settings["now_us"]).SerializeToString()
                row += part.num_rows
    except MemoryError:  # Arrow's own is an ArrowException as well
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, TypeError) as error:
        sentence = f"after row {row:,} the file cannot be read as {settings['format']}: {str(error)[:500]}"
        raise InvalidArgument(sentence, reason="MALFORMED_FILE") from error


def _csv(data: memoryview, kinds: dict[str, FeatureType]) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import csv

    plain = {FeatureType.FLOAT64: pa.float64(), FeatureType.INT64: pa.int64(), FeatureType.BOOL: pa.bool_()}
    # What is no feature is an entity, a time, or left out: a text is as good as any.
    first = bytes(data[:_FIRST_LINE_BYTES]).partition(b"\n")[0]
    if not first.strip():
        raise InvalidArgument("the file is empty; its first line names the columns", reason="MALFORMED_FILE")
    names = csv.read_csv(pa.py_buffer(first + b"\n")).column_names
    if len(set(names)) < len(names):
        raise InvalidArgument("two columns have the same name", reason="MALFORMED_FILE")
    types = {name: plain.get(kinds.get(name, FeatureType.STRING), pa.string()) for name in names}
    reader = csv.open_csv(
        pa.BufferReader(pa.py_buffer(data)),
        read_options=csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )
    yield from reader


def _parquet(data: memoryview, _: object) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    bounds = {"thrift_string_size_limit": _FOOTER_BYTES, "thrift_container_size_limit": 1_000_000}
    file = parquet.ParquetFile(pa.py_buffer(data), page_checksum_verification=True, pre_buffer=False, **bounds)
    names = file.schema_arrow.names
    if len(set(names)) < len(names):
        raise InvalidArgument("two columns have the same name", reason="MALFORMED_FILE")
    yield from file.iter_batches(batch_size=BLOCK_ROWS, use_threads=False)


def _warm_up() -> None:
    """Have Arrow start the threads that its CSV reader needs, while that can be done."""
    import pyarrow as pa
    from pyarrow import csv

    pa.enable_signal_handlers(False)
    pa.set_io_thread_count(1)
    pa.set_cpu_count(1)
    for _ in csv.open_csv(pa.py_buffer(b"a\n1\n"), read_options=csv.ReadOptions(use_threads=False)):
        pass


def _mapped(path: str) -> memoryview:
    with Path(path).open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _send(out: int, kind: bytes, content: bytes) -> None:
    remaining = memoryview(kind + struct.pack(">I", len(content)) + content)
    while remaining:
        remaining = remaining[os.write(out, remaining) :]


if __name__ == "__main__":
    main()
