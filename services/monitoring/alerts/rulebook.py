"""Which rule holds where, and whether it sees the checks that it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Final, Generic, TypeVar

from penstock.durations import write_duration
from services.common.errors import FieldViolation
from services.monitoring.alerts.conditions import MAX_WINDOW
from services.monitoring.alerts.models import AlertType, Rule, RuleDraft, Target
from services.monitoring.alerts.sense import least_window
from services.monitoring.configuration.models import Effective, Scope

PARTS: Final[Mapping[AlertType, str]] = {AlertType.DRIFT: "drift", AlertType.DATA_QUALITY: "quality"}
"""The part of a configuration that says how often the checks are made that rules of a type read."""
EffectiveOf = Callable[[Scope], Effective]
R = TypeVar("R", bound=RuleDraft)


class RuleBook(Generic[R]):
    """Which rule of a name holds for a version: its own before its model's, and that before the global one."""

    def __init__(self, rules: Iterable[R]) -> None:
        self._rules = {(rule.name, rule.model, rule.version): rule for rule in rules}

    def find(self, name: str, target: Target) -> R | None:
        """Find it, on or off: one that is off switches the more general ones off there."""
        scopes = ((target.model, target.version), (target.model, ""), ("", ""))
        found = (self._rules.get((name, *scope)) for scope in scopes)
        return next((rule for rule in found if rule is not None), None)

    def blind(self, scopes: Iterable[Scope], effective_of: EffectiveOf) -> Iterator[tuple[Scope, R]]:
        """Give the rules that would too often see no check that is young enough, and for whom."""
        names = sorted({rule.name for rule in self._rules.values() if rule.type in PARTS})
        for scope in scopes:
            effective, target = effective_of(scope), Target(scope.model, scope.version)
            for rule in filter(None, (self.find(name, target) for name in names)):
                if rule.enabled and rule.window < least_window(rule, interval_of(rule, effective)):
                    yield scope, rule


def interval_of(rule: RuleDraft, effective: Effective) -> timedelta:
    """Give how often the checks come that a rule reads, as far as a window can be that long; 0: it reads none."""
    part = getattr(effective, PARTS[rule.type]) if rule.type in PARTS else None
    return min(part.interval, MAX_WINDOW) if part is not None and part.enabled else timedelta()


def blinded(
    rules: Iterable[Rule], changed: Scope, scopes: Iterable[Scope], before: EffectiveOf, after: EffectiveOf
) -> Iterator[FieldViolation]:
    """Say which rules would see no check any more if the configuration of `changed` did.

    `scopes` are those that say something themselves; rules have scopes of their own.
    """
    book = RuleBook(rules := list(rules))
    below = {changed, *scopes, *(Scope(rule.model, rule.version) for rule in rules)}
    looked_at = sorted((each for each in below if changed in each.lineage), key=str)
    blind_before = set(book.blind(looked_at, before))
    for scope, rule in book.blind(looked_at, after):
        if (scope, rule) in blind_before:
            continue
        part, interval = PARTS[rule.type], interval_of(rule, after(scope))
        least = write_duration(least_window(rule, interval))
        who = f"{scope.model} {scope.version}".strip() or "all models"
        yield FieldViolation(
            f"configuration.{part}.interval",
            f"for {who}, the alert rule {rule.name!r} looks at checks of the last {write_duration(rule.window)}, and "
            f"with one every {write_duration(interval)} there would be none too often: first make its window longer "
            f"(`{_update(rule)} --window {least}`), or make a rule of its name for {who} alone",
        )


def _update(rule: RuleDraft) -> str:
    """Write the command that changes it, which says which of the rules of its name is meant."""
    model = f" --model {rule.model}" if rule.model else ""
    version = f" --version {rule.version}" if rule.version else ""
    return f"penstock alert rule update {rule.name!r}{model}{version}"
