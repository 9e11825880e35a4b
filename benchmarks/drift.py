"""Drift checks on made-up streams: false alarms where nothing has drifted, and drift that is found or missed.

    python -m benchmarks drift                      # ours
    python -m benchmarks drift --others             # Evidently's and NannyML's defaults on the same streams
    python -m benchmarks drift --parts quarters --quarters 5

Every number comes of a seed, with a 95 % interval (Wilson's). References have 10,000 rows of the same stream, and every
20 checks have another one: of one reference alone all checks would share its luck.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count as count_up
from itertools import islice

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.drift_labels import show_labels
from benchmarks.drift_streams import (
    DAY_MINUTES,
    NUMERIC,
    SCHEDULED_LEVEL,
    STREAMS,
    Counted,
    Rows,
    Source,
    Stream,
    count,
    reference_of,
    window_of,
)
from benchmarks.drift_vectors import show_vectors
from services.monitoring.drift.comparison import compare
from services.monitoring.drift.concept import wilson
from services.monitoring.drift.models import Comparison, DriftStatus, Rules
from services.monitoring.profiles.models import Reference
from services.monitoring.window_checks.rounds import QUARTER

SIZES = (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
BELOW_MINIMUM = 30
PARTS = ("false-alarms", "power", "quarters", "vectors", "labels")
CHECKS_A_REFERENCE = 20
QUARTER_SIZES = (50, 200, 2_000)
STEP_MINUTES = 360
CHECKS_A_QUARTER = round(QUARTER.total_seconds() / 60 / STEP_MINUTES)
console = Console(width=140)


@dataclass(frozen=True, slots=True)
class Tally:
    """What a number of checks came to."""

    checks: int
    alarms: int
    insufficient: int
    seconds: float

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.checks + other.checks,
            self.alarms + other.alarms,
            self.insufficient + other.insufficient,
            self.seconds + other.seconds,
        )

    @property
    def said(self) -> str:
        """Alarms per check, with what the true share lies between."""
        return said_of(self.alarms, self.checks)


def said_of(hits: int, checks: int) -> str:
    """Write a share, with what the true one lies between."""
    low, high = wilson(hits, checks, 0.05)
    return f"{hits} of {checks}: {hits / checks:.1%} ({low:.1%} to {high:.1%})"


def main() -> None:
    """Draw, check, and show the tables."""
    options = _options()
    if options.others:
        from benchmarks.contenders.drift_others import show_others

        show_others(console, options)
        return
    if "false-alarms" in options.parts:
        _show_false_alarms(options)
    if "power" in options.parts:
        _show_power(options)
    if "quarters" in options.parts:
        _show_quarters(options)
    if "vectors" in options.parts:
        show_vectors(console, options.vector_sizes, options.runs, options.seed)
    if "labels" in options.parts:
        show_labels(console, options.label_sizes, options.runs, options.seed, options.reference_rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400, help="checks of each stream and size")
    parser.add_argument("--quarters", type=int, default=5, help="quarters of each stream and size")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--quarter-sizes", type=int, nargs="+", default=list(QUARTER_SIZES), help="rows a day")
    parser.add_argument("--streams", nargs="+", default=[stream.name for stream in STREAMS])
    parser.add_argument("--reference-rows", type=int, default=10_000)
    parser.add_argument("--power-references", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--power-sizes", type=int, nargs="+", default=[500, 1_000, 2_000, 10_000])
    parser.add_argument("--vector-sizes", type=int, nargs="+", default=[500, 1_000, 2_000, 10_000])
    parser.add_argument("--label-sizes", type=int, nargs="+", default=[100, 200, 500, 2_000, 10_000])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--others", action="store_true", help="Evidently's and NannyML's defaults on the same streams")
    parser.add_argument("--who", nargs="+", default=["evidently", "nannyml"], help="of the others")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
    )
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> list[Stream]:
    return [stream for stream in STREAMS if stream.name in options.streams]


def reference_for(stream: Stream, rows: int, seed: int, number: int = 0) -> Reference:
    """Make a reference of a stream."""
    return reference_of(Source(stream, np.random.default_rng([seed, 0, number])).draw(rows))


def _show_false_alarms(options: argparse.Namespace) -> None:
    table = Table("stream", "rows", "alarms", "too little data", "ms a check", title="no drift, α = 0.05")
    for stream in _chosen(options):
        for size in (BELOW_MINIMUM, *options.sizes):
            tally = Tally(0, 0, 0, 0.0)
            for number, drawn in by_reference(windows(stream, size, options.runs, options.seed)):
                reference = reference_for(stream, options.reference_rows, options.seed, number)
                tally += tally_of(reference, drawn, Rules())
            _add(table, stream.name, f"{size:,}", tally.said, *_rest(tally))
    console.print(table)


def by_reference(drawn: Iterator[Rows]) -> Iterator[tuple[int, list[Rows]]]:
    """Put windows into parts, each for a reference of its own."""
    for number in count_up():
        part = list(islice(drawn, CHECKS_A_REFERENCE))
        if not part:
            return
        yield number, part


def _add(table: Table, *cells: str) -> None:
    """Add a row, and show it at once: the whole takes long."""
    table.add_row(*cells)
    console.print("[dim]" + " | ".join(cells))


def _rest(tally: Tally) -> tuple[str, str]:
    return f"{tally.insufficient / tally.checks:.1%}", f"{1000 * tally.seconds / tally.checks:.1f}"


def windows(stream: Stream, size: int, runs: int, seed: int) -> Iterator[Rows]:
    """Draw days of so many rows, each by itself."""
    for run in range(runs):
        yield Source(stream, np.random.default_rng([seed, size, run])).draw(size)


def tally_of(reference: Reference, drawn: Iterable[Rows], rules: Rules, *, feature: str = "") -> Tally:
    """Check each; with a feature named, an alarm is one of that feature."""
    checks = alarms = insufficient = 0
    seconds = 0.0
    for rows in drawn:
        window = window_of([count(reference, rows)])
        began = time.process_time()
        found = compare(reference, window, rules)
        seconds += time.process_time() - began
        checks += 1
        alarms += _alarmed(found, feature)
        insufficient += found.status is DriftStatus.INSUFFICIENT_DATA
    return Tally(checks, alarms, insufficient, seconds)


def _alarmed(found: Comparison, feature: str) -> bool:
    if not feature:
        return found.status is DriftStatus.DRIFTED
    return any(result.drifted for result in found.results if result.feature == feature)


Change = Callable[[Rows, np.random.Generator], Rows]


def shifted(rows: Rows, _: np.random.Generator) -> Rows:
    """Shift the last numeric feature by 0.2 σ."""
    values = rows.values.copy()
    values[:, NUMERIC - 1] += 0.2
    return replace(rows, values=values)


def missing(rows: Rows, generator: np.random.Generator) -> Rows:
    """Have the first feature missing in 5 % of the rows in place of 1 %."""
    values = rows.values.copy()
    values[generator.random(len(rows)) < 0.04 / 0.99, 0] = np.nan
    return replace(rows, values=values)


def new_category(counted: Counted, bins: int, share: float, generator: np.random.Generator) -> Counted:
    """Move this share of the first categorical feature's rows to a kind that the reference does not know."""
    name = list(counted.features)[NUMERIC]
    in_time, of_users = (np.array(each) for each in counted.features[name])
    for each in (in_time, of_users):
        moved = generator.binomial(each[:, : bins - 2], share)
        each[:, : bins - 2] -= moved
        each[:, bins - 1] += moved.sum(axis=1)
    return replace(counted, features={**counted.features, name: (in_time, of_users)})


def _show_power(options: argparse.Namespace) -> None:
    independent = STREAMS[0]
    table = Table("reference", "rows", "drift in one of 50 features", "α", "found", title="drift that is there")
    for rows in options.power_references:
        for size in options.power_sizes:
            for alpha in (0.05, SCHEDULED_LEVEL):
                for name, tally in _found(independent, rows, size, options, Rules(alpha=alpha)):
                    _add(table, f"{rows:,}", f"{size:,}", name, f"{alpha:.3g}", tally.said)
    console.print(table)


def _found(
    stream: Stream, reference_rows: int, size: int, options: argparse.Namespace, rules: Rules
) -> Iterator[tuple[str, Tally]]:
    references = [
        reference_for(stream, reference_rows, options.seed, number)
        for number in range(-(-options.runs // CHECKS_A_REFERENCE))
    ]
    names = list(references[0].features)
    changes: Sequence[tuple[str, str, Change]] = (
        ("shifted by 0.2 σ", names[NUMERIC - 1], shifted),
        ("missing 1 % → 5 %", names[0], missing),
    )
    for name, feature, change in changes:
        generator = np.random.default_rng([options.seed, size])
        tally = Tally(0, 0, 0, 0.0)
        for number, drawn in by_reference(windows(stream, size, options.runs, options.seed + 1)):
            changed = [change(rows, generator) for rows in drawn]
            tally += tally_of(references[number], changed, rules, feature=feature)
        yield name, tally
    generator = np.random.default_rng([options.seed, size])
    hits = 0
    for number, drawn in by_reference(windows(stream, size, options.runs, options.seed + 1)):
        bins = len(references[number].features[names[NUMERIC]].counts)
        for rows in drawn:
            counted = new_category(count(references[number], rows), bins, 0.03, generator)
            hits += _alarmed(compare(references[number], window_of([counted]), rules), names[NUMERIC])
    yield "new category at 3 %", Tally(options.runs, hits, 0, 0.0)


def _show_quarters(options: argparse.Namespace) -> None:
    table = Table(
        "stream", "rows a day", "quarters", "checks", "alarms a quarter", "episodes a quarter", "most in one",
        "too little data", title="no drift, by schedule: every 6 h the last 24 h, for a quarter of a year",
    )  # fmt: skip
    for stream in _chosen(options):
        references = [reference_for(stream, options.reference_rows, options.seed, n) for n in range(options.quarters)]
        for size in options.quarter_sizes:
            told = [_quarter(one, stream, size, [options.seed, size, n]) for n, one in enumerate(references)]
            alarms = [sum(quarter) for quarter, _ in told]
            episodes = [_episodes(quarter) for quarter, _ in told]
            few = sum(insufficient for _, insufficient in told) / options.quarters / CHECKS_A_QUARTER
            _add(
                table, stream.name, f"{size:,}", str(options.quarters), f"{options.quarters * CHECKS_A_QUARTER:,}",
                f"{np.mean(alarms):.2f}", f"{np.mean(episodes):.2f}", str(max(episodes)), f"{few:.1%}",
            )  # fmt: skip
    console.print(table)


def _quarter(reference: Reference, stream: Stream, rows_a_day: int, seed: list[int]) -> tuple[list[bool], int]:
    """Give whether each check of a quarter raised an alarm, and how many had too little data."""
    generator = np.random.default_rng(seed)
    source, rules = Source(stream, generator), Rules(alpha=SCHEDULED_LEVEL)
    parts: deque[Counted] = deque(maxlen=DAY_MINUTES // STEP_MINUTES)
    alarms: list[bool] = []
    insufficient = 0
    for step in range(CHECKS_A_QUARTER + 3):
        start = float(step * STEP_MINUTES)
        rows = int(generator.poisson(rows_a_day * _rate(stream, step) * STEP_MINUTES / DAY_MINUTES))
        drawn = source.draw(max(rows, 1), from_minute=start, minutes=STEP_MINUTES)
        parts.append(count(reference, drawn, from_minute=start, buckets=STEP_MINUTES // 5))
        if len(parts) == parts.maxlen:
            found = compare(reference, window_of(list(parts)), rules)
            alarms.append(found.status is DriftStatus.DRIFTED)
            insufficient += found.status is DriftStatus.INSUFFICIENT_DATA
    return alarms, insufficient


def _rate(stream: Stream, step: int) -> float:
    """Say how busy a quarter of the day is: the mean of the rate over it."""
    if not stream.cycle:
        return 1.0
    return (1 + 0.75 * 2 / np.pi, 1 + 0.75 * 2 / np.pi, 1 - 0.75 * 2 / np.pi, 1 - 0.75 * 2 / np.pi)[step % 4]


def _episodes(alarms: Sequence[bool]) -> int:
    """Count alarms that follow on one another as one, as an alert does."""
    return sum(now and not before for before, now in zip([False, *alarms], alarms, strict=False))


if __name__ == "__main__":
    main()
