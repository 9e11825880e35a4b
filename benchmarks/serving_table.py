"""What came of the servers' turns: rows, tables, and the files that keep them."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.harness import RESULTS, Ratio
from benchmarks.load import Window

BARE, PAIR = "bare handler", "bare handlers, one a core"
ALONE = "onnxruntime in-process"
HEADINGS = (
    "model",
    "cores",
    "clients",
    "server",
    "requests/s",
    "x bare",
    "low, high",
    "x in-process",
    "p50 µs",
    "over bare",
    "p99 µs",
    "CPU µs",
)
FOOTPRINT_HEADINGS = ("model", "cores", "server", "first answer s", "memory MiB")


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison: all its contenders take turns. `cores`: `one` or `both`."""

    model: str
    cores: str
    concurrency: int

    @property
    def yardstick(self) -> str:
        """The server that others are compared with: as many bare handlers as there are cores."""
        return BARE if self.cores == "one" else PAIR


@dataclass(frozen=True, slots=True)
class Turn:
    """A measured window. `settle_s`: from its end until monitoring had the last of its events. `cpu_us`: what the
    server's processes took of a processor for each request, until then.
    """

    window: Window
    cpu_us: float
    settle_s: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a server takes: seconds from its start to its first right answer, and memory after the load."""

    model: str
    cores: str
    server: str
    start_s: float
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one contender in one cell; medians over the rounds. Of a batch size only the rate is known."""

    cell: Cell
    server: str
    rate: float
    to_bare: Ratio
    to_alone: float
    p50_us: float | None = None
    p50_over_bare_us: float | None = None
    p99_us: float | None = None
    cpu_us: float | None = None


def summarise(cell: Cell, taken: Mapping[str, Sequence[Turn]], alone: Sequence[Mapping[int, float]]) -> list[Row]:
    """Turn the windows of a cell into a row for each server, and one for ONNX Runtime alone at its best batch."""
    medians = {size: statistics.median(rates[size] for rates in alone) for size in alone[0]}
    best = max(medians, key=medians.__getitem__)
    base = [turn.window.rate for turn in taken[cell.yardstick]]
    alone_rates = [rates[best] for rates in alone]
    rows = [Row(cell, f"{ALONE}, {best} rows", medians[best], Ratio.of(alone_rates, base), 1.0)]
    for name, turns in taken.items():
        rates = [turn.window.rate for turn in turns]
        over = [
            turn.window.p50_us - other.window.p50_us for turn, other in zip(turns, taken[cell.yardstick], strict=True)
        ]
        rows.append(
            Row(
                cell,
                name,
                statistics.median(rates),
                Ratio.of(rates, base),
                Ratio.of(rates, alone_rates).median,
                statistics.median(turn.window.p50_us for turn in turns),
                statistics.median(over),
                statistics.median(turn.window.p99_us for turn in turns),
                statistics.median(turn.cpu_us for turn in turns),
            )
        )
    return rows


def cells_of(row: Row) -> tuple[str, ...]:
    """Write a row as the table shows it."""
    return (
        row.cell.model,
        row.cell.cores,
        str(row.cell.concurrency),
        row.server,
        f"{row.rate:,.0f}",
        _ratio(row.to_bare.median),
        f"{_ratio(row.to_bare.low)}, {_ratio(row.to_bare.high)}",
        _ratio(row.to_alone),
        "" if row.p50_us is None else f"{row.p50_us:,.0f}",
        "" if row.p50_over_bare_us is None else f"{row.p50_over_bare_us:+,.0f}",
        "" if row.p99_us is None else f"{row.p99_us:,.0f}",
        "" if row.cpu_us is None else f"{row.cpu_us:,.0f}",
    )


def _ratio(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2f}"


def footprint_cells(footprint: Footprint) -> tuple[str, ...]:
    """Write what a server takes as the table shows it."""
    mebibytes = footprint.resident_bytes / 2**20
    return (footprint.model, footprint.cores, footprint.server, f"{footprint.start_s:.2f}", f"{mebibytes:,.0f}")


def as_tables(rows: Sequence[Row], footprints: Sequence[Footprint]) -> tuple[Table, Table]:
    """Lay rows and footprints out for a terminal."""
    rates, sizes = Table(title="predictions a second"), Table(title="to start, and to hold")
    for table, headings in ((rates, HEADINGS), (sizes, FOOTPRINT_HEADINGS)):
        for heading in headings:
            table.add_column(
                heading, justify="left" if heading in ("model", "cores", "server") else "right", no_wrap=True
            )
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        ends = after is None or after.cell != row.cell
        rates.add_row(*cells_of(row), end_section=ends, style="bold" if row.server.startswith("Penstock") else "")
    for footprint in footprints:
        sizes.add_row(*footprint_cells(footprint))
    return rates, sizes


def keep(rows: Sequence[Row], footprints: Sequence[Footprint], machine: Mapping[str, str]) -> Path:
    """Write the numbers as JSON and as Markdown; gives the latter's path."""
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / time.strftime("serving-%Y%m%d-%H%M%S", time.gmtime())
    document = {
        "machine": dict(machine),
        "rows": [asdict(row) for row in rows],
        "footprints": [asdict(each) for each in footprints],
    }
    stem.with_suffix(".json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    tables = [
        _markdown(HEADINGS, [cells_of(row) for row in rows]),
        _markdown(FOOTPRINT_HEADINGS, [footprint_cells(each) for each in footprints]),
        "\n".join(f"- {name}: {value}" for name, value in machine.items()),
    ]
    markdown = stem.with_suffix(".md")
    markdown.write_text("\n\n".join(tables) + "\n")
    return markdown


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
