"""Judging all rules, again and again: each for each version that it holds for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from penstock.ids import uuid7
from services.common.errors import DomainError, Unavailable
from services.monitoring.alerts import life
from services.monitoring.alerts.conditions import in_words, judge
from services.monitoring.alerts.ledger import Ledger
from services.monitoring.alerts.life import Birth, Finding, Moment, Step, Verdict
from services.monitoring.alerts.metrics import JudgingMetrics
from services.monitoring.alerts.models import Alert, Rule, Target
from services.monitoring.alerts.sources import Sources
from services.monitoring.alerts.store.transaction import AlertStore
from services.monitoring.alerts.values import Values
from services.monitoring.chores import Turn

Clock = Callable[[], datetime]
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Over:
    """The rule no longer holds for a version, whatever its condition says."""

    message: str


Outcome = Finding | Over


class RuleBook:
    """Which rule of a name holds for a version: its own before its model's, and that before the global one."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = {(rule.name, rule.model, rule.version): rule for rule in rules}

    def find(self, name: str, target: Target) -> Rule | None:
        """Find it, on or off: one that is off switches the more general ones off there."""
        scopes = ((target.model, target.version), (target.model, ""), ("", ""))
        found = (self._rules.get((name, *scope)) for scope in scopes)
        return next((rule for rule in found if rule is not None), None)


class Evaluation:
    """The chore. Any number of replicas may do it at once: a rule's row is locked while its alerts change."""

    def __init__(
        self,
        store: AlertStore,
        sources: Sources,
        ledger: Ledger,
        metrics: JudgingMetrics,
        clock: Clock,
        *,
        longest_gap: timedelta,
    ) -> None:
        """Only set up. `longest_gap` is the most that the time between two turns counts for."""
        self._store = store
        self._sources = sources
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._longest_gap = longest_gap

    def take(self, turn: Turn) -> None:
        """Judge every rule once. One that can't be judged keeps nobody from the others.

        Raises:
            Unavailable: the database is away.
        """
        moment = Moment(self._clock(), self._longest_gap)
        with self._metrics.turn_seconds.time():
            done = self._judge(moment, turn)
        if done:
            self._metrics.last_turn.set(moment.time.timestamp())

    def _judge(self, moment: Moment, turn: Turn) -> bool:
        """Judge every rule; False where the turn ended before."""
        with self._store.read() as tables:
            rules, opened = tables.rules.all(), tables.alerts.open_targets()
        book, values = RuleBook(rules), Values(self._sources, moment.time)
        for rule in rules:
            try:
                outcomes = self._outcomes(rule, book, values, opened.get(rule.id, set()), turn)
                if outcomes is None:
                    return False
                if outcomes:
                    self._keep(rule, outcomes, moment)
            except Unavailable:
                raise
            except DomainError as error:
                self._metrics.not_judged.inc()
                _log.warning("rule not judged", rule=rule.name, reason=error.reason, message=error.message)
            except Exception:  # noqa: BLE001 - logged, counted and tried again: one rule must not end all others
                self._metrics.not_judged.inc()
                _log.exception("rule failed", rule=rule.name)
        return True

    def _outcomes(
        self, rule: Rule, book: RuleBook, values: Values, opened: set[Target], turn: Turn
    ) -> dict[Target, Outcome] | None:
        """Say what the rule makes of each version; of those without an open alert, only where its condition holds.

        None: the turn has ended.
        """
        if not turn.renew():
            return None
        targets = opened | (values.targets(rule) if rule.enabled else set())
        outcomes: dict[Target, Outcome] = {}
        for target in sorted(targets, key=str):
            if not turn.renew():
                return None
            outcome = _outcome(rule, target, book, values)
            if target in opened or (isinstance(outcome, Finding) and outcome.verdict is Verdict.HOLDS):
                outcomes[target] = outcome
        return outcomes

    def _keep(self, rule: Rule, outcomes: Mapping[Target, Outcome], moment: Moment) -> None:
        with self._store.write() as tables:
            standing = tables.rules.lock(rule.id)
            if standing is None or standing.revision != rule.revision:
                return  # changed since it was read: the next turn judges by what it says now
            alerts = tables.alerts.open_of(rule.id)
            recent = tables.alerts.recent_changes(rule.id, moment.time - life.FLAPPING_WINDOW)
            steps = [
                (alerts.get(target), step)
                for target, outcome in outcomes.items()
                if (step := _step(rule, target, outcome, alerts.get(target), recent.get(target, 0), moment))
            ]
            self._ledger.write(tables, rule, steps, moment.time)


def _outcome(rule: Rule, target: Target, book: RuleBook, values: Values) -> Outcome:
    if not rule.enabled:
        return Over("the rule is switched off")
    holding = book.find(rule.name, target)
    if holding is None or holding.id != rule.id:
        return Over("the rule no longer holds for this version" if holding is None else f"{_named(holding)} holds now")
    if values.replaced(rule, target):
        return Over(f"{target} no longer answers: another version does")
    return judge(rule, target, values.read(rule, target))


def _named(rule: Rule) -> str:
    return f"the rule {rule.name!r} of {Target(rule.model, rule.version)}"


def _step(
    rule: Rule, target: Target, outcome: Outcome, alert: Alert | None, recent_changes: int, moment: Moment
) -> Step | None:
    if isinstance(outcome, Over):
        return None if alert is None else life.end(alert, outcome.message, moment)
    condition = in_words(rule)
    if alert is None:
        return life.begin(Birth(UUID(uuid7()), target, recent_changes), rule, condition, outcome, moment)
    return life.go_on(alert, rule, condition, outcome, moment, recent_changes)
