"""Events and metrics as files, by stream: memory stays constant, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import BinaryIO, TypeAlias

from penstock.api.monitoring.v1 import export_pb2 as pb
from penstock.errors import InvalidArgument, PenstockError
from penstock.ids import uuid7
from penstock.metrics import Granularity, granularity_number
from penstock.monitoring_connection import MonitoringConnected, to_window
from penstock.retries import Tries
from penstock.values import enum_number

Format: TypeAlias = "pb.ExportFormat.ValueType | str | None"
"""CSV or PARQUET, by number or by name in any case; None: by the file's suffix."""
Written = Callable[[int], None]
"""Called with the bytes written so far; again from 0 where a broken export begins anew."""
_Chunks: TypeAlias = Generator[bytes, None, None]


@dataclass(frozen=True, slots=True)
class MetricsFile:
    """A file of metrics that was written.

    Attributes:
        path: where it lies.
        complete_until: up to here its counts are complete, events since then may not be in them; None: they all are.
    """

    path: Path
    complete_until: datetime | None


class ExportsClient(MonitoringConnected):
    """Writes what monitoring keeps to files, and gives it as chunks of bytes."""

    def events(
        self,
        model: str,
        destination: str | PathLike[str],
        *,
        version: str = "",
        from_time: datetime | None = None,
        to_time: datetime | None = None,
        window: timedelta | str | None = None,
        file_format: Format = None,
        payloads: bool = False,
        progress: Written | None = None,
    ) -> Path:
        """Write events with their latest feedback to a file, the oldest first, in one move.

        Args:
            model: the model.
            destination: where to; a file that is there is replaced.
            version: only this version.
            from_time: from here on; None: one day before `to_time`.
            to_time: up to here, exclusive; None: now.
            window: how long, in place of `from_time`: a timedelta, or text such as `6h`.
            file_format: how; None: as the destination's suffix says.
            payloads: with features and predictions, as JSON in their cells.
            progress: told how far it has come.

        Raises:
            InvalidArgument: neither the suffix nor `file_format` says how (FORMAT_REQUIRED), or the window is none.
            NotFound: neither the registry nor monitoring knows the model (MODEL_NOT_FOUND).
            OSError: the destination can't be written. Nothing is left behind, whatever breaks.
        """
        number = _format_number(file_format, Path(destination))
        return self._write(
            destination,
            lambda: self.event_chunks(
                model,
                number,
                version=version,
                from_time=from_time,
                to_time=to_time,
                window=window,
                payloads=payloads,
            ),
            progress,
        )

    def metrics(
        self,
        model: str,
        destination: str | PathLike[str],
        *,
        version: str = "",
        from_time: datetime | None = None,
        to_time: datetime | None = None,
        window: timedelta | str | None = None,
        granularity: Granularity = None,
        file_format: Format = None,
        progress: Written | None = None,
    ) -> MetricsFile:
        """Write the points of a model's metrics to a file, a row each, every version by itself; see `events`."""
        number = _format_number(file_format, Path(destination))
        since, until = to_window(from_time, to_time, window)
        request = pb.ExportMetricsRequest(
            model=model,
            version=version,
            from_time=since,
            to_time=until,
            granularity=granularity_number(granularity),
            format=number,
        )

        complete_until: datetime | None = None

        def chunks() -> _Chunks:
            nonlocal complete_until
            complete_until = None
            with closing(self._connection.stream(self._connection.stub.ExportMetrics, request)) as answers:
                for answer in answers:
                    if answer.HasField("complete_until"):
                        complete_until = answer.complete_until.ToDatetime(UTC)
                    yield answer.chunk

        path = self._write(destination, chunks, progress)
        return MetricsFile(path, complete_until)

    def event_chunks(
        self,
        model: str,
        file_format: Format,
        *,
        version: str = "",
        from_time: datetime | None = None,
        to_time: datetime | None = None,
        window: timedelta | str | None = None,
        payloads: bool = False,
    ) -> _Chunks:
        """Give the bytes of the file that `events` writes, as they come; a break is the caller's to mend."""
        since, until = to_window(from_time, to_time, window)
        request = pb.ExportEventsRequest(
            model=model,
            version=version,
            from_time=since,
            to_time=until,
            format=enum_number("file_format", pb.ExportFormat, file_format),
            payloads=payloads,
        )
        with closing(self._connection.stream(self._connection.stub.ExportEvents, request)) as answers:
            for answer in answers:
                yield answer.chunk

    def _write(self, destination: str | PathLike[str], chunks: Callable[[], _Chunks], progress: Written | None) -> Path:
        """Write to a file beside the destination and put it there; what broke half-way is begun anew."""
        target = Path(destination)
        unfinished = target.parent / f".penstock-{uuid7()}.part"
        tries = Tries(self._connection.retry)
        try:
            with unfinished.open("xb") as out:
                while True:
                    try:
                        _copy(chunks, out, progress)
                        break
                    except PenstockError as error:
                        tries.again(error)
                        out.seek(0)
                        out.truncate()
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
        return target


def _copy(chunks: Callable[[], _Chunks], out: BinaryIO, progress: Written | None) -> None:
    written_bytes = 0
    with closing(chunks()) as pieces:
        for piece in pieces:
            out.write(piece)
            written_bytes += len(piece)
            if progress is not None:
                progress(written_bytes)


def _format_number(file_format: Format, destination: Path) -> pb.ExportFormat.ValueType:
    number = enum_number("file_format", pb.ExportFormat, file_format)
    suffixes = {".csv": pb.EXPORT_FORMAT_CSV, ".parquet": pb.EXPORT_FORMAT_PARQUET}
    number = number or suffixes.get(destination.suffix.lower(), pb.EXPORT_FORMAT_UNSPECIFIED)
    if not number:
        sentence = f"{destination.name} does not say how it is to be written; end it in .csv or .parquet, or say so"
        raise InvalidArgument(sentence, reason="FORMAT_REQUIRED")
    return number
