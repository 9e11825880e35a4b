"""A run while it goes on: a bar and its loss that live, or lines where nobody watches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from rich import progress as bars
from rich.text import Text

from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.cli.bars import BarWithLines
from penstock.cli.charts import sparkline
from penstock.cli.output import Output, printable
from penstock.cli.train_views import metric_word, shown_first, state_of

_WIDTH = 48
"""Steps that a curve shows; of more, each stands for several."""
_CURVES = 4
_LINES = 10
"""Where nobody watches, so many lines tell how far it is."""


class Curves:
    """What a run told, a curve a metric."""

    def __init__(self) -> None:
        self._told: dict[str, dict[int, float]] = {}

    def add(self, epochs: Iterable[pb.TrainingEpoch]) -> None:
        """Take epochs in; one of the same number is told anew."""
        for epoch in epochs:
            for name, value in epoch.metrics.items():
                self._told.setdefault(name, {})[epoch.number] = value

    def last(self) -> Mapping[str, float]:
        """Give each metric as it was told last."""
        return {name: points[max(points)] for name, points in self._told.items()}

    def drawn(self) -> Text:
        """Draw them: the loss first, four at most."""
        lines = []
        for name in sorted(self._told, key=shown_first)[:_CURVES]:
            points = [self._told[name][number] for number in sorted(self._told[name])]
            step = -(-len(points) // _WIDTH)
            least = min(points)
            curve = sparkline([point - least for point in points[::-step][::-1]])
            line = Text.assemble((f"{printable(name):<22.22} ", "bold"), (curve, "cyan"), f" {metric_word(points[-1])}")
            lines.append(line)
        return Text("\n").join(lines)


def follow(output: Output, watched: Iterable[pb.WatchTrainingRunResponse], *, title: str = "") -> pb.TrainingRun:
    """Show a run until it has ended, and give how it ended; with `--json` nothing is shown.

    Args:
        output: where to: a bar with epochs and curves where a person watches, else lines.
        watched: the run whenever it changes, with its new epochs.
        title: what it is called; its id where nothing is said.
    """
    if output.as_json or not output.stderr.is_terminal:
        return _by_lines(output, watched, title)
    run, curves = pb.TrainingRun(), Curves()
    bar = BarWithLines(
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(bar_width=None),
        bars.TextColumn("{task.fields[epochs]}", justify="right"),
        bars.TimeElapsedColumn(),
        console=output.stderr,
        expand=True,
    )
    with ExitStack() as stack:
        stack.enter_context(bar)
        task = bar.add_task(title, total=None, epochs="")
        for answer in watched:
            run = answer.run
            curves.add(answer.epochs)
            ended = run.HasField("end_time")
            said = Text(printable(run.message), style="dim")
            drawn = curves.drawn()
            bar.below = Text("\n").join(part for part in (drawn, Text() if ended else said) if part.plain)
            bar.update(
                task,
                description=f"{title} {state_of(run)}".strip(),
                completed=run.done_epochs,
                total=run.total_epochs or (1 if ended else None),
                epochs=_epoch_words(run),
            )
    return run


def _by_lines(output: Output, watched: Iterable[pb.WatchTrainingRunResponse], title: str) -> pb.TrainingRun:
    run, curves = pb.TrainingRun(), Curves()
    said: tuple[object, ...] = ()
    for answer in watched:
        run = answer.run
        curves.add(answer.epochs)
        part = run.done_epochs * _LINES // run.total_epochs if run.total_epochs else run.done_epochs.bit_length()
        now = (run.state, run.attempt, run.message, run.HasField("cancel_time"), part)
        if now == said:
            continue
        said = now
        metrics = [f"{name} {metric_word(value)}" for name, value in sorted(curves.last().items())][:_CURVES]
        words = (state_of(run), run.message, _epoch_words(run), *metrics)
        output.note(f"{title or run.id}: {printable(', '.join(filter(None, words)))}")
    return run


def _epoch_words(run: pb.TrainingRun) -> str:
    if not run.done_epochs:
        return ""
    return f"epoch {run.done_epochs:,}" + (f" of {run.total_epochs:,}" if run.total_epochs else "")
