"""What is done of a job, and the result that is put together from it.

A chunk is an Arrow stream, whatever the result's format: it holds what the model said exactly, and is read back a chunk
at a time, so that a result of any size is written in constant memory.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from services.common.errors import FailedPrecondition
from services.common.pieces import CsvPieces, Pieces
from services.inference.jobs.models import FileFormat, RowError, RowResult
from services.inference.models import ANY, ResolvedVersion, TensorSpec

OUTPUT_PREFIX = "output."
_FIRST = ("row_index", "inference_id", "inference_row")
_LAST = ("error_reason", "error_message")
_ARROW_TYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float32", "FP32": "float32", "FP64": "float64",
}  # fmt: skip


def schema_of(version: ResolvedVersion, outputs: Sequence[str] = ()) -> Any:
    """Make the columns of a result: one for each output wanted, lists in it for what is deeper than a value a row."""
    import pyarrow as pa

    wanted = [spec for spec in version.signature.outputs if not outputs or spec.name in outputs]
    types = [("row_index", pa.int64()), ("inference_id", pa.string()), ("inference_row", pa.int64())]
    types += [(OUTPUT_PREFIX + spec.name, _column_type(spec)) for spec in wanted]
    return pa.schema([*types, ("error_reason", pa.string()), ("error_message", pa.string())])


def chunk_bytes(schema: Any, first_row: int, results: Sequence[RowResult]) -> bytes:
    """Write the rows of a chunk."""
    import pyarrow as pa

    names = [name.removeprefix(OUTPUT_PREFIX) for name in schema.names[len(_FIRST) : -len(_LAST)]]
    columns: list[list[Any]] = [
        list(range(first_row, first_row + len(results))),
        [result.inference_id or None for result in results],
        [result.inference_row if result.inference_id else None for result in results],
        *([_fitting(result.outputs.get(name), schema.field(OUTPUT_PREFIX + name).type) for result in results]
          for name in names),
        [result.error.reason if result.error else None for result in results],
        [result.error.message if result.error else None for result in results],
    ]  # fmt: skip
    try:
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
    except (pa.ArrowException, OverflowError) as error:
        sentence = f"the model's outputs are not what its signature says: {error}"[:500]
        raise FailedPrecondition(sentence, reason="OUTPUT_MISMATCH") from error
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))
    return sink.getvalue()


def rows_of(chunk: bytes) -> list[RowResult]:
    """Read the rows of a chunk."""
    import pyarrow as pa

    return [_row_of(row) for row in pa.ipc.open_stream(chunk).read_all().to_pylist()]


def _row_of(row: Mapping[str, Any]) -> RowResult:
    if row["error_reason"] is not None:
        return RowResult({}, RowError(row["error_reason"], row["error_message"]))
    outputs = {name.removeprefix(OUTPUT_PREFIX): value for name, value in row.items() if name.startswith(OUTPUT_PREFIX)}
    return RowResult(outputs, None, row["inference_id"] or "", row["inference_row"] or 0)


def compose(chunks: Iterable[bytes], schema: Any, output_format: FileFormat) -> Iterator[bytes]:
    """Write a result from its chunks, piece by piece."""
    import pyarrow as pa

    tables = (pa.ipc.open_stream(chunk).read_all() for chunk in chunks)
    writers: Mapping[FileFormat, Callable[[], Iterator[bytes]]] = {
        FileFormat.JSONL: lambda: _jsonl(tables),
        FileFormat.CSV: lambda: _csv(tables, schema),
        FileFormat.PARQUET: lambda: _parquet(tables, schema),
    }
    return writers[output_format]()


def _jsonl(tables: Iterable[Any]) -> Iterator[bytes]:
    for table in tables:
        lines = [json.dumps(_document(row), ensure_ascii=False, allow_nan=False) for row in table.to_pylist()]
        yield "".join(f"{line}\n" for line in lines).encode(errors="replace")


def _document(row: Mapping[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {"row_index": row["row_index"]}
    if row["error_reason"] is not None:
        document["error"] = {"reason": row["error_reason"], "message": row["error_message"]}
        return document
    if row["inference_id"] is not None:
        document["inference_id"] = row["inference_id"]
        document["inference_row"] = row["inference_row"]
    document["outputs"] = {
        name.removeprefix(OUTPUT_PREFIX): _json_value(value)
        for name, value in row.items()
        if name.startswith(OUTPUT_PREFIX)
    }
    return document


def _json_value(value: Any) -> Any:
    """Give what strict JSON can hold: a NaN or an infinity is a string, as in protobuf's own JSON."""
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _csv(tables: Iterable[Any], schema: Any) -> Iterator[bytes]:
    pieces = CsvPieces()
    pieces.write_rows([schema.names])
    for table in tables:
        pieces.write_rows([_cell(value) for value in row.values()] for row in table.to_pylist())
        yield pieces.taken()
    yield pieces.taken()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(_json_value(value), ensure_ascii=False)
    return ("true" if value else "false") if isinstance(value, bool) else value


def _parquet(tables: Iterable[Any], schema: Any) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pieces = Pieces()
    with pq.ParquetWriter(pa.PythonFile(pieces, mode="w"), schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
            yield pieces.taken()
    yield pieces.taken()


def _column_type(spec: TensorSpec) -> Any:
    import pyarrow as pa

    name = _ARROW_TYPES.get(spec.datatype)
    found = getattr(pa, "bool_" if name == "bool" else name)() if name else pa.string()
    drops_first = spec.shape[:1] in ((ANY,), (1,))
    for _ in range(max(0, len(spec.shape) - (1 if drops_first else 0))):
        found = pa.list_(found)
    return found


def _fitting(value: Any, column_type: Any) -> Any:
    """Give a value as its column takes it: what a runtime gives as another kind of value is written as JSON."""
    import pyarrow as pa

    if value is None or not pa.types.is_string(column_type) or isinstance(value, str):
        return value
    return json.dumps(_json_value(value), ensure_ascii=False, default=str)
