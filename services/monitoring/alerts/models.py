"""Rules, the alerts that come of them, and silences."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from services.monitoring.drift.models import DriftType


class AlertType(enum.Enum):
    """What a rule watches; the numbers are the contract's."""

    LATENCY = 1
    ERROR_RATE = 2
    DRIFT = 3
    DATA_QUALITY = 4


class Severity(enum.Enum):
    """How bad it is."""

    INFO = 1
    WARNING = 2
    CRITICAL = 3


class Operator(enum.Enum):
    """Compares a value with a threshold."""

    GREATER = 1
    GREATER_OR_EQUAL = 2
    LESS = 3
    LESS_OR_EQUAL = 4


class MissingData(enum.Enum):
    """What no value means."""

    IGNORE = 1
    ALERT = 2
    RESOLVE = 3


class AlertState(enum.Enum):
    """How far an alert has come."""

    PENDING = 1
    FIRING = 2
    RESOLVED = 3


@dataclass(frozen=True, slots=True)
class RuleDraft:
    """A rule as somebody wants it. `model` and `version` empty: any; `hold` is the contract's `for`."""

    name: str
    enabled: bool
    type: AlertType
    severity: Severity
    model: str
    version: str
    metric: str
    operator: Operator
    threshold: float
    window: timedelta
    hold: timedelta
    drift_type: DriftType | None
    feature: str
    error_code: str
    min_count: int
    missing_data: MissingData
    channels: tuple[str, ...]
    repeat_interval: timedelta
    description: str


@dataclass(frozen=True, slots=True)
class Rule(RuleDraft):
    """A rule as it stands; `revision` counts its changes."""

    id: UUID
    revision: int
    create_time: datetime
    update_time: datetime
    updated_by: str

    @property
    def etag(self) -> str:
        """Another one after each change."""
        return f"{self.id.hex}-{self.revision}"


@dataclass(frozen=True, slots=True)
class RuleChange:
    """A rule was made (no `before`), changed, or deleted (no `after`)."""

    number: int
    time: datetime
    rule_id: UUID
    before: Rule | None
    after: Rule | None
    changed_by: str


@dataclass(frozen=True, slots=True)
class Target:
    """What a rule is judged for: one version of one model."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model} {self.version}".rstrip()


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Somebody has taken an alert in hand."""

    time: datetime
    by: str
    note: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule's condition holding for one version, from its beginning to its end.

    It keeps what it fired on: a rule whose condition or severity is changed ends it, and may begin another.

    Attributes:
        rule_revision: of the rule when it began.
        value, check_id: what it fired on; while it is pending, what it was last judged by.
        last_value, last_check_id: what it was last judged by.
        held: while it is pending, how long the condition was seen to hold; while it flaps, to stay away.
        judge_time: when it was last judged, by the clock of whoever judged.
        change_time: of the newest entry of its history; it never goes back.
        told: the channels that were told that it fires, and when each last was.
    """

    id: UUID
    rule_id: UUID
    rule_name: str
    rule_revision: int
    target: Target
    type: AlertType
    severity: Severity
    state: AlertState
    condition: str
    value: float | None
    threshold: float
    message: str
    begin_time: datetime
    judge_time: datetime
    change_time: datetime
    held: timedelta = timedelta()
    fire_time: datetime | None = None
    resolve_time: datetime | None = None
    told: Mapping[str, datetime] = field(default_factory=dict)
    acknowledgement: Acknowledgement | None = None
    flapping: bool = False
    check_id: UUID | None = None
    last_value: float | None = None
    last_check_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """One step in the life of an alert; `actor` empty: the service itself."""

    time: datetime
    state: AlertState
    value: float | None
    actor: str
    message: str


@dataclass(frozen=True, slots=True)
class SilenceDraft:
    """A silence as somebody wants it; what is empty or None matches any, `begin_time` None means now."""

    model: str
    version: str
    rule_name: str
    severity: Severity | None
    begin_time: datetime | None
    end_time: datetime
    note: str
    without_version: bool = False


@dataclass(frozen=True, slots=True)
class Silence:
    """Alerts that match are sent to nobody, from `begin_time` up to `end_time`.

    `without_version`: only those of the model as a whole.
    """

    id: UUID
    model: str
    version: str
    rule_name: str
    severity: Severity | None
    begin_time: datetime
    end_time: datetime
    note: str
    created_by: str
    without_version: bool = False

    def covers(self, alert: Alert, now: datetime) -> bool:
        """Say whether it lies on an alert now."""
        return (
            self.begin_time <= now < self.end_time
            and self.model in ("", alert.target.model)
            and self.version in ("", alert.target.version)
            and not (self.without_version and alert.target.version)
            and self.rule_name in ("", alert.rule_name)
            and self.severity in (None, alert.severity)
        )


@dataclass(frozen=True, slots=True)
class AlertFilters:
    """Which alerts a list shows; what is empty or None matches any."""

    model: str = ""
    version: str = ""
    severity: Severity | None = None
    states: tuple[AlertState, ...] = ()
    type: AlertType | None = None


@dataclass(frozen=True, slots=True)
class OpenCount:
    """How many alerts of a model and a severity fire; `unattended`: those neither acknowledged nor silenced."""

    model: str
    severity: Severity
    count: int
    unattended: int


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What makes a repeated request the same one; `body_sha256` covers all of it but the id itself."""

    caller: str
    rpc: str
    request_id: str
    body_sha256: str
