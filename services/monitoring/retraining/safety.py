"""What keeps models from being trained too often, on too little, and people from being asked twice. Pure."""

from __future__ import annotations

from datetime import datetime

from penstock.durations import write_duration
from services.common.errors import FailedPrecondition
from services.monitoring.configuration.models import RetrainingConfiguration
from services.monitoring.retraining.models import Past


def check_open(configuration: RetrainingConfiguration, past: Past, model: str) -> None:
    """Let a request pass where retraining is on, and no other of the model's is open.

    Raises:
        FailedPrecondition: neither can be forced (RETRAINING_OFF, RETRAINING_OPEN).
    """
    if not configuration.enabled:
        raise FailedPrecondition(
            f"retraining of {model} is switched off; "
            f"`penstock monitoring set retraining.enabled=true --model {model}` switches it on",
            reason="RETRAINING_OFF",
        )
    if past.open_request is not None:
        raise already_open(f"{past.open_request.id} is {past.open_request.state.name}")


def already_open(which: str = "it came this moment") -> FailedPrecondition:
    """Make the error for a second request of a model."""
    return FailedPrecondition(
        f"a retraining request of this model is open already: {which}; decide on that one, or wait until its "
        "training has ended",
        reason="RETRAINING_OPEN",
    )


def check_interval(configuration: RetrainingConfiguration, past: Past, now: datetime) -> None:
    """Let a request pass that comes long enough after the last training began.

    Raises:
        FailedPrecondition: it does not (RETRAINING_TOO_SOON).
    """
    if past.train_time is not None and now < past.train_time + configuration.min_interval:
        raise FailedPrecondition(
            f"the last training began {past.train_time:%Y-%m-%d %H:%M} UTC, and retraining.min_interval is "
            f"{write_duration(configuration.min_interval)}; wait until then, or ask with force",
            reason="RETRAINING_TOO_SOON",
        )


def check_declined(configuration: RetrainingConfiguration, past: Past, now: datetime) -> None:
    """Let the service ask where nobody has declined, or let expire, a request of the model's of late.

    A person who said no is not asked the same again at the next check.

    Raises:
        FailedPrecondition: somebody has (RETRAINING_DECLINED).
    """
    if past.decline_time is not None and now < past.decline_time + configuration.min_interval:
        raise FailedPrecondition(
            f"a request was declined or expired {past.decline_time:%Y-%m-%d %H:%M} UTC; none is raised again within "
            f"retraining.min_interval, {write_duration(configuration.min_interval)}",
            reason="RETRAINING_DECLINED",
        )


def check_labels(configuration: RetrainingConfiguration, label_count: int) -> None:
    """Let a request pass that has enough to learn from.

    Raises:
        FailedPrecondition: it has not (TOO_FEW_LABELS).
    """
    if label_count < configuration.min_labels:
        raise FailedPrecondition(
            f"{label_count:,} labelled row{'s' * (label_count != 1)} came since the last training, and "
            f"retraining.min_labels is {configuration.min_labels:,}; record feedback for more predictions, or ask with "
            "force",
            reason="TOO_FEW_LABELS",
        )
