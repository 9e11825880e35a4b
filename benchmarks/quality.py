"""Quality checks on made-up streams: violations told where nothing is wrong, and faults that are found or missed.

    python -m benchmarks quality
    python -m benchmarks quality --runs 100 --streams "users, ICC 0.5"

The streams are the drift benchmark's, whose rows are as clean as their reference: ten of fifty features are missing in
1 % of the rows. With them goes one of heavy tails, whose values lie far out now and then. Every number comes of a seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.drift import SIZES, by_reference, reference_for, said_of, windows
from benchmarks.drift_streams import NUMERIC, STREAMS, Rows, Stream, count, frame_of, window_of
from services.monitoring.configuration.models import QualityConfiguration
from services.monitoring.profiles.bins import place
from services.monitoring.profiles.models import QUALITY_COUNTS, LiveWindow, Reference
from services.monitoring.quality.bounds import LEVEL
from services.monitoring.quality.findings import examine
from services.monitoring.quality.models import QualityStatus

HEAVY = Stream("heavy tails", tails=3.0)
Fault = Callable[[Rows, np.random.Generator], Rows]
console = Console(width=140)


def main() -> None:
    """Draw, look, and show the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="checks of each stream and size")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--streams", nargs="+", default=[stream.name for stream in (*STREAMS, HEAVY)])
    parser.add_argument("--reference-rows", type=int, default=10_000)
    parser.add_argument("--level", type=float, default=LEVEL, help="of a check; hourly by schedule 1/2184")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    clean = Table("stream", "rows", "checks that told a violation", title="nothing is wrong")
    for stream in (each for each in (*STREAMS, HEAVY) if each.name in options.streams):
        for size in options.sizes:
            _add(clean, stream.name, f"{size:,}", said_of(_violated(stream, size, options, _nothing), options.runs))
    console.print(clean)
    faults = Table("rows", "fault in one of 50 features", "found", title="something is wrong")
    for size in options.sizes:
        for name, fault in FAULTS.items():
            _add(faults, f"{size:,}", name, said_of(_violated(STREAMS[0], size, options, fault), options.runs))
    console.print(faults)


def _add(table: Table, *cells: str) -> None:
    table.add_row(*cells)
    console.print("[dim]" + " | ".join(cells))


def _violated(stream: Stream, size: int, options: argparse.Namespace, fault: Fault) -> int:
    """Count the checks that tell a violation; each 20 have a reference of their own."""
    generator = np.random.default_rng([options.seed, size])
    found = 0
    for number, drawn in by_reference(windows(stream, size, options.runs, options.seed)):
        reference = reference_for(stream, options.reference_rows, options.seed, number)
        for rows in drawn:
            window = looked_at(reference, fault(rows, generator))
            look = examine(reference, window, QualityConfiguration(), options.level)
            found += look.status is QualityStatus.VIOLATED
    return found


def looked_at(reference: Reference, rows: Rows) -> LiveWindow:
    """Count rows as the service does, bad values too."""
    window, frame = window_of([count(reference, rows)]), frame_of(rows)
    last = window.bucket_times[-1]
    features = {}
    for name, known in reference.features.items():
        placed = place(frame.columns[name], known, len(rows))
        quality = np.zeros((len(window.bucket_times), len(QUALITY_COUNTS)), np.int64)
        quality[0] = placed.quality
        low, high = (placed.finite.min(), placed.finite.max()) if placed.finite.size else (np.nan, np.nan)
        counted = window.features[name]
        features[name] = replace(counted, quality=quality, min=float(low), max=float(high), last_time=last)
    return replace(window, features=features)


def _nothing(rows: Rows, _: np.random.Generator) -> Rows:
    return rows


def _changed(rows: Rows, feature: int, share: float, value: float, generator: np.random.Generator) -> Rows:
    values = rows.values.copy()
    values[generator.random(len(rows)) < share, feature] = value
    return replace(rows, values=values)


FAULTS: dict[str, Fault] = {
    "missing in 1 % → 5 %": lambda rows, generator: _changed(rows, 0, 0.04 / 0.99, np.nan, generator),
    "missing in none → 3 %": lambda rows, generator: _changed(rows, NUMERIC - 1, 0.03, np.nan, generator),
    "infinite in 3 %": lambda rows, generator: _changed(rows, NUMERIC - 1, 0.03, np.inf, generator),
    "100 σ away in 3 %": lambda rows, generator: _changed(rows, NUMERIC - 1, 0.03, 100.0, generator),
    "gone": lambda rows, generator: _changed(rows, NUMERIC - 1, 1.0, np.nan, generator),
}


if __name__ == "__main__":
    main()
