"""Whether a reference's features are called as what comes is: one that nothing fits is missing in every row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.monitoring.profiles.layouts import EMBEDDING_DIMENSIONS, Layout
from services.monitoring.profiles.models import Reference
from services.monitoring.profiles.registrations import Inputs
from services.monitoring.profiles.values import LiveRow, decode_features

_SHOWN = 10


def declared(inputs: Inputs) -> tuple[str, ...]:
    """Give what the columns of a version's only input were declared to be called; empty where nobody said."""
    return inputs[0].columns if len(inputs) == 1 else ()


def strange_to_inputs(reference: Reference, inputs: Inputs) -> str:
    """Say which features no input of a version has, and what its inputs are called; empty: all is well."""
    layout = Layout.of(reference, declared(inputs))
    called = list(layout.columns) or _names(inputs)
    open_names = {each.name for each in inputs if not each.width}
    strange = [name for name in layout.features if name not in called and name.split("[")[0] not in open_names]
    if not strange:
        return ""
    if len(inputs) > 1 or layout.columns:
        return _sentence(reference, strange, called, "no input of the version has one called so")
    (sole,) = inputs
    if sole.width not in (0, len(layout.features)):
        columns = "1 column" if sole.width == 1 else f"{sole.width:,} columns"
        why = f"the version's only input has {columns}, told by place: a profile needs all of them"
        return _sentence(reference, layout.features, sole.columns or called, why)
    if not sole.columns:
        return ""  # the profile names the input's columns
    return (
        f"{_listed(layout.features)} of {reference.model}'s profile will be compared with {_listed(sole.columns)} of "
        "the version, one by one in this order: their names differ"
    )


def strange_to_events(reference: Reference, events: Sequence[LiveRow]) -> str:
    """Say which features none of these events has, and what theirs are called; empty: all is well."""
    decoded = decode_features(events, Layout.of(reference))
    strange = [name for name in Layout.of(reference).features if name not in decoded.frame.columns]
    if not strange:
        return ""
    came = [*decoded.frame.columns, *decoded.unknown]
    newest = "the newest prediction" if len(events) == 1 else f"the newest {len(events):,} predictions"
    return _sentence(reference, strange, came, f"{newest} had none called so")


def _names(inputs: Inputs) -> list[str]:
    """Name the columns of inputs as they are captured."""
    found: list[str] = []
    for each in inputs:
        cut = 1 < each.width < EMBEDDING_DIMENSIONS
        found += [f"{each.name}[{number}]" for number in range(each.width)] if cut else [each.name]
    return found


def _sentence(reference: Reference, strange: Sequence[str], called: Sequence[str], why: str) -> str:
    return (
        f"{_listed(strange)} of {reference.model}'s profile will be missing in every row: {why}; "
        f"the names are {_listed(called)}"
    )


def _listed(names: Iterable[str]) -> str:
    all_names = list(names)
    more = f" and {len(all_names) - _SHOWN:,} more" if len(all_names) > _SHOWN else ""
    return ", ".join(name if name.isprintable() else repr(name)[1:-1] for name in all_names[:_SHOWN]) + more
