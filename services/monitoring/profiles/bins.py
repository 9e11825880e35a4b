"""Where values fall: the bins of a reference, and what is bad about them.

Each value has one bin, whatever it is:

| value | bin | counted beside |
|---|---|---|
| none, null, NaN; a vector with one of these in it | missing | |
| ±Inf; a vector with one in it | other | not_finite |
| of another kind: a text or a boolean for a number, a list, something nested | other | wrong_type |
| a category that the reference does not have | other | unknown_category |
| a number beyond the reference's least or greatest | an outer bin | out_of_range |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.monitoring.outcomes import literal_of
from services.monitoring.profiles.frames import Column, Floats, Rows, Tag, distinct
from services.monitoring.profiles.models import QUALITY_COUNTS, FeatureKind, FeatureReference, Moments

OUTLIER_Z = 3.5
"""Robust z-scores |x - median| / MAD above it are outliers (Iglewicz and Hoaglin, How to Detect and Handle Outliers,
1993, section 3.3); the MAD here is scaled to be σ where values are normal, as their 0.6745 does."""
_ROUNDING = 1e-6
"""Relative: a value that a float32 holds is not beyond the same value in a float64."""
_NUMERIC = frozenset({FeatureKind.NUMERIC, FeatureKind.TEXT_LENGTH})
_NAMED = {True: "true", False: "false"}


@dataclass(frozen=True, slots=True)
class Placed:
    """A feature's values, placed.

    Attributes:
        bins: [N]: the value bins from 0, then missing, then other; a vector that is good is at `bin_count`.
        bin_count: B + 2.
        quality: how many are bad, in the order of QUALITY_COUNTS.
        finite: the finite numbers, or lengths, among the values.
        vectors: of an EMBEDDING: its rows that are good, and their vectors.
    """

    bins: NDArray[np.intp]
    bin_count: int
    quality: NDArray[np.int64]
    finite: Floats
    vectors: tuple[Rows, NDArray[np.float32]] | None = None

    @property
    def counts(self) -> NDArray[np.int64]:
        """[B + 2]: how many values each bin has."""
        return np.bincount(self.bins, minlength=self.bin_count)[: self.bin_count].astype(np.int64)

    @property
    def present(self) -> NDArray[np.bool_]:
        """[N]: which rows have a value that is not missing."""
        found: NDArray[np.bool_] = self.bins != self.bin_count - 2
        return found


class _Faults:
    """What is bad, by name."""

    def __init__(self) -> None:
        self.counts = np.zeros(len(QUALITY_COUNTS), np.int64)

    def add(self, name: str, found: NDArray[np.bool_]) -> None:
        self.counts[QUALITY_COUNTS.index(name)] += np.count_nonzero(found)


def place(column: Column | None, feature: FeatureReference, row_count: int) -> Placed:
    """Place the rows of a column, [N]; None is a column that never came."""
    value_bins = len(feature.counts) - 2
    if column is None:
        bins = np.full(row_count, value_bins, np.intp)
        return Placed(bins, value_bins + 2, np.zeros(len(QUALITY_COUNTS), np.int64), np.empty(0))
    faults = _Faults()
    # All are other until they are found to be something better.
    bins = np.full(row_count, value_bins + 1, np.intp)
    bins[column.has(Tag.MISSING)] = value_bins
    finite, vectors = np.empty(0), None
    if feature.kind in _NUMERIC:
        finite = _place_numbers(column, feature, bins, faults)
    elif feature.kind is FeatureKind.EMBEDDING:
        vectors = _place_vectors(column, feature, bins, faults)
    else:
        _place_categories(column, feature, bins, faults)
    return Placed(bins, value_bins + 2, faults.counts, finite, vectors)


def _place_numbers(column: Column, feature: FeatureReference, bins: NDArray[np.intp], faults: _Faults) -> Floats:
    good, values = numbers_of(column, feature.kind)
    faults.add("wrong_type", ~good & ~column.has(Tag.MISSING))
    rows = np.flatnonzero(good)
    finite = np.isfinite(values)
    faults.add("not_finite", ~finite)
    rows, values = rows[finite], values[finite]
    bins[rows] = np.searchsorted(np.array(feature.edges), values, side="left")
    if feature.moments is not None and feature.moments.count:
        least, greatest = range_of(feature.moments)
        faults.add("out_of_range", (values < least) | (values > greatest))
        if feature.moments.mad > 0:
            far = np.abs(values - feature.moments.median) > OUTLIER_Z * feature.moments.mad
            faults.add("outlier", far)
    return values


def numbers_of(column: Column, kind: FeatureKind) -> tuple[NDArray[np.bool_], Floats]:
    """Find which rows [N] have a number, or a text's length, and these, in order; they may be infinite.

    They may be the column's own array.
    """
    if kind is FeatureKind.TEXT_LENGTH:
        good = column.has(Tag.TEXT)
        if column.texts is None:
            return good, np.empty(0)
        return good, column.texts.lengths[column.texts.codes[good]].astype(np.float64)
    good = column.has(Tag.NUMBER)
    if column.numbers is None:
        return good, np.empty(0)
    return good, column.numbers if good.all() else column.numbers[good]


def range_of(moments: Moments) -> tuple[float, float]:
    """Give the least and the greatest value that are not out of range."""
    slack = _ROUNDING * max(abs(moments.min), abs(moments.max))
    return moments.min - slack, moments.max + slack


def _place_vectors(
    column: Column, feature: FeatureReference, bins: NDArray[np.intp], faults: _Faults
) -> tuple[Rows, NDArray[np.float32]] | None:
    rows = np.flatnonzero(column.has(Tag.VECTOR))
    vectors = column.vectors
    fits = vectors is not None and vectors.shape[1] == feature.dimensions
    good = column.has(Tag.MISSING)
    if fits:
        good |= column.has(Tag.VECTOR)
    faults.add("wrong_type", ~good)
    if vectors is None or not fits:
        return None
    finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(vectors), axis=1)
    missing = lacking(vectors)
    faults.add("not_finite", ~finite & ~missing)
    bins[rows[missing]] = len(feature.counts) - 2
    rows = rows[finite]
    bins[rows] = len(feature.counts)
    return rows, vectors[finite]


def lacking(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Say which vectors [N, dimensions] lack a value: they are missing."""
    found: NDArray[np.bool_] = np.logical_or.reduce(np.isnan(vectors), axis=1)
    return found


def _place_categories(column: Column, feature: FeatureReference, bins: NDArray[np.intp], faults: _Faults) -> None:
    codes, values = distinct(column)
    if column.numbers is not None:
        is_number = column.has(Tag.NUMBER)
        faults.add("not_finite", is_number & ~np.isfinite(column.numbers))
    known = {category: number for number, category in enumerate(feature.categories)}
    name = boolean_of if feature.kind is FeatureKind.BOOLEAN else category_of
    unknown, wrong, place_of_unknown = -2, -3, len(feature.counts) - 1
    places = [wrong if key is None else known.get(key, unknown) for key in map(name, values)]
    infinite = [isinstance(value, float) and not np.isfinite(value) for value in values]
    found = np.array([*places, -1], np.intp)[codes]
    is_infinite = np.array([*infinite, False])[codes]
    bins[found >= 0] = found[found >= 0]
    bins[found < -1] = place_of_unknown
    faults.add("unknown_category", (found == unknown) & ~is_infinite)
    nested = column.has(Tag.NESTED) | column.has(Tag.VECTOR)
    faults.add("wrong_type", ((found == wrong) & ~is_infinite) | nested)


def category_of(value: bool | float | str) -> str:
    """Name the category of a value of a column: equal numbers have equal names, a boolean is `true` or `false`."""
    if isinstance(value, bool):
        return _NAMED[value]
    return value if isinstance(value, str) else literal_of(value) or str(value)


def boolean_of(value: bool | float | str) -> str | None:
    """Name a boolean; 0 and 1 are booleans, None is what is none."""
    return None if isinstance(value, str) or value not in (0, 1) else _NAMED[bool(value)]
