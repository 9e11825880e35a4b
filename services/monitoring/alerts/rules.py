"""Rules: made, changed and deleted by people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from penstock.durations import write_duration
from penstock.ids import uuid7
from services.common import pages
from services.common.errors import EtagMismatch, FieldViolation, NotFound, ResourceExhausted
from services.common.keys import caller
from services.monitoring.alerts import life
from services.monitoring.alerts.conditions import in_words
from services.monitoring.alerts.ledger import Change, Ledger
from services.monitoring.alerts.life import Moment
from services.monitoring.alerts.models import AlertType, RequestKey, Rule, RuleChange, RuleDraft
from services.monitoring.alerts.rulebook import EffectiveOf, RuleBook, blinded, interval_of
from services.monitoring.alerts.sense import check_rule, least_window, refused
from services.monitoring.alerts.store.transaction import AlertConnection, AlertStore, Tables
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.configuration.models import Scope
from services.monitoring.notifications.channels import Channels

Clock = Callable[[], datetime]
MAX_RULES = 1_000
DEFAULT_PAGE_SIZE = 100


class Rules:
    """See the module."""

    def __init__(
        self, store: AlertStore, channels: Channels, configurations: Configurations, ledger: Ledger, clock: Clock
    ) -> None:
        self._store = store
        self._channels = channels
        self._configurations = configurations
        self._ledger = ledger
        self._clock = clock

    def create(self, draft: RuleDraft, key: RequestKey) -> Rule:
        """Make a rule; the same request again gives what it made, as it stands.

        Raises:
            InvalidArgument: it makes no sense (INVALID_RULE), or names no channel (CHANNEL_NOT_FOUND).
            AlreadyExists: there is one of its name for the same model and version (RULE_EXISTS).
            FailedPrecondition: the request_id came with another request (REQUEST_ID_REUSED).
            ResourceExhausted: there are too many (TOO_MANY_RULES).
            NotFound: the same request made one, which was deleted since (RULE_NOT_FOUND).
        """
        now = self._clock()
        with self._store.write() as tables:
            made = tables.requests.find(key)
            if made is not None:
                return _found(tables.rules.find(made), made)
            if tables.rules.count() >= MAX_RULES:
                raise ResourceExhausted(
                    f"there are {MAX_RULES:,} rules, which is as many as may be; delete some, or let one hold for more "
                    "models",
                    reason="TOO_MANY_RULES",
                )
            rule = Rule(**_fields(draft), id=UUID(uuid7()), revision=1, create_time=now, **_by(now))
            self._check(tables, draft)
            self._channels.require(tables.connection, rule.channels, field="rule.channels")
            tables.rules.insert(rule)
            tables.changes.append(None, rule, changed_by=rule.updated_by, time=now)
            tables.requests.insert(key, rule.id, now)
            return rule

    def update(self, rule_id: UUID, draft: RuleDraft, etag: str) -> Rule:
        """Replace a rule whole.

        Switched off, or with another condition or severity, its open alerts are resolved: what they say stays as it
        was. The next turn begins others where the new condition holds.

        Raises:
            NotFound: RULE_NOT_FOUND.
            Aborted: it was changed since it was read (ETAG_MISMATCH).
            InvalidArgument, AlreadyExists: as `create`.
        """
        now = self._clock()
        with self._store.write() as tables:
            found = _found(tables.rules.lock(rule_id), rule_id)
            if etag not in ("", found.etag):
                raise EtagMismatch(f"rule {found.name!r}")
            rule = Rule(
                **_fields(draft), id=rule_id, revision=found.revision + 1, create_time=found.create_time, **_by(now)
            )
            self._check(tables, draft, instead_of=rule_id)
            self._channels.require(tables.connection, rule.channels, field="rule.channels")
            tables.rules.update(rule)
            tables.changes.append(found, rule, changed_by=rule.updated_by, time=now)
            if not rule.enabled:
                self._end(tables, rule, f"the rule was switched off by {caller().name}", now)
            elif _judged_by(rule) != _judged_by(found):
                said = f"the rule was changed by {caller().name}: {rule.severity.name.lower()}, {in_words(rule)}"
                self._end(tables, rule, said, now)
            return rule

    def delete(self, rule_id: UUID) -> None:
        """Delete a rule, and resolve its open alerts; raises NotFound (RULE_NOT_FOUND)."""
        with self._store.write() as tables:
            rule = _found(tables.rules.lock(rule_id), rule_id)
            now = self._clock()
            self._end(tables, rule, f"the rule was deleted by {caller().name}", now)
            tables.rules.delete(rule_id)
            tables.changes.append(rule, None, changed_by=caller().name, time=now)

    def names(self) -> set[str]:
        """Give the names of all rules."""
        with self._store.read() as tables:
            return {rule.name for rule in tables.rules.all()}

    def get(self, rule_id: UUID) -> Rule:
        """Give a rule; raises NotFound (RULE_NOT_FOUND)."""
        with self._store.read() as tables:
            return _found(tables.rules.find(rule_id), rule_id)

    def page(self, model: str, version: str, *, size: int, token: str) -> tuple[Sequence[Rule], str]:
        """List the rules that hold for a model and a version, by name, and the token of the next page.

        Raises:
            InvalidArgument: the size or the token.
        """
        size = pages.page_size(size, default=DEFAULT_PAGE_SIZE)
        bound_to = {"model": model, "version": version}
        after = _position(pages.decode(token, bound_to))
        with self._store.read() as tables:
            found = tables.rules.page(model, version, after=after, limit=size + 1)
        if len(found) <= size:
            return found, ""
        last = found[size - 1]
        return found[:size], pages.encode([last.name, last.model, last.version], bound_to)

    def changes(self, model: str, rule_id: UUID | None, *, size: int, token: str) -> tuple[Sequence[RuleChange], str]:
        """List what people did to rules, the newest first, and the token of the next page; empty on the last.

        Raises:
            InvalidArgument: the size or the token.
        """
        size = pages.page_size(size, default=DEFAULT_PAGE_SIZE)
        bound_to = {"model": model, "rule_id": str(rule_id or "")}
        before = _number(pages.decode(token, bound_to))
        with self._store.read() as tables:
            found = tables.changes.page(model, rule_id, before=before, limit=size + 1)
        if len(found) <= size:
            return found, ""
        return found[:size], pages.encode([found[size - 1].number], bound_to)

    def naming(self, connection: AlertConnection, channel: str) -> str:
        """Say in a sentence which rules tell a channel, in a transaction of somebody else's; '' where none does."""
        names = Tables(connection).rules.naming(channel)
        return f"alert rules tell it: {', '.join(names)}" if names else ""

    def _check(self, tables: Tables, draft: RuleDraft, *, instead_of: UUID | None = None) -> None:
        """See that a rule makes sense, and sees the checks of models and versions that have times of their own.

        Configurations stand still until the transaction ends: a change of theirs is held against rules just as this is.
        """
        of, known = Scope(draft.model, draft.version), self._configurations.hold(tables.connection)
        watched = known.effective(of)
        intervals = {AlertType.DRIFT: watched.drift.interval, AlertType.DATA_QUALITY: watched.quality.interval}
        windows = (known.effective(scope).quality.window for scope in (of, *known.scopes_below(of)))
        check_rule(draft, intervals, max(windows))
        others = [rule for rule in tables.rules.all() if rule.id != instead_of]
        for scope, rule in RuleBook([*others, draft]).blind(known.scopes_below(of), known.effective):
            if rule is draft:
                interval = interval_of(draft, known.effective(scope))
                least = write_duration(least_window(draft, interval))
                who = f"{scope.model} {scope.version}".strip()
                raise refused(
                    "window",
                    f"got {write_duration(draft.window)}, and checks of {who} come every {write_duration(interval)}: "
                    f"take at least {least}, or make a rule of this name for {who} first",
                )

    def blinded(
        self,
        connection: AlertConnection,
        changed: Scope,
        scopes: Iterable[Scope],
        before: EffectiveOf,
        after: EffectiveOf,
    ) -> Iterator[FieldViolation]:
        """Say which rules would see no check any more if a configuration changed so; see `rulebook.blinded`."""
        return blinded(Tables(connection).rules.all(), changed, scopes, before, after)

    def _end(self, tables: Tables, rule: Rule, message: str, now: datetime) -> None:
        moment = Moment(now, timedelta())
        alerts = tables.alerts.open_of(rule.id).values()
        steps = [(alert, life.end(alert, message, moment, actor=caller().name)) for alert in alerts]
        self._ledger.write(tables, [Change(rule, alert, step) for alert, step in steps if step], now)


def _fields(draft: RuleDraft) -> dict[str, Any]:
    return {**asdict(draft), "channels": draft.channels}


def _judged_by(rule: Rule) -> tuple[Any, ...]:
    """Give what of a rule its alerts say, or are judged by."""
    return in_words(rule), rule.type, rule.severity, rule.missing_data


def _by(now: datetime) -> dict[str, Any]:
    return {"update_time": now, "updated_by": caller().name}


def _found(rule: Rule | None, rule_id: UUID) -> Rule:
    if rule is None:
        raise NotFound(
            f"there is no alert rule {rule_id}; `penstock alert rule list` shows those that there are",
            reason="RULE_NOT_FOUND",
        )
    return rule


def _position(position: list[Any] | None) -> tuple[str, str, str]:
    """Read what a token of ours says; it is not signed, so it is looked at like any input."""
    match position:
        case None:
            return "", "", ""
        case [str(name), str(model), str(version)] if "\0" not in name + model + version:
            return name, model, version
    raise pages.unknown_token()


def _number(position: list[Any] | None) -> int | None:
    match position:
        case None:
            return None
        case [int(number)] if 0 <= number < 2**63:
            return number
    raise pages.unknown_token()
