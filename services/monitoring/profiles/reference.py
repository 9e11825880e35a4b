"""What a reference keeps of its rows: the bins, counts and moments of each feature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidArgument
from services.monitoring.outcomes import literal_of
from services.monitoring.profiles.bins import Placed, category_of, numbers_of, place
from services.monitoring.profiles.frames import Column, Frame, Tag, distinct, repeats, row_hashes
from services.monitoring.profiles.models import GROUPS, QUALITY_COUNTS, FeatureKind, FeatureReference, VectorSample
from services.monitoring.profiles.numbers import describe
from services.monitoring.profiles.overdispersion import (
    greatest_overdispersion,
    grouped_counts,
    groups_of,
    overdispersion_in_order,
    user_numbers,
)

MIN_ROWS = 50
_SHOWN_NAMES = 20
MAX_FEATURES = 2_000
MAX_CATEGORIES = 50
MAX_WHOLE_CATEGORIES = 20
"""Whole numbers of more kinds are NUMERIC."""
_FITTING_SHARE = 0.1
"""Of a column's values that are there, so many at least are of the kind that is told."""
SAMPLE_SIZE = 500
"""Vectors of an embedding that are kept."""
_SEED = 20_240_229
"""The same rows make the same profile."""
PREDICTION = "prediction"


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns are, as a caller says."""

    kinds: Mapping[str, FeatureKind] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    predictions: tuple[str, ...] = ()
    label: str = ""
    group: str = ""

    @property
    def named(self) -> frozenset[str]:
        """Every name that is said, but the ignored."""
        return frozenset((*self.kinds, *self.predictions, *filter(None, (self.label, self.group))))


@dataclass(frozen=True, slots=True)
class Description:
    """What a profile says of its rows. `features` by name, in the order of the columns, predictions last."""

    row_count: int
    features: Mapping[str, FeatureReference]
    accuracy: float | None
    judged_count: int
    duplicate_share: float


@dataclass(frozen=True, slots=True)
class Clusters:
    """A way to put rows into clusters: `of_row` [N] is below `count`, or at it where a row is in none."""

    of_row: NDArray[np.intp]
    count: int


def build_reference(
    frame: Frame,
    columns: Columns,
    clusterings: Sequence[Clusters] = (),
    users: NDArray[np.uint32] | None = None,
) -> Description:
    """Describe the rows of a frame.

    Args:
        frame: the rows.
        columns: what they are; its names must be there.
        clusterings: ways in which rows belong together; a group column, or users, are one more.
        users: the number [N] of each row's user, 0 where none is named; a group column goes before it.

    Raises:
        InvalidArgument: TOO_FEW_ROWS, NO_FEATURES, TOO_MANY_FEATURES, UNKNOWN_COLUMN, INVALID_COLUMNS (hardly any
            value is of the kind that is told).
    """
    _check(frame, columns)
    if columns.group:
        users = user_numbers(frame.columns[columns.group])
    if users is not None:
        clusterings = (*clusterings, Clusters(groups_of(users), GROUPS))
    predictions = {_prediction_name(name, columns.predictions): name for name in columns.predictions}
    apart = {*columns.predictions, *columns.ignored, columns.label, columns.group}
    inputs = {name: column for name, column in frame.columns.items() if name not in apart}
    if not inputs and not predictions:
        raise InvalidArgument("no column is left that is a feature; name fewer to ignore", reason="NO_FEATURES")
    hashes = row_hashes(inputs.values(), frame.row_count) if inputs else np.empty(0, np.uint64)
    accuracy, judged_count = _accuracy(frame, columns)
    features = {
        name: _feature(name, column, columns.kinds.get(name), clusterings, users, is_prediction=False)
        for name, column in inputs.items()
    }
    for name, column_name in predictions.items():
        kind = columns.kinds.get(column_name, columns.kinds.get(name))
        features[name] = _feature(name, frame.columns[column_name], kind, clusterings, users, is_prediction=True)
    if len(predictions) == 1 and features[next(iter(predictions))].kind is FeatureKind.NUMERIC:
        accuracy, judged_count = None, 0  # of a regression equality says nothing
    return Description(frame.row_count, features, accuracy, judged_count, repeated_share(hashes))


def repeated_share(hashes: NDArray[np.uint64]) -> float:
    """Give the share of rows that repeat another, by their hashes."""
    return repeats(hashes) / hashes.size if hashes.size else 0.0


def kind_of(column: Column) -> FeatureKind:
    """Find the kind that a column's values suggest, by what most of them are."""
    counts = {tag: int(np.count_nonzero(column.has(tag))) for tag in Tag}
    tag = max((Tag.NUMBER, Tag.BOOLEAN, Tag.TEXT, Tag.VECTOR), key=lambda tag: counts[tag])
    count = counts[tag]
    if tag == Tag.VECTOR and count:
        return FeatureKind.EMBEDDING
    if tag == Tag.BOOLEAN and count:
        return FeatureKind.BOOLEAN
    if tag == Tag.NUMBER and count:
        return _kind_of_numbers(column)
    if tag == Tag.TEXT and column.texts is not None:
        kinds = len(column.texts.known)
        return FeatureKind.TEXT_LENGTH if kinds > max(MAX_CATEGORIES, count / 2) else FeatureKind.CATEGORICAL
    return FeatureKind.CATEGORICAL


def _kind_of_numbers(column: Column) -> FeatureKind:
    _, values = numbers_of(column, FeatureKind.NUMERIC)
    # Mostly a thousand rows tell, and all of them need not be sorted for it.
    for some in (values[:1_000], values):
        finite = some[np.isfinite(some)]
        if (finite != np.floor(finite)).any() or np.unique(finite).size > MAX_WHOLE_CATEGORIES:
            return FeatureKind.NUMERIC
    return FeatureKind.CATEGORICAL


def _check(frame: Frame, columns: Columns) -> None:
    if frame.row_count < MIN_ROWS:
        came = "1 row" if frame.row_count == 1 else f"{frame.row_count} rows"
        sentence = f"{came} came; a profile needs {MIN_ROWS} at least, and thousands to be of use"
        raise InvalidArgument(sentence, reason="TOO_FEW_ROWS")
    if len(frame.columns) > MAX_FEATURES + len(columns.ignored):
        raise too_many_features()
    check_there(columns.named - {PREDICTION}, list(frame.columns))


def check_there(named: frozenset[str], there: Sequence[str]) -> None:
    """Refuse names that no column has. The ignored are looked for where rows are read: a frame has them no more.

    Raises:
        InvalidArgument: UNKNOWN_COLUMN.
    """
    unknown = sorted(named.difference(there))
    if unknown:
        more = f" and {len(there) - _SHOWN_NAMES:,} more" if len(there) > _SHOWN_NAMES else ""
        names = ", ".join(repr(name[:128]) for name in there[:_SHOWN_NAMES])
        sentence = f"there is no column {unknown[0][:128]!r}; there are {names}{more}"
        raise InvalidArgument.field("columns", sentence, reason="UNKNOWN_COLUMN")


def too_many_features() -> InvalidArgument:
    """Say that a profile has no room for so many."""
    sentence = f"more than {MAX_FEATURES:,} columns came; name those to ignore, or send a vector as a list"
    return InvalidArgument(sentence, reason="TOO_MANY_FEATURES")


def _prediction_name(name: str, all_names: Sequence[str]) -> str:
    """Name an output as those of live data are."""
    if len(all_names) == 1:
        return PREDICTION
    named = name == PREDICTION or name.startswith((f"{PREDICTION}.", f"{PREDICTION}["))
    return name if named else f"{PREDICTION}.{name}"


def _accuracy(frame: Frame, columns: Columns) -> tuple[float | None, int]:
    """Compare predictions with labels as outcomes are compared with feedback."""
    if not columns.label or len(columns.predictions) != 1:
        return None, 0
    predicted = _literals(frame.columns[columns.predictions[0]])
    actual = _literals(frame.columns[columns.label])
    right = [one == other for one, other in zip(predicted, actual, strict=True) if None not in (one, other)]
    return (sum(right) / len(right), len(right)) if right else (None, 0)


def _literals(column: Column) -> Iterable[str | None]:
    codes, values = distinct(column)
    literals = [*map(literal_of, values), None]
    return (literals[code] for code in codes.tolist())


def _feature(
    name: str,
    column: Column,
    kind: FeatureKind | None,
    clusterings: Sequence[Clusters],
    users: NDArray[np.uint32] | None,
    *,
    is_prediction: bool,
) -> FeatureReference:
    empty = FeatureReference(name, kind or kind_of(column), is_prediction, counts=(0, 0))
    row_count = column.tags.size
    if empty.kind in (FeatureKind.NUMERIC, FeatureKind.TEXT_LENGTH):
        found, placed = _of_numbers(empty, column), None
    else:
        found = _of_categories(empty, column)
        placed = place(column, found, row_count)
        quality = placed.quality / row_count
        found = replace(
            found,
            counts=tuple(placed.counts.tolist()),
            quality=dict(zip(QUALITY_COUNTS, quality.tolist(), strict=True)),
            sample=_sample(placed, users),
        )
    if kind is not None:
        _check_kind(column, found)
    placed = placed or place(column, found, row_count)
    tables = [grouped_counts(placed.bins, placed.bin_count, each.of_row, each.count) for each in clusterings]
    spread = max(greatest_overdispersion(tables), overdispersion_in_order(placed.bins, placed.bin_count))
    return replace(found, overdispersion=spread)


def _check_kind(column: Column, found: FeatureReference) -> None:
    """Refuse a kind that a column is not of: its moments and bins would describe next to nothing."""
    present = int(np.count_nonzero(~column.has(Tag.MISSING)))
    fitting = present - round(found.quality["wrong_type"] * column.tags.size)
    if fitting < _FITTING_SHARE * present:
        sentence = (
            f"column {found.name[:128]!r} is told to be {found.kind.name}, and {fitting:,} of its {present:,} values "
            f"fit; by its values it is {kind_of(column).name}: leave its kind out, or correct the column"
        )
        raise InvalidArgument.field("columns.kinds", sentence, reason="INVALID_COLUMNS")


def _of_numbers(empty: FeatureReference, column: Column) -> FeatureReference:
    """Describe numbers without placing each: their order says where they fall."""
    row_count = column.tags.size
    _, values = numbers_of(column, empty.kind)
    missing = int(np.count_nonzero(column.has(Tag.MISSING)))
    finite = values[np.isfinite(values)] if values.size and not np.isfinite(values.sum()) else values
    not_finite = values.size - finite.size
    wrong = row_count - values.size - missing
    numbers = describe(finite)
    quality = {"wrong_type": wrong, "not_finite": not_finite, "outlier": numbers.outlier_count}
    return replace(
        empty,
        counts=(*numbers.counts, missing, wrong + not_finite),
        edges=numbers.edges,
        moments=numbers.moments,
        quality={name: quality.get(name, 0) / row_count for name in QUALITY_COUNTS},
    )


def _of_categories(empty: FeatureReference, column: Column) -> FeatureReference:
    if empty.kind is FeatureKind.EMBEDDING:
        dimensions = 0 if column.vectors is None else column.vectors.shape[1]
        return replace(empty, dimensions=dimensions)
    if empty.kind is FeatureKind.BOOLEAN:
        return replace(empty, categories=("false", "true"), counts=(0, 0, 0, 0))
    codes, values = distinct(column)
    counts = np.bincount(codes[codes >= 0], minlength=len(values)).tolist()
    by_name: Counter[str] = Counter()
    for value, count in zip(values, counts, strict=True):
        if not isinstance(value, float) or np.isfinite(value):
            by_name[category_of(value)] += count
    # The most frequent; of equally frequent ones the first in the alphabet, so that it is the same again.
    names = tuple(sorted(by_name, key=lambda name: (-by_name[name], name))[:MAX_CATEGORIES])
    return replace(empty, categories=names, counts=(0,) * (len(names) + 2))


def _sample(placed: Placed, users: NDArray[np.uint32] | None) -> VectorSample | None:
    if placed.vectors is None:
        return None
    rows, vectors = placed.vectors
    of_rows = np.zeros(rows.size, np.uint32) if users is None else users[rows]
    if vectors.shape[0] <= SAMPLE_SIZE:
        return VectorSample(vectors, of_rows)
    chosen = np.sort(np.random.default_rng(_SEED).choice(vectors.shape[0], SAMPLE_SIZE, replace=False))
    return VectorSample(vectors[chosen], of_rows[chosen])
