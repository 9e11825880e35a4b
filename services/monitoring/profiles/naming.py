"""Whether a reference's features are called as what comes is: one that nothing fits is compared with nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from services.monitoring.profiles.layouts import EMBEDDING_DIMENSIONS, Layout
from services.monitoring.profiles.models import Reference
from services.monitoring.profiles.reference import Description
from services.monitoring.profiles.registrations import Inputs
from services.monitoring.profiles.values import LiveRow, decode_features

_SHOWN = 10


def layout_of(inputs: Inputs) -> Layout | None:
    """Take the names of the columns that were declared of a version's only input; None where none were."""
    names = _declared(inputs)
    if not names:
        return None
    known = frozenset(names)
    return Layout(tuple(names), known, frozenset(), {}, outcome=False, open=True)


def in_order_of(inputs: Inputs, description: Description) -> Description:
    """Put features into the order of the columns that were declared: a tensor's are told by their place alone."""
    places = {name: place for place, name in enumerate(_declared(inputs))}
    features = sorted(description.features.items(), key=lambda one: places.get(one[0], len(places)))
    return replace(description, features=dict(features))


def strange_to_inputs(reference: Reference, inputs: Inputs) -> str:
    """Say which features no input of a version has, and what its inputs are called; empty: all is well."""
    features, called = Layout.of(reference).features, _names(inputs)
    open_names = {each.name for each in inputs if not each.width}
    strange = [name for name in features if name not in called and name.split("[")[0] not in open_names]
    if not strange:
        return ""
    if len(inputs) > 1:
        return _sentence(reference, strange, called, "no input of the version is called so")
    (sole,) = inputs
    if sole.width not in (0, len(features)):
        columns = "1 column" if sole.width == 1 else f"{sole.width:,} columns"
        why = f"the version's only input has {columns}, told by place: a profile needs all of them"
        return _sentence(reference, features, sole.columns or called, why)
    strange = [name for name in features if name not in sole.columns]
    if not sole.columns or not strange:
        return ""  # the profile names the input's columns, or they were put in order
    return (
        f"{_listed(features)} of {reference.model}'s profile will be compared with {_listed(sole.columns)} of the "
        "version, one by one in this order: their names differ"
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


def _declared(inputs: Inputs) -> tuple[str, ...]:
    return inputs[0].columns if len(inputs) == 1 else ()


def _names(inputs: Inputs) -> list[str]:
    """Name the columns of inputs as they are captured."""
    found: list[str] = []
    for each in inputs:
        cut = 1 < each.width < EMBEDDING_DIMENSIONS
        found += [f"{each.name}[{number}]" for number in range(each.width)] if cut else [each.name]
    return found


def _sentence(reference: Reference, strange: Sequence[str], called: Sequence[str], why: str) -> str:
    return (
        f"nothing will be compared with {_listed(strange)} of {reference.model}'s profile: {why}; "
        f"the names are {_listed(called)}"
    )


def _listed(names: Iterable[str]) -> str:
    all_names = list(names)
    more = f" and {len(all_names) - _SHOWN:,} more" if len(all_names) > _SHOWN else ""
    return ", ".join(name if name.isprintable() else repr(name)[1:-1] for name in all_names[:_SHOWN]) + more
