"""Conditions of alert rules as people write them."""

from __future__ import annotations

import difflib
import re
from datetime import timedelta

import typer

CONDITION = re.compile(r"\s*(?P<metric>[a-z0-9_]+)\s*(?P<sign>>=|<=|>|<)\s*(?P<threshold>\S+)\s*")
_WITH_UNIT = re.compile(r"([+-]?\d+(?:\.\d+)?)[a-zA-Z]+")
_CHECKED_WINDOW = timedelta(hours=24)
_WINDOW = timedelta(minutes=15)


def parse_condition(text: str) -> tuple[str, str, float]:
    """Read `p95_latency_ms > 200`: the metric, the sign and the threshold, `5%` being 0.05."""
    from penstock.alert_rules import METRICS

    found = CONDITION.fullmatch(text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no condition: a metric, a sign and a number, such as 'error_rate > 0.05'", param_hint="--when"
        )
    known = [metric for metrics in METRICS.values() for metric in metrics]
    if found["metric"] not in known:
        near = difflib.get_close_matches(found["metric"], known)
        meant = f"did you mean {' or '.join(near)}?" if near else f"these can: {', '.join(known)}"
        raise typer.BadParameter(f"{found['metric']!r} can't be watched; {meant}", param_hint="--when")
    number, percent = found["threshold"].removesuffix("%"), found["threshold"].endswith("%")
    try:
        threshold = float(number)
    except ValueError as error:
        bare = _WITH_UNIT.fullmatch(number)
        meant = f"; write {bare[1]}: the metric's name says the unit" if bare else ""
        raise typer.BadParameter(f"{found['threshold']!r} is no number{meant}", param_hint="--when") from error
    return found["metric"], found["sign"], threshold / 100 if percent else threshold


def default_window(metric: str) -> timedelta:
    """Choose a window that suits a metric: of checks the latest counts, which may be hours old."""
    from penstock.alert_rules import type_of
    from penstock.api.monitoring.v1 import alerts_pb2 as pb

    checked = type_of(metric) in (pb.ALERT_TYPE_DRIFT, pb.ALERT_TYPE_DATA_QUALITY)
    return _CHECKED_WINDOW if checked else _WINDOW
