"""Live traffic as rows: what a model was asked, what it answered, and what really happened."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from penstock import Client
from services.trainer.datasets.faults import BuildFailed, MonitoringUnavailable, asked_until_stopped, asking
from services.trainer.datasets.kinds import ColumnType
from services.trainer.datasets.models import TrafficSource
from services.trainer.datasets.rows.limits import RowLimits
from services.trainer.task import Stopping

INFERENCE_ID: Final = "inference_id"
TYPES: Final[Mapping[str, ColumnType]] = {
    INFERENCE_ID: ColumnType.STRING,
    "event_time": ColumnType.TIMESTAMP,
    "model_version": ColumnType.STRING,
    "confidence": ColumnType.FLOAT64,
}
OWN: Final = (*TYPES, "prediction")
"""Columns that a row of traffic has beside features and label."""
LABEL: Final = "label"
EMBEDDING_DIMENSIONS: Final = 16
"""From so many columns on, a tensor whose columns have no names is one list."""
_READ: Final = (
    "inference_id",
    "time",
    "version",
    "row_count",
    "confidence",
    "error_code",
    "outcomes",
    "feedback",
    "features",
)
_BATCH_EVENTS: Final = 1_000
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a version takes, by its signature: how the columns of its only input are called."""

    columns: Sequence[str] = ()


class Traffic:
    """Reads traffic through monitoring, and the names of columns through the registry."""

    def __init__(self, open_client: Callable[[], Client], limits: RowLimits) -> None:
        self._open_client = open_client
        self._limits = limits

    def write(self, source: TrafficSource, folder: Path, stopping: Stopping, check: Callable[[int], None]) -> Path:
        """Write the rows as lines of JSON; `check` is told how many were looked at, and may raise.

        Raises:
            MonitoringUnavailable: tried again.
            BuildFailed: monitoring does not know the model, there is no such row, or there are more than a dataset may
                have (TOO_LARGE).
        """
        out = folder / "traffic.jsonl"
        with asked_until_stopped(self._open_client, stopping) as client:
            exported = folder / "events.parquet"
            with asking(MonitoringUnavailable, "monitoring"), exported.open("xb") as into:
                chunks = client.monitoring.exports.event_chunks(
                    source.model, "PARQUET", from_time=source.start_time, to_time=source.end_time, payloads=True
                )
                with closing(chunks) as pieces:
                    exported_bytes = 0
                    for piece in pieces:
                        check(0)
                        exported_bytes += len(piece)
                        self._check_bytes(exported_bytes)
                        into.write(piece)
            inputs = _InputNames(client, source.model)
            rows = _chosen(_rows(exported, source, inputs, check), source.max_rows)
            with out.open("xb") as lines:
                count = 0
                for count, row in enumerate(rows, 1):
                    if count > self._limits.max_rows:
                        raise _too_much(f"{self._limits.max_rows:,} rows")
                    lines.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                    self._check_bytes(lines.tell())
        exported.unlink()
        if not count:
            wanted = "labelled prediction" if source.labelled_only else "prediction"
            sentence = (
                f"no {wanted} of {source.model} with captured features lies between {source.start_time:%Y-%m-%d %H:%M} "
                f"and {source.end_time:%Y-%m-%d %H:%M} UTC; look further back, or record feedback first"
            )
            raise BuildFailed(sentence, reason="NO_ROWS")
        return out

    def _check_bytes(self, size_bytes: int) -> None:
        if size_bytes > self._limits.max_unpacked_bytes:
            raise _too_much(f"{self._limits.max_unpacked_bytes:,} bytes")


def _too_much(allowed: str) -> BuildFailed:
    sentence = f"the live traffic is more than the {allowed} that are allowed; choose a shorter window, or fewer rows"
    return BuildFailed(sentence, reason="TOO_LARGE")


class _InputNames:
    """Asks the registry once a version how the columns of its input are called."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._model = model
        self._known: dict[str, Sequence[str]] = {}

    def of(self, version: str) -> Sequence[str]:
        """Give the names; () where nobody said them, or where the version has gone."""
        if version not in self._known:
            self._known[version] = self._asked(version) if version else ()
        return self._known[version]

    def _asked(self, version: str) -> Sequence[str]:
        try:
            with asking(MonitoringUnavailable, "the registry"):
                found = self._client.registry.get_version(self._model, version)
        except BuildFailed:
            return ()
        inputs = found.signature.inputs
        return tuple(inputs[0].columns) if len(inputs) == 1 else ()


def _rows(path: Path, source: TrafficSource, inputs: _InputNames, check: Callable[[int], None]) -> Iterator[Row]:
    seen = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_EVENTS, columns=list(_READ)):
            for event in batch.to_pylist():
                if event["error_code"] or event["features"] is None:
                    continue
                if source.versions and event["version"] not in source.versions:
                    continue
                for row in event_rows(event, inputs.of(event["version"])):
                    seen += 1
                    if _wanted(row, source):
                        yield row
            check(seen)


def event_rows(event: Mapping[str, Any], columns: Sequence[str]) -> Iterator[Row]:
    """Give the rows of an event as monitoring exports it; `columns` names those of its only input."""
    count = max(1, event["row_count"])
    features = features_of(json.loads(event["features"]), count, columns)
    outcomes = json.loads(event["outcomes"]) if event["outcomes"] else []
    feedback = {entry["row"]: entry for entry in json.loads(event["feedback"] or "[]")}
    time: datetime = event["time"]
    for number in range(count):
        prediction = outcomes[number] if number < len(outcomes) else None
        said = feedback.get(number, {})
        label = said.get("actual_outcome")
        if label is None and said.get("correct"):
            label = prediction
        label, prediction = _exact(label), _exact(prediction)
        yield {
            **{name: values[number] for name, values in features.items()},
            LABEL: label,
            "prediction": prediction,
            "confidence": event["confidence"],
            "event_time": time.astimezone(UTC).isoformat(),
            "inference_id": event["inference_id"],
            "model_version": event["version"],
        }


def features_of(payload: Mapping[str, Any], count: int, columns: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Give each feature's values, one a row, of a payload as monitoring writes it as JSON."""
    found: dict[str, Sequence[Any]] = {}
    for name, value in payload.items():
        rows = value if isinstance(value, list) and len(value) == count else None
        if rows is None:
            rows = [value] if count == 1 else [None] * count
        widths = {len(row) if isinstance(row, list) else 0 for row in rows}
        width = widths.pop() if len(widths) == 1 else 0
        if not width:
            found[name] = rows
        elif len(payload) == 1 and len(columns) == width:
            found |= {column: [row[place] for row in rows] for place, column in enumerate(columns)}
        elif width == 1:
            found[name] = [row[0] for row in rows]
        elif width < EMBEDDING_DIMENSIONS:
            found |= {f"{name}[{place}]": [row[place] for row in rows] for place in range(width)}
        else:
            found[name] = rows
    return {name: values for name, values in found.items() if name not in OWN and name != LABEL}


def _exact(value: Any) -> Any:
    """Give a class back as the whole number that it was: feedback has no numbers but doubles."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _wanted(row: Row, source: TrafficSource) -> bool:
    if source.labelled_only and row[LABEL] is None:
        return False
    return all(name in row and _is(row[name], value) for name, value in source.where.items())


def _is(value: Any, text: str) -> bool:
    if isinstance(value, bool):
        return str(value).lower() == text.lower()
    if isinstance(value, int | float):
        try:
            return float(text) == value
        except ValueError:
            return False
    return bool(value == text)


def _chosen(rows: Iterator[Row], most: int) -> Iterator[Row]:
    """Give all rows, or as many as are wanted: those of the smallest hashes of ids, in their order."""
    if not most:
        yield from rows
        return
    kept: list[tuple[int, int, int, Row]] = []
    places: dict[str, int] = {}
    for number, row in enumerate(rows):
        place = places[row["inference_id"]] = places.get(row["inference_id"], -1) + 1
        digest = hashlib.sha256(f"{row['inference_id']}\n{place}".encode()).digest()
        entry = (-int.from_bytes(digest[:8]), -number, number, row)
        if len(kept) < most:
            heapq.heappush(kept, entry)
        else:
            heapq.heappushpop(kept, entry)
    for *_, row in sorted(kept, key=lambda each: each[2]):
        yield row
