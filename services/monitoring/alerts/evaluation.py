"""Judging all rules, again and again: each for each version that it holds for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from uuid import UUID

import structlog

from penstock.ids import uuid7
from services.common.errors import Aborted, DeadlineExceeded, DomainError, Unavailable
from services.monitoring.alerts import life
from services.monitoring.alerts.conditions import in_words, judge
from services.monitoring.alerts.ledger import Change, Ledger
from services.monitoring.alerts.life import Birth, Finding, Moment, Step, Verdict
from services.monitoring.alerts.metrics import JudgingMetrics
from services.monitoring.alerts.models import Alert, Rule, Target
from services.monitoring.alerts.rulebook import RuleBook
from services.monitoring.alerts.sources import Sources
from services.monitoring.alerts.store.transaction import AlertStore, Tables
from services.monitoring.alerts.values import Values, of_whole
from services.monitoring.chores import Turn
from services.monitoring.configuration.configurations import Configurations

Clock = Callable[[], datetime]
_log = structlog.get_logger(__name__)
_AT_ONCE = 500
"""Judgements that are kept in one transaction, but for those of one model, which are told together."""


@dataclass(frozen=True, slots=True)
class Over:
    """The rule no longer holds for a version, whatever its condition says."""

    message: str


Outcome = Finding | Over


@dataclass(frozen=True, slots=True)
class Judged:
    """What a rule makes of a version."""

    rule: Rule
    target: Target
    outcome: Outcome


class Evaluation:
    """The chore. What it found is kept only while its turn is nobody else's, and rules' rows are locked meanwhile."""

    def __init__(
        self,
        store: AlertStore,
        sources: Sources,
        configurations: Configurations,
        ledger: Ledger,
        metrics: JudgingMetrics,
        clock: Clock,
        *,
        longest_gap: timedelta,
    ) -> None:
        """Only set up. `longest_gap` is the most that the time between two turns counts for."""
        self._store = store
        self._sources = sources
        self._configurations = configurations
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._longest_gap = longest_gap

    def take(self, turn: Turn) -> None:
        """Judge every rule once. One that can't be judged keeps nobody from the others.

        Raises:
            Unavailable: the database is away.
            Aborted, DeadlineExceeded: it has no time to keep what was judged.
        """
        moment = Moment(self._clock(), self._longest_gap)
        with self._metrics.turn_seconds.time():
            judged = self._judge(moment, turn)
            done = judged is not None and self._keep_all(judged, moment, turn)
        if done:
            self._metrics.last_turn.set(moment.time.timestamp())

    def _judge(self, moment: Moment, turn: Turn) -> list[Judged] | None:
        """Judge every rule; None where the turn ended before."""
        with self._store.read() as tables:
            rules, opened = tables.rules.all(), tables.alerts.open_targets()
        self._sources.registered.begin()
        book, values = RuleBook(rules), Values(self._sources, moment.time)
        judged: list[Judged] = []
        for rule in rules:
            if not turn.renew():
                return None
            try:
                judged += self._outcomes(rule, book, values, opened.get(rule.id, set()))
            except Unavailable:
                raise
            except DomainError as error:
                self._metrics.not_judged.inc()
                _log.warning("rule not judged", rule=rule.name, reason=error.reason, message=error.message)
            except Exception:  # noqa: BLE001 - logged, counted and tried again: one rule must not end all others
                self._metrics.not_judged.inc()
                _log.exception("rule failed", rule=rule.name)
        return judged

    def _outcomes(self, rule: Rule, book: RuleBook[Rule], values: Values, opened: set[Target]) -> list[Judged]:
        """Say what the rule makes of each version; of those without an open alert, only where its condition holds."""
        targets = opened | (values.targets(rule) if rule.enabled else set())
        judged = [
            Judged(rule, target, self._outcome(rule, target, book, values)) for target in sorted(targets, key=str)
        ]
        return [each for each in judged if each.target in opened or _holds(each.outcome)]

    def _outcome(self, rule: Rule, target: Target, book: RuleBook[Rule], values: Values) -> Outcome:
        if not rule.enabled:
            return Over("the rule is switched off")
        holding = book.find(rule.name, target)
        if holding is None or holding.id != rule.id:
            said = "the rule no longer holds for this version" if holding is None else f"{_named(holding)} holds now"
            return Over(said)
        if of_whole(rule) and _replaced(rule, target, book, values):
            return Over("each version that answers has a rule of this name of its own")
        if not self._configurations.effective(target.model, target.version).alerts.enabled:
            return Over(f"alerts of {target} are switched off")
        if over := values.over(rule, target):
            return Over(over)
        return judge(rule, target, values.read(rule, target))

    def _keep_all(self, judged: list[Judged], moment: Moment, turn: Turn) -> bool:
        """Keep what was judged, each model in one transaction; False where the turn ended before."""
        batch: list[Judged] = []
        judged.sort(key=_model_of)
        for _, of_model in groupby(judged, key=_model_of):
            batch += of_model
            if len(batch) >= _AT_ONCE:
                if not (turn.renew() and self._keep(batch, moment, turn)):
                    return False
                batch = []
        return not batch or (turn.renew() and self._keep(batch, moment, turn))

    def _keep(self, judged: Sequence[Judged], moment: Moment, turn: Turn) -> bool:
        """Keep these; where that fails, each half of them, until what fails is alone; False where the turn is over.

        Where the database is away, too slow or somebody else is in the way, the next turn tries again: a thousand small
        transactions would make that worse.
        """
        try:
            with self._store.write() as tables:
                if not turn.hold(tables.connection):
                    return False
                self._ledger.write(tables, _changes(tables, judged, moment), moment.time)
        except (Unavailable, Aborted, DeadlineExceeded):
            raise
        except Exception as error:  # noqa: BLE001 - logged, counted and tried again: one alert must not end all others
            if len(judged) > 1:
                middle = len(judged) // 2
                return self._keep(judged[:middle], moment, turn) and self._keep(judged[middle:], moment, turn)
            self._metrics.not_judged.inc()
            _log.warning("alert not kept", rule=judged[0].rule.name, of=str(judged[0].target), error=repr(error))
        return True


def _changes(tables: Tables, judged: Sequence[Judged], moment: Moment) -> Iterator[Change]:
    """Say what comes of these judgements, under the locks of their rules."""
    by_rule: defaultdict[UUID, list[Judged]] = defaultdict(list)
    for each in judged:
        by_rule[each.rule.id].append(each)
    for rule_id in sorted(by_rule):
        rule = by_rule[rule_id][0].rule
        standing = tables.rules.lock(rule_id)
        if standing is None or standing.revision != rule.revision:
            continue  # changed since it was read: the next turn judges by what it says now
        alerts = tables.alerts.open_of(rule_id, {each.target.model for each in by_rule[rule_id]})
        recent = tables.alerts.recent_changes(rule_id, moment.time - life.FLAPPING_WINDOW)
        for each in by_rule[rule_id]:
            alert = alerts.get(each.target)
            step = _step(rule, each.target, each.outcome, alert, recent.get(each.target, 0), moment)
            if step is not None:
                yield Change(rule, alert, step)


def _model_of(judged: Judged) -> str:
    return judged.target.model


def _holds(outcome: Outcome) -> bool:
    return isinstance(outcome, Finding) and outcome.verdict is Verdict.HOLDS


def _replaced(rule: Rule, target: Target, book: RuleBook[Rule], values: Values) -> bool:
    """Say whether rules of its name for versions leave a rule for the whole nothing to be judged for."""
    own = [book.find(rule.name, Target(target.model, each)) for each in values.versions(rule, target.model)]
    return bool(own) and all(each is not None and each.id != rule.id for each in own)


def _named(rule: Rule) -> str:
    return f"the rule {rule.name!r} of {Target(rule.model, rule.version)}"


def _step(
    rule: Rule, target: Target, outcome: Outcome, alert: Alert | None, recent_changes: int, moment: Moment
) -> Step | None:
    if isinstance(outcome, Over):
        return None if alert is None else life.end(alert, outcome.message, moment)
    if alert is None:
        # Not one after the other: people name those of one turn by how their ids begin.
        birth = Birth(UUID(uuid7(datetime.now(UTC))), target, recent_changes)
        return life.begin(birth, rule, in_words(rule), outcome, moment)
    return life.go_on(alert, rule, outcome, moment, recent_changes)
