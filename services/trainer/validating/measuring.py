"""How good a version's answers are: of all rows, of slices, and against the live version's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.trainer.recipes.labels_as_text import texts_of
from services.trainer.recipes.scores import REGRESSION, scores
from services.trainer.validating.grouped import Groups
from services.trainer.validating.outputs import Answers
from services.trainer.validating.resampling import intervals

MAX_SLICE_COLUMNS: Final = 5
MAX_SLICES: Final = 20
"""Values of one column; of more, those that most rows have."""
MIN_SLICE_ROWS: Final = 30
"""A slice of fewer rows says nothing of itself, and counts for no worst one."""
MAX_VALUE_CHARS: Final = 64
MAX_METRICS: Final = 256
"""What the registry takes of one evaluation."""
MAX_METRIC_CHARS: Final = 128
"""Of a metric's name, what the registry takes."""
_TOO_LONG: Final = f"metric's name would have more than {MAX_METRIC_CHARS} characters"


def measured(labels: NDArray[Any], answers: Answers) -> dict[str, float]:
    """Measure answers by `recipes.scores`."""
    return scores(answers.task_type, labels, answers.predictions, answers.probabilities, answers.classes)


def compared(
    labels: NDArray[Any],
    new: Answers,
    live: Answers,
    check: Callable[[], None] = lambda: None,
    groups: Groups | None = None,
) -> dict[str, float]:
    """Say of each metric that both have how it differs: METRIC_vs_live, and the ends of its 95 % interval.

    `check` is called several times a second; `groups` are of rows that belong together, see `resampling`.
    """
    of_new, of_live = measured(labels, new), measured(labels, live)
    found: dict[str, float] = {}
    ends = intervals(labels, new, live, check, groups)
    for name, value in of_new.items():
        if name not in of_live or "[" in name:
            continue
        found[f"{name}_vs_live"] = value - of_live[name]
        if name in ends:
            found[f"{name}_vs_live_low"], found[f"{name}_vs_live_high"] = ends[name].low, ends[name].high
    return found


def sliced(
    labels: NDArray[Any], answers: Answers, rows: pa.Table, columns: Sequence[str]
) -> tuple[dict[str, float], list[str]]:
    """Measure slices: the accuracy (of numbers: the rmse) of each value of some columns, and the worst of each column.

    Gives METRIC[COLUMN=VALUE] and worst_slice_METRIC[COLUMN], and sentences on what was left out.
    """
    metric, worst = ("rmse", max) if answers.task_type == REGRESSION else ("accuracy", min)
    found: dict[str, float] = {}
    notes = [f"slices by {', '.join(columns[MAX_SLICE_COLUMNS:])} were left out: {MAX_SLICE_COLUMNS} columns at most"]
    notes = notes if len(columns) > MAX_SLICE_COLUMNS else []
    for column in columns[:MAX_SLICE_COLUMNS]:
        if column not in rows.column_names:
            notes.append(f"there are no slices by {column}: the rows have no such column")
            continue
        values = _values(rows.column(column))
        counts = Counter(values.tolist())
        if len(counts) > MAX_SLICES:
            notes.append(f"{column} has {len(counts):,} values; slices are those {MAX_SLICES} that most rows have")
        of_column: list[float] = []
        few: list[str] = []
        for value, count in counts.most_common(MAX_SLICES):
            if count < MIN_SLICE_ROWS or len(value) > MAX_VALUE_CHARS:
                few.append(f"{column}={value[:MAX_VALUE_CHARS]} ({count})")
                continue
            chosen = values == value
            share = measured(labels[chosen], _chosen(answers, chosen))[metric]
            of_column.append(share)
            slice_name = f"{column}={_printable(value)}"
            if f"{metric}[{slice_name}]" in found:
                notes.append(f"the slice {slice_name} is not kept by itself, for another has that name once printed")
            elif len(name := f"{metric}[{slice_name}]") > MAX_METRIC_CHARS:
                notes.append(f"the slice {slice_name} is not kept by itself, for its {_TOO_LONG}")
            else:
                found[name] = share
        if of_column and len(name := f"worst_slice_{metric}[{column}]") > MAX_METRIC_CHARS:
            notes.append(f"there is no worst slice of {column}, for its {_TOO_LONG}")
        elif of_column:
            found[name] = worst(of_column)
        if few:
            notes.append(f"INSUFFICIENT: of fewer than {MIN_SLICE_ROWS} rows, slices are not judged: {', '.join(few)}")
    return found, notes


def bounded(metrics: Mapping[str, float], wanted: Sequence[str]) -> dict[str, float]:
    """Give what the registry takes: finite numbers, 256 at most, those that criteria name first."""
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    first = [name for name in wanted if name in finite]
    names = dict.fromkeys((*first, *finite))
    return {name: finite[name] for name in list(names)[:MAX_METRICS]}


def _chosen(answers: Answers, chosen: NDArray[np.bool_]) -> Answers:
    probabilities = None if answers.probabilities is None else answers.probabilities[chosen]
    return Answers(answers.task_type, answers.predictions[chosen], probabilities, answers.classes)


def _values(column: pa.ChunkedArray) -> NDArray[np.object_]:
    return texts_of(np.array(["" if value is None else value for value in column.to_pylist()], dtype=object))


def _printable(value: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in value)
