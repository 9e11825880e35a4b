"""What in a rule or a silence looks like a mistake: said, and made all the same, since it may come before its model."""

from __future__ import annotations

from services.monitoring.alerts.models import Rule, Silence
from services.monitoring.alerts.rules import Rules
from services.monitoring.configuration.doubts import Doubts, there_are
from services.monitoring.drift.models import DriftType
from services.monitoring.known_models import did_you_mean

_OF_NO_FEATURE = (DriftType.CONCEPT, DriftType.EMBEDDING)
"""What has drifted by these has a name of its own, and no column of any profile."""


class AlertDoubts:
    """Holds rules and silences against what there is. Threads may share it."""

    def __init__(self, doubts: Doubts, rules: Rules) -> None:
        self.models = doubts.models
        self._doubts = doubts
        self._rules = rules

    def of_rule(self, rule: Rule) -> list[str]:
        """Say what looks like a mistake: a model that nobody knows, or a feature that no row of it has."""
        doubt = self.models.doubt(rule.model)
        if doubt or not rule.feature or rule.drift_type in _OF_NO_FEATURE:
            return [doubt] if doubt else []
        return self._doubts.of_features(rule.model, [rule.feature])

    def of_silence(self, silence: Silence) -> list[str]:
        """Say what looks like a mistake: a model that nobody knows, and a rule that there is not."""
        doubts = [doubt] if (doubt := self.models.doubt(silence.model)) else []
        names = self._rules.names() if silence.rule_name else set()
        if silence.rule_name and silence.rule_name not in names:
            meant = did_you_mean(silence.rule_name, names) or (there_are(names) if names else "")
            doubts.append(f"there is no alert rule {silence.rule_name!r}{meant}")
        return doubts
