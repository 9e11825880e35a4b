"""The values that rules compare, read once a turn for all versions at once, however many rules ask for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping
from datetime import datetime, timedelta
from typing import Any

from penstock.durations import write_duration
from services.common.errors import DomainError
from services.monitoring.alerts import readings
from services.monitoring.alerts.conditions import METRICS, Reading
from services.monitoring.alerts.models import AlertType, MissingData, Operator, Rule, Target
from services.monitoring.alerts.registered import Standing
from services.monitoring.alerts.sources import Sources
from services.monitoring.feature_views.subjects import view_of
from services.monitoring.models import Window
from services.monitoring.rollups.totals import EveryTotal

LOOK_BACK = timedelta(hours=24)
"""Rules that miss traffic look for versions that had some within this long; others are done with one after it."""
_TRAFFIC = ("inference_count", "throughput_per_s")
_PERCENTILES = ("p50_latency_ms", "p95_latency_ms", "p99_latency_ms")
_BELOW = (Operator.LESS, Operator.LESS_OR_EQUAL)
_CHECKED = (AlertType.DRIFT, AlertType.DATA_QUALITY)
Answering = Mapping[str, Collection[str]]
"""By model, the versions that had traffic; the empty one: some calls failed before a version was chosen."""


def misses_traffic(rule: Rule) -> bool:
    """Say whether a rule is about traffic that does not come."""
    return rule.missing_data is MissingData.ALERT or (rule.metric in _TRAFFIC and rule.operator in _BELOW)


def _misses_any(rule: Rule) -> bool:
    """Say whether it is one alert of the model as a whole where none of its versions has predictions to be judged by.

    A version that was replaced, and one that nobody asks, are missed by nobody.
    """
    return rule.missing_data is MissingData.ALERT and not rule.version and rule.type not in _CHECKED


def of_whole(rule: Rule) -> bool:
    """Say whether a rule is judged for a model as a whole, the empty version, and not for each of its versions.

    What adds up is, unless the rule names a version: one that answers no more says nothing about its model. Of all else
    the whole's value lies between those of its versions, so that these tell all that it could, and one fact is told
    once.
    """
    return METRICS[rule.metric].adds_up and not rule.version


class Values:
    """What rules see at one moment."""

    def __init__(self, sources: Sources, now: datetime) -> None:
        self._sources = sources
        self._now = now
        self._read: dict[Hashable, Any] = {}
        self._checks: dict[AlertType, dict[tuple[str, str], Any]] = {AlertType.DRIFT: {}, AlertType.DATA_QUALITY: {}}

    def targets(self, rule: Rule) -> set[Target]:
        """Name what a rule is judged for: models as a whole (`of_whole`), or the versions with traffic in its window.

        A rule about traffic that does not come is judged for the version or the model that it names, whatever came;
        else, where no version has any in the window, for models that had some within LOOK_BACK, and of checks for their
        versions. The share of calls that failed before a version was chosen is the model's: the empty version.
        """
        if misses_traffic(rule) and (rule.version or (rule.model and of_whole(rule))):
            return {Target(rule.model, rule.version)}
        span = max(rule.window, LOOK_BACK) if misses_traffic(rule) else rule.window
        lately, before = self._answering(rule, rule.window), self._answering(rule, span)
        models = before.keys() & {rule.model} if rule.model else before.keys()
        if of_whole(rule):
            return {Target(model, "") for model in models}
        found = {Target(model, each) for model in models for each in self.versions(rule, model)}
        if METRICS[rule.metric].of_calls:
            found |= {Target(model, "") for model in models if "" in lately.get(model, ())}
        if _misses_any(rule):
            found |= {Target(model, "") for model in models if not any(lately.get(model, ()))}
        return {target for target in found if rule.version in ("", target.version)}

    def versions(self, rule: Rule, model: str) -> set[str]:
        """Name a model's versions with traffic in a rule's window, or, of one that misses them, those before them."""
        lately = {each for each in self._answering(rule, rule.window).get(model, ()) if each}
        if lately or not misses_traffic(rule) or _misses_any(rule):
            return lately
        return {each for each in self._answering(rule, max(rule.window, LOOK_BACK)).get(model, ()) if each}

    def over(self, rule: Rule, target: Target) -> str:
        """Say why a version or a model is judged no longer, and missed by nobody; '' where it goes on.

        Others answer in its place, it was archived, or nothing was heard of it for so long that nobody can tell
        whether the condition still holds.
        """
        if of_whole(rule) and target.version:
            return f"the rule names no version any more: {target.model} is judged as a whole"
        answering = self._answering(rule, rule.window).get(target.model, ())
        if self._answers(rule, target, rule.window):
            return ""
        named = bool(rule.version) and misses_traffic(rule)
        if rule.type is AlertType.DRIFT and view_of(target.model):
            gone = f"{target} is checked for drift by schedule no longer: it has no reference, or checks are off"
            return "" if named else gone
        if any(answering) and not named:  # the empty version answers in nobody's place
            if not target.version:
                return f"versions of {target} answer, and no call failed before one was chosen any more"
            return f"{target} no longer answers: another version does"
        if target.version and _misses_any(rule):
            return f"no version of {target.model} answers any more, which is judged of the model as a whole"
        standing = self._standing(rule, target)
        if standing is Standing.ARCHIVED:
            return f"{target} no longer answers: {'it was' if target.version else 'all of it was deleted or'} archived"
        span = max(rule.window, LOOK_BACK)
        heard = self._answering(rule, span).get(target.model, ()) if _misses_any(rule) else ()
        if heard or self._answers(rule, target, span):
            return ""
        silence = f"{target} has not answered for {write_duration(span)}"
        if not misses_traffic(rule):
            return f"{silence}: whether the condition still holds can't be told"
        return f"{silence}, and the registry does not know it" if standing is Standing.UNKNOWN else ""

    def read(self, rule: Rule, target: Target) -> Reading:
        """Read a rule's metric for a version, or for a model as a whole."""
        match rule.type:
            case AlertType.DRIFT:
                return readings.of_drift(rule, self._check(rule, target), self._now)
            case AlertType.DATA_QUALITY:
                return readings.of_quality(rule, self._check(rule, target), self._now)
            case _:
                totals = self._totals(rule)
                without = totals.counts.get((target.model, "")) if not (target.version or of_whole(rule)) else None
                return readings.of_totals(rule, totals.of(target.model, target.version), without)

    def _answers(self, rule: Rule, target: Target, span: timedelta) -> bool:
        answering = self._answering(rule, span).get(target.model, ())
        return bool(answering) if of_whole(rule) else target.version in answering

    def _totals(self, rule: Rule) -> EveryTotal:
        window, latencies = self._window(rule.window), rule.metric in _PERCENTILES
        every: EveryTotal = self._once(
            ("totals", rule.window, latencies), lambda: self._sources.metrics.every(window, latencies=latencies)
        )
        return every

    def _check(self, rule: Rule, target: Target) -> Any:
        """Find the last check by schedule; those of all versions of the rule's window are asked for at once."""
        known, key = self._checks[rule.type], (target.model, target.version)
        if key not in known:
            answering = self._answering(rule, rule.window)
            asked = {(model, each) for model, found in answering.items() for each in found if each}
            unknown = (asked | {key}) - known.keys()
            source = self._sources.drift if rule.type is AlertType.DRIFT else self._sources.quality
            found = source.latest_of(unknown)
            known.update({each: found.get(each) for each in unknown})
        return known[key]

    def _standing(self, rule: Rule, target: Target) -> Standing:
        if not (target.version or of_whole(rule) or _misses_any(rule)):
            return Standing.NOT_TOLD
        return self._sources.registered.standing(target.model, target.version)

    def _answering(self, rule: Rule, span: timedelta) -> Answering:
        """Name what had traffic; for rules about drift also feature views, which have none, as far as they are checked.

        The schedule makes checks of a view whether rows came or not, so that the window does not matter to it.
        """
        views = rule.type is AlertType.DRIFT
        found: Answering = self._once(("answering", span, views), lambda: self._seen(span, views=views))
        return found

    def _seen(self, span: timedelta, *, views: bool) -> Answering:
        versions: defaultdict[str, set[str]] = defaultdict(set)
        for model, version in self._sources.metrics.seen(self._window(span)):
            versions[model].add(version)
        for view, version in self._sources.drift.views_checked() if views else ():
            versions[view].add(version)
        return dict(versions)

    def _window(self, span: timedelta) -> Window:
        return Window(self._now - span, self._now)

    def _once(self, key: Hashable, read: Callable[[], Any]) -> Any:
        """Read a thing once a turn; what could not be read is not tried again for the next rule."""
        if key not in self._read:
            try:
                self._read[key] = read()
            except DomainError as error:
                self._read[key] = error
        found = self._read[key]
        if isinstance(found, DomainError):
            raise found
        return found
