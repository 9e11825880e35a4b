"""Predictions a second and their latency: Penstock with keys, metrics and capture on, against a bare handler.

The model is scikit-learn's logistic regression on the iris data, exported by skl2onnx: it takes some µs to run, so
what is measured is all that stands around it. Run it by `.venv/bin/python -m benchmarks iris`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.contenders.contender import Contender, Question
from benchmarks.contenders.suite import VARIANTS, RunningSuite, running_suite
from benchmarks.harness import RESULTS, Cores, Ratio, claim_cores, cpu_seconds, interleave, pin, running, surroundings
from benchmarks.load import Window, require_h2load, send
from examples.iris import IrisModel, train
from penstock.cli.embedded.ports import free_port

BARE, CONTROL, PENSTOCK = "bare handler", "bare handler again", "Penstock"
COMPARED = (BARE, PENSTOCK)
"""Measured unpinned too; the others only show where the time goes, and how far two equal servers are apart."""
WARM_UP_REQUESTS = 500
console = Console()
if not console.is_terminal:
    console = Console(width=150)  # the table's own; a pipe has none


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison: all its contenders take turns."""

    concurrency: int
    pinned: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """A measured window. `settle_s`: from its end until monitoring had the last of its events. `cpu_us`: what the
    server's process took of a processor for each request, until then.
    """

    window: Window
    cpu_us: float
    settle_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one contender in one cell; medians over the rounds."""

    concurrency: int
    cores: str
    contender: str
    rate: float
    p50_us: float
    p99_us: float
    cpu_us: float
    cpu_over_bare_us: float
    settle_s: float
    ratio: Ratio
    p50_over_bare_us: float


def main() -> None:
    """Measure, show the table, and keep it in benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="windows of each contender in each comparison")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long a window lasts")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32], help="connections, one request each")
    options = parser.parse_args()
    require_h2load()
    cores = claim_cores()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        Path(name).chmod(0o711)  # as root, PostgreSQL's own user passes through
        rows = measure(Path(name), cores, options.rounds, options.seconds, options.concurrency)
    machine = surroundings() | {"rounds": str(options.rounds), "window": f"{options.seconds:g} s"}
    console.print(as_table(rows))
    console.print(f"[dim]kept in {keep(rows, machine)}[/]")


def measure(folder: Path, cores: Cores, rounds: int, seconds: float, concurrency: Sequence[int]) -> list[Row]:
    """Run every contender, and compare them cell by cell."""
    model = train(regularisation=1)
    with ExitStack() as stack:
        contenders = [stack.enter_context(bare(folder, model, name)) for name in (BARE, CONTROL)]
        suite = stack.enter_context(running_suite(folder, model.onnx))
        for name, changes in VARIANTS.items():
            contenders.append(stack.enter_context(suite.variant(name, changes, question_of(model))))
        cells = [Cell(each, pinned) for pinned in (True, False) for each in concurrency]
        turns = sum(rounds * len(_contenders(cell, contenders)) for cell in cells)
        rows: list[Row] = []
        with Progress(console=console) as progress:
            bar = progress.add_task("measuring", total=turns)
            for cell in cells:
                sides = {contender.name: contender for contender in _contenders(cell, contenders)}

                def take(name: str, cell: Cell = cell, sides: dict[str, Contender] = sides) -> Turn:
                    progress.update(bar, advance=1, description=f"{name}, concurrency {cell.concurrency}")
                    return take_turn(sides[name], cell, cores, seconds)

                rows += summarise(cell, interleave(list(sides), take, rounds))
        check_stored(suite, contenders)
        return rows


def check_stored(suite: RunningSuite, contenders: Sequence[Contender]) -> None:
    """See that monitoring has an event for each request of each contender that captures."""
    captured = sum(each.answered() for each in contenders if each.answered and each.captures)
    if suite.stored() != captured:
        raise SystemExit(f"monitoring has {suite.stored()} of {captured} events")
    console.print(f"[green]✓[/] monitoring has the event of each of {captured:,} captured predictions")


def _contenders(cell: Cell, contenders: Sequence[Contender]) -> list[Contender]:
    return [each for each in contenders if cell.pinned or each.name in COMPARED]


def take_turn(contender: Contender, cell: Cell, cores: Cores, seconds: float) -> Turn:
    """Warm up, see that it answers right, measure, and see that it answered every request and still answers right."""
    pin(contender.pid, cores.server if cell.pinned else cores.all)
    load = partial(send, contender.rpc(), concurrency=cell.concurrency)
    warm = load(requests=max(WARM_UP_REQUESTS, cell.concurrency))
    contender.settle()
    before = contender.answered() if contender.answered else 0
    cpu_before_s = cpu_seconds(contender.pid)
    window = load(requests=max(WARM_UP_REQUESTS, int(warm.rate * seconds)))
    settle_s = contender.settle()
    cpu_us = (cpu_seconds(contender.pid) - cpu_before_s) / window.requests * 1e6
    if contender.answered and contender.answered() - before != window.requests:
        raise SystemExit(f"{contender.name} counts {contender.answered() - before} of {window.requests} requests")
    contender.rpc()
    contender.settle()
    return Turn(window, cpu_us, settle_s)


def summarise(cell: Cell, taken: dict[str, list[Turn]]) -> list[Row]:
    """Turn the windows of a cell into a row for each contender, compared with the bare handler."""
    rates = {name: [turn.window.rate for turn in turns] for name, turns in taken.items()}
    p50s_us = {name: [turn.window.p50_us for turn in turns] for name, turns in taken.items()}
    cpu_us = {name: [turn.cpu_us for turn in turns] for name, turns in taken.items()}
    return [
        Row(
            cell.concurrency,
            "one core" if cell.pinned else "unpinned",
            name,
            statistics.median(rates[name]),
            statistics.median(p50s_us[name]),
            statistics.median(turn.window.p99_us for turn in turns),
            statistics.median(cpu_us[name]),
            statistics.median(one - other for one, other in zip(cpu_us[name], cpu_us[BARE], strict=True)),
            statistics.median(turn.settle_s for turn in turns),
            Ratio.of(rates[name], rates[BARE]),
            statistics.median(one - other for one, other in zip(p50s_us[name], p50s_us[BARE], strict=True)),
        )
        for name, turns in taken.items()
    ]


@contextmanager
def bare(folder: Path, model: IrisModel, name: str) -> Iterator[Contender]:
    """Run a bare handler over the model."""
    file, port = folder / "bare.onnx", free_port()
    file.write_bytes(model.onnx)
    command = [sys.executable, "-m", "benchmarks.contenders.bare", str(file), str(port)]
    with running(command, os.environ, folder / f"bare-{port}.log") as pid:
        yield Contender(name, pid, f"127.0.0.1:{port}", question_of(model))


def question_of(model: IrisModel) -> Question:
    """Take a flower that the model has not seen, and scikit-learn's answer."""
    row = model.rows[:1]
    return Question(
        row[0], int(model.classifier.predict(row)[0]), model.classifier.predict_proba(row)[0].astype(np.float32)
    )


def cells_of(row: Row) -> tuple[str, ...]:
    """Write a row as the table shows it."""
    return (
        str(row.concurrency),
        row.cores,
        row.contender,
        f"{row.rate:,.0f}",
        f"{row.ratio.median:.2f}",
        f"{row.ratio.low:.2f}, {row.ratio.high:.2f}",
        f"{row.p50_us:,.0f}",
        f"{row.p50_over_bare_us:+,.0f}",
        f"{row.p99_us:,.0f}",
        f"{row.cpu_us:,.0f}",
        f"{row.cpu_over_bare_us:+,.0f}",
        f"{row.settle_s:.2f}",
    )


HEADINGS = (
    "clients",
    "cores",
    "server",
    "requests/s",
    "ratio",
    "low, high",
    "p50 µs",
    "over bare",
    "p99 µs",
    "CPU µs",
    "over bare",
    "settled s",
)


def as_table(rows: Sequence[Row]) -> Table:
    """Lay the rows out for a terminal."""
    table = Table(title="iris: predictions a second")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in ("cores", "server") else "right", no_wrap=True)
    for index, row in enumerate(rows):
        ends = index + 1 == len(rows) or rows[index + 1].contender == BARE
        table.add_row(*cells_of(row), end_section=ends, style="bold" if row.contender == PENSTOCK else "")
    return table


def keep(rows: Sequence[Row], machine: dict[str, str]) -> Path:
    """Write the numbers as JSON and as Markdown; gives the latter's path."""
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / time.strftime("iris-%Y%m%d-%H%M%S", time.gmtime())
    document = {"machine": machine, "rows": [asdict(row) for row in rows]}
    stem.with_suffix(".json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *(cells_of(row) for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    facts = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    markdown = stem.with_suffix(".md")
    markdown.write_text(f"{table}\n\n{facts}\n")
    return markdown


if __name__ == "__main__":
    main()
