"""Features that are computed: when rows are written, and when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from services.common.errors import InvalidArgument
from services.registry.features.expressions.plan import Plan, computed, plan_of
from services.registry.features.models import Column, FeatureStatus, FeatureType, Rows, Selected, Times, View


def written(view: View, rows: Rows) -> Rows:
    """Add to rows what is computed when they are written."""
    plan = plan_of(view.features, view.request_values)
    if not plan.on_write:
        return rows
    found = computed(plan.on_write, plan.types, rows.columns, event_times=rows.event_times)
    return replace(rows, columns={**rows.columns, **found})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a view.

    Attributes:
        view: the view.
        names: its features, in the order in which they are given.
        places: those of its stored features that are read for them.
        plan: how it computes.
        brought: the request's values, of the types that the view says.
    """

    view: View
    names: Sequence[str]
    places: Sequence[int]
    plan: Plan
    brought: Mapping[str, Column]

    def given(self, selected: Selected, read_times: Times) -> Selected:
        """Give what was read with what is computed of it, in the order of `names`."""
        needed = self.plan.needed(self.names)
        steps = [each for each in self.plan.on_read if each.feature.name in needed]
        columns = dict(selected.columns)
        if steps:
            known = np.array([status is not FeatureStatus.ABSENT for status in selected.statuses], np.bool_)
            columns |= computed(
                steps,
                self.plan.types,
                {**columns, **self.brought},
                event_times=selected.event_times,
                known=known,
                read_times=read_times,
            )
        return replace(selected, columns={name: columns[name] for name in self.names})


def wanted(view: View, names: Sequence[str], brought: Mapping[str, Column]) -> Wanted:
    """Say what is read and computed for features; none: all.

    Raises:
        InvalidArgument: the view has no such feature (UNKNOWN_FEATURE), or a value that was brought is of another type
            than it says (WRONG_TYPE).
    """
    there = {feature.name for feature in view.features}
    for name in names:
        if name not in there:
            known = ", ".join(each.name for each in view.features)
            sentence = f"view {view.name!r} {view.version} has no feature {name[:80]!r}; it has {known}"
            raise InvalidArgument.field("features", sentence, reason="UNKNOWN_FEATURE")
    plan = plan_of(view.features, view.request_values)
    given = list(names) or [feature.name for feature in view.features]
    needed = plan.needed(given)
    places = [place for place, feature in enumerate(view.stored) if feature.name in needed]
    values = {
        each.name: _as(each.name, each.type, brought[each.name]) for each in view.request_values if each.name in brought
    }
    return Wanted(view, given, places, plan, values)


def check_known(views: Sequence[View], brought: Mapping[str, Column]) -> None:
    """See that some view takes each value of a request; raises InvalidArgument (UNKNOWN_REQUEST_VALUE)."""
    taken = {each.name for view in views for each in view.request_values}
    for name in brought:
        if name not in taken:
            known = f"they take {', '.join(sorted(taken))}" if taken else "they take none"
            sentence = f"none of the views takes it; {known}"
            raise InvalidArgument.field(f"request_values[{name[:80]!r}]", sentence, reason="UNKNOWN_REQUEST_VALUE")


def _as(name: str, kind: FeatureType, column: Column) -> Column:
    """Give values as the type that they are to have: whole numbers are doubles, too, and points in time."""
    dtype = column.values.dtype.kind if column.values.ndim == 1 else "2"
    if dtype not in _FITTING[kind]:
        sentence = f"the view says {kind.value}, and other values came"
        raise InvalidArgument.field(f"request_values[{name[:80]!r}]", sentence, reason="WRONG_TYPE")
    return Column(column.values.astype("<f8"), column.missing) if kind is FeatureType.FLOAT64 else column


_FITTING = {
    FeatureType.FLOAT64: "fi",
    FeatureType.INT64: "i",
    FeatureType.BOOL: "b",
    FeatureType.STRING: "O",
    FeatureType.FLOAT64_LIST: "2",
    FeatureType.TIMESTAMP: "i",
}
"""The kinds of numpy that values of a type may have; 2: two dimensions of doubles."""
