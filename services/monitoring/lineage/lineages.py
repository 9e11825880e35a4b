"""Lineages: from a prediction to what led to it, and from an alert to the version that answered it, and back."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from services.common.errors import NotFound
from services.monitoring.inferences import Inferences
from services.monitoring.lineage.graph import Graph
from services.monitoring.lineage.models import Kind, Subject, VersionName
from services.monitoring.lineage.nodes import inference_node
from services.monitoring.lineage.store import LineageStore
from services.monitoring.lineage.walk import Walk
from services.monitoring.registry_reader import RegistryReader
from services.monitoring.retraining.requests import RetrainingRequests
from services.monitoring.retraining.store.related import RelatedRequests


class Lineages:
    """Answers what hangs together. `reader` makes a reader for one question."""

    def __init__(
        self,
        inferences: Inferences,
        store: LineageStore,
        requests: RetrainingRequests,
        related: RelatedRequests,
        reader: Callable[[], RegistryReader],
    ) -> None:
        self._inferences = inferences
        self._store = store
        self._requests = requests
        self._related = related
        self._reader = reader

    def of(self, subject: Subject) -> Graph:
        """Begin wherever; raises NotFound as the others do."""
        if isinstance(subject, VersionName):
            return self.of_version(subject)
        match subject.kind:
            case Kind.ALERT:
                return self.of_alert(subject.id)
            case Kind.RETRAINING_REQUEST:
                return self.of_request(subject.id)
            case Kind.CHECK:
                return self.of_check(subject.id)
            case Kind.TRAINING_RUN:
                return self.of_run(subject.id)
        return self.of_inference(subject.id)

    def of_inference(self, inference_id: UUID) -> Graph:
        """Begin at a prediction; raises NotFound (INFERENCE_NOT_FOUND)."""
        inference = self._inferences.get(inference_id)
        walk = self._walk()
        place = walk.graph.add(inference_node(inference))
        version = VersionName(inference.event.model, inference.event.version)
        if version.version:  # what failed before one was chosen came of none
            walk.graph.link(walk.version(version), place, "answered")
            walk.life(version)
        return walk.graph

    def of_alert(self, alert_id: UUID) -> Graph:
        """Begin at an alert; raises NotFound (ALERT_NOT_FOUND)."""
        alert = self._store.find_alert(alert_id)
        if alert is None:
            raise NotFound(
                f"alert {alert_id} is not known, or no longer kept; `penstock alert list` shows those that are",
                reason="ALERT_NOT_FOUND",
            )
        walk = self._walk()
        walk.alert(alert)
        return walk.graph

    def of_request(self, retraining_id: UUID) -> Graph:
        """Begin at a retraining request; raises NotFound (REQUEST_NOT_FOUND)."""
        request, _ = self._requests.get(retraining_id)
        walk = self._walk()
        walk.request(request)
        return walk.graph

    def of_check(self, check_id: UUID) -> Graph:
        """Begin at a drift check or a quality check; raises NotFound (CHECK_NOT_FOUND)."""
        check = self._store.find_check(check_id)
        if check is None:
            raise NotFound(
                f"check {check_id} is not known, or no longer kept; `penstock drift list` and `penstock quality list` "
                "show those that are",
                reason="CHECK_NOT_FOUND",
            )
        walk = self._walk()
        walk.check(check)
        for alert in self._store.alerts_on(check_id):
            walk.alert(alert)
        return walk.graph

    def of_run(self, run_id: UUID) -> Graph:
        """Begin at a training run; raises NotFound where nobody can tell anything of it (RUN_NOT_FOUND)."""
        walk = self._walk()
        walk.run(str(run_id))
        missing = walk.graph.nodes[0].missing
        if missing and not walk.graph.edges:
            raise NotFound(f"no retraining request names run {run_id}, and {missing}", reason="RUN_NOT_FOUND")
        return walk.graph

    def of_version(self, name: VersionName) -> Graph:
        """Begin at a version; raises NotFound where the registry has none, and nothing is kept (VERSION_NOT_FOUND)."""
        walk = self._walk()
        walk.version(name)
        walk.life(name)
        if walk.unknown and not walk.graph.edges:
            raise NotFound(
                f"the registry has no version {name.version} of {name.model}, and nothing is kept of it here; "
                f"`penstock model versions {name.model}` shows those that are",
                reason="VERSION_NOT_FOUND",
            )
        return walk.graph

    def _walk(self) -> Walk:
        return Walk(self._store, self._related, self._reader())
