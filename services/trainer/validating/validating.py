"""Trying a version: predict, measure, compare, and have the registry judge."""

from __future__ import annotations

from collections.abc import Callable

from penstock import Client
from services.trainer.task import Stopping
from services.trainer.validating.models import Trial, Validation

Told = Callable[[int, int], None]
"""Hears how many rows are predicted, and how many there will be."""


class Validating:
    """Tries versions as the inference service serves them."""

    def __init__(self, open_client: Callable[[], Client]) -> None:
        """Take what opens a client of registry and inference: each trial has its own, which closes when it ends."""
        self._open_client = open_client

    def validate(self, stopping: Stopping, trial: Trial, told: Told = lambda _done, _total: None) -> Validation:
        """Try a version, and record how it did in the registry, which judges it by the model's success criteria.

        A version that does not load, or fails, has not passed; that is an answer, and no fault.

        Raises:
            RegistrationFailed: the registry refuses what is recorded.
            RegistryUnavailable, InferenceUnavailable: they give no answer; the same again may help.
            Stopped: it is to end.
        """
        raise NotImplementedError
