"""What of a view is computed, in which order, and from what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidArgument
from services.registry.features.expressions.arrays import to_array, to_column
from services.registry.features.expressions.language import Expression, Refused, Rows, as_type, compiled
from services.registry.features.expressions.language import Step as _Step
from services.registry.features.models import (
    FIRST_US,
    LAST_US,
    Column,
    Computation,
    Feature,
    FeatureType,
    RequestValue,
    Times,
)

if TYPE_CHECKING:
    import pyarrow

EVENT_TIME, READ_TIME = "event_time()", "read_time()"


@dataclass(frozen=True, slots=True)
class Computed:
    """A feature and its expression."""

    feature: Feature
    expression: Expression


@dataclass(frozen=True, slots=True)
class Plan:
    """What is computed of a view.

    Attributes:
        on_write: features that are computed when rows are written, each after those that it needs.
        on_read: likewise, of each read.
        types: of all names, request values among them.
    """

    on_write: Sequence[Computed]
    on_read: Sequence[Computed]
    types: Mapping[str, FeatureType]

    def needed(self, names: Sequence[str]) -> frozenset[str]:
        """Give all that features are computed from on read, themselves among them."""
        found = set(names)
        for each in reversed(self.on_read):  # each after those that it needs
            if each.feature.name in found:
                found |= each.expression.names
        return frozenset(found)


@lru_cache(maxsize=1_024)
def plan_of(features: tuple[Feature, ...], request_values: tuple[RequestValue, ...] = ()) -> Plan:
    """Make the plan of a view.

    Raises:
        InvalidArgument: an expression is not of the language, its type is not the feature's, or it needs what is not
            there when it is computed (INVALID_EXPRESSION, naming the feature).
    """
    types = {each.name: each.type for each in features} | {each.name: each.type for each in request_values}
    places = {feature.name: place for place, feature in enumerate(features)}
    later = {each.name for each in features if each.computation is Computation.ON_READ}
    later |= {each.name for each in request_values}
    found: dict[str, Computed] = {}
    for feature in features:
        if feature.expression:
            field = f"view.features[{places[feature.name]}].expression"
            found[feature.name] = _computed(field, feature, types, later)
    ordered = _ordered(found, places)
    on_read = [each for each in ordered if each.feature.name in later]
    return Plan([each for each in ordered if each.feature.name not in later], on_read, types)


def computed(
    steps: Sequence[Computed],
    types: Mapping[str, FeatureType],
    columns: Mapping[str, Column],
    *,
    event_times: Times,
    known: NDArray[np.bool_] | None = None,
    read_times: Times | None = None,
) -> dict[str, Column]:
    """Compute features of rows; gives the columns of all steps.

    `event_times` count where `known` says so, None: everywhere. A name without a column is missing in all rows.
    """
    import pyarrow

    count = len(event_times)
    arrays = {EVENT_TIME: pyarrow.array(event_times, mask=None if known is None else ~known)}
    if read_times is not None:
        arrays[READ_TIME] = pyarrow.array(read_times)
    for name in {name for step in steps for name in step.expression.names}:
        arrays[name] = to_array(types[name], columns.get(name), count)
    found: dict[str, Column] = {}
    for step in steps:
        array = step.expression.run(Rows(count, arrays))
        if step.feature.type is FeatureType.TIMESTAMP:
            array = _in_years(array)
        arrays[step.feature.name] = array
        found[step.feature.name] = to_column(step.feature.type, array)
    return found


def _in_years(array: pyarrow.Array) -> pyarrow.Array:
    """Leave out points in time that no calendar has: before the year 1, after 9999."""
    import pyarrow
    from pyarrow import compute

    there = compute.and_(compute.greater_equal(array, FIRST_US), compute.less_equal(array, LAST_US))
    return compute.if_else(there, array, pyarrow.scalar(None, array.type))


def _computed(field: str, feature: Feature, types: Mapping[str, FeatureType], later: set[str]) -> Computed:
    try:
        expression = compiled(feature.expression, types)
    except Refused as error:
        raise _refused(field, str(error)) from error
    step = as_type(_Step(expression.kind, expression.run), feature.type)
    if step is None:
        raise _refused(field, f"it gives {expression.kind.value}, and the feature is {feature.type.value}")
    if feature.computation is not Computation.ON_READ:
        if unknown := sorted(expression.names & later):
            raise _refused(field, f"{unknown[0]!r} is known on read alone; compute this one ON_READ, too")
        if "read_time" in expression.clocks:
            raise _refused(field, "read_time() is known on read alone; compute this one ON_READ")
    return Computed(feature, Expression(step.kind, expression.names, expression.clocks, step.run))


def _ordered(found: Mapping[str, Computed], places: Mapping[str, int]) -> list[Computed]:
    """Put each behind those that it needs; raises InvalidArgument where some need each other."""
    ordered: dict[str, Computed] = {}
    left = dict(found)
    while left:
        ready = [name for name, each in left.items() if not each.expression.names & left.keys()]
        if not ready:
            name = next(iter(left))
            among = ", ".join(left)
            raise _refused(f"view.features[{places[name]}].expression", f"computed from itself, by way of {among}")
        ordered |= {name: left.pop(name) for name in ready}
    return list(ordered.values())


def _refused(field: str, sentence: str) -> InvalidArgument:
    return InvalidArgument.field(field, sentence, reason="INVALID_EXPRESSION")
