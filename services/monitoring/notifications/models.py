"""Who is told, and of what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

MAX_CHANNELS = 100
MAX_ALERTS = 50
"""Alerts that one message tells of; the others are counted."""


@dataclass(frozen=True, slots=True)
class AlertNews:
    """An alert as it stands when it is told of. Enums by their names in the contract, without their prefixes.

    Attributes:
        type: LATENCY, ERROR_RATE, DRIFT or DATA_QUALITY.
        severity: INFO, WARNING or CRITICAL.
        state: FIRING or RESOLVED.
        condition: the rule's, in words.
        message: what happened, in a sentence.
        value: when it was last judged; None where there was none.
        repeated: it was told before, and still fires.
        flapping: it has come and gone so often that its comings and goings are not told one by one.
        check_id: of the check that found it; empty where none did.
    """

    alert_id: str
    rule_id: str
    rule_name: str
    type: str
    severity: str
    state: str
    model: str
    version: str
    condition: str
    message: str
    value: float | None
    threshold: float
    begin_time: datetime
    fire_time: datetime | None = None
    resolve_time: datetime | None = None
    repeated: bool = False
    flapping: bool = False
    check_id: str = ""


@dataclass(frozen=True, slots=True)
class Notification:
    """What goes to a channel as one message: the alerts of one model that changed together, the worst first."""

    alerts: Sequence[AlertNews]

    @property
    def model(self) -> str:
        """Whose they are."""
        return self.alerts[0].model if self.alerts else ""


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """Where JSON is posted to, and what it is signed with; '' signs nothing."""

    url: str = field(repr=False)
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class AppriseTarget:
    """A URL as apprise writes it; all of it is secret."""

    url: str = field(repr=False)


Target = WebhookTarget | AppriseTarget


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel as it may be shown.

    Attributes:
        kind: webhook or apprise.
        shown_url: without what may be secret.
        signed: whether a webhook has a secret.
        last_delivery_time: when something last arrived, a test too.
        last_error: why the latest attempt failed, a test's too; empty where it did not.
    """

    name: str
    kind: str
    shown_url: str
    signed: bool
    update_time: datetime | None
    updated_by: str
    last_delivery_time: datetime | None = None
    waiting_count: int = 0
    failed_count: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class StoredChannel:
    """A channel's row: its target as JSON, encrypted in `sealed` or, where nothing of it is secret, in `plain`.

    Attributes:
        test_time: when it was last tested as it is; None where it was not.
        test_error: why that did not arrive; empty where it did.
        test_arrival_time: when a test of it last arrived; None where none did.
    """

    name: str
    kind: str
    shown_url: str
    signed: bool
    sealed: bytes | None = field(repr=False)
    plain: bytes | None = field(repr=False)
    update_time: datetime | None = None
    updated_by: str = ""
    test_time: datetime | None = None
    test_error: str = ""
    test_arrival_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What a change shows of a channel; see `Channel`."""

    kind: str
    shown_url: str
    signed: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What somebody did to a channel: `before` is None where it was made, `after` where it was deleted."""

    number: int
    time: datetime
    name: str
    before: Said | None
    after: Said | None
    changed_by: str
