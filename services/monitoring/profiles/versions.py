"""The versions that profiles are for: whether anybody knows them, and whether their data has the profile's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.common.errors import NotFound
from services.monitoring.models import Window
from services.monitoring.profiles.models import Reference
from services.monitoring.profiles.naming import declared, strange_to_events, strange_to_inputs
from services.monitoring.profiles.registrations import Inputs, Registrations
from services.monitoring.profiles.store.samples import SampleStore
from services.monitoring.profiles.values import LiveRow

Clock = Callable[[], datetime]
LOOKED_BACK: Final = timedelta(days=7)
"""Events of so long tell what a version's inputs are called."""
LOOKED_AT: Final = 50


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """What is known of a version: its registered inputs, or else some events; or why nobody seems to know it."""

    inputs: Inputs
    events: Sequence[LiveRow] = ()
    doubt: str = ""

    @property
    def columns(self) -> Sequence[str]:
        """What those of its only input were declared to be called; empty where nobody said."""
        return declared(self.inputs)

    def warnings(self, reference: Reference) -> Sequence[str]:
        """Say what is odd about comparing it with a reference: names that do not fit, a model that nobody knows."""
        if self.inputs:
            odd = strange_to_inputs(reference, self.inputs)
        elif self.events:
            odd = strange_to_events(reference, self.events)
        else:
            odd = self.doubt and f"{self.doubt}; one that others serve is known once its predictions come"
        return [odd] if odd else []


class Versions:
    """Asks the registry, and where it does not know a version looks at its events. Threads may share it."""

    def __init__(
        self, registrations: Registrations, samples: SampleStore, doubt: Callable[[str], str], clock: Clock
    ) -> None:
        """`doubt` says in a sentence that nobody knows a model; empty: somebody does."""
        self._registrations = registrations
        self._samples = samples
        self._doubt = doubt
        self._clock = clock

    def inputs(self, model: str, version: str) -> Inputs:
        """Give a version's registered inputs; none where they are not known."""
        try:
            return self._registrations.inputs(model, version)
        except NotFound:
            return ()

    def look_up(self, model: str, version: str) -> KnownVersion:
        """Say what is known of a version that a profile is for.

        Raises:
            NotFound: the registry knows the model and no such version, nor does any event (VERSION_NOT_FOUND).
        """
        now = self._clock()
        try:
            inputs = self._registrations.inputs(model, version)
        except NotFound:
            events = self._samples.sample(model, version, Window(now - LOOKED_BACK, now), limit=LOOKED_AT)
            if not events:
                raise
            return KnownVersion((), events)
        if inputs:
            return KnownVersion(inputs)
        events = self._samples.sample(model, version, Window(now - LOOKED_BACK, now), limit=LOOKED_AT)
        return KnownVersion((), events, "" if events else self._doubt(model))
