"""The walk through what hangs together: each step adds what it finds to the graph, once; a full one ends it."""

from __future__ import annotations

from uuid import UUID

from services.monitoring.ids import find_id
from services.monitoring.lineage import nodes
from services.monitoring.lineage.graph import Graph
from services.monitoring.lineage.models import MAX_RELATED, AlertFound, CheckFound, Kind, VersionName
from services.monitoring.lineage.store import LineageStore
from services.monitoring.registry_reader import MissingError, RegisteredVersion, RegistryReader
from services.monitoring.retraining.models import Reason, Request
from services.monitoring.retraining.store.related import RelatedRequests


class Walk:
    """One lineage under way. `unknown`: the registry says of a version that there is none."""

    def __init__(self, store: LineageStore, related: RelatedRequests, reader: RegistryReader) -> None:
        self.graph = Graph()
        self.unknown = False
        self._store = store
        self._related = related
        self._reader = reader

    def version(self, name: VersionName, *, deep: bool = True) -> int | None:
        """Add a version; `deep`: with what it came of: its run and dataset, its parent, the request behind it."""
        known = self.graph.place_of(Kind.VERSION, str(name))
        if known is not None:
            return known
        try:
            found = self._reader.version(*name)
        except MissingError as missing:
            self.unknown = self.unknown or missing.unknown
            place = self.graph.add(nodes.version_node(name, None, missing.why))
            run_id = ""
        else:
            place = self.graph.add(nodes.version_node(name, found))
            run_id = found.training_run_id
            if run_id:
                self.graph.link(self._run(run_id), place, "trained")
            if deep:
                self._parent(found, place)
                self._judged(name, place)
        if deep and place is not None:
            for request in self._related.that_made(*name, run_id, limit=MAX_RELATED):
                self.request(request)
        return place

    def life(self, name: VersionName) -> None:
        """Add what became of a version: its profile, its checks that found something, its alerts, its requests."""
        version = self.version(name)
        profile = self._store.profile_of(name)
        if profile is not None:
            self.graph.link(version, self.graph.add(nodes.profile_node(profile)), "is compared with")
        for check in self._store.checks_of(name):
            self.check(check)
        for alert in self._store.alerts_of(name):
            self.alert(alert)
        for request in self._related.of_version(*name, limit=MAX_RELATED):
            self.request(request)

    def alert(self, alert: AlertFound) -> int | None:
        """Add an alert, with what raised it and what it raised."""
        known = self.graph.place_of(Kind.ALERT, str(alert.id))
        if known is not None:
            return known
        place = self.graph.add(nodes.alert_node(alert))
        if place is None:
            return None
        cause = self._find_check(alert.check_id) if alert.check_id is not None else None
        if cause is None and alert.of.version:  # an alert of a model as a whole came of no single version
            cause = self.version(alert.of, deep=False)
        self.graph.link(cause, place, "raised" if alert.fired else "may raise")
        for request in self._related.of_alert(alert.id, limit=MAX_RELATED):
            self.graph.link(place, self.request(request), _relation(alert.id, request))
        return place

    def request(self, request: Request) -> int | None:
        """Add a retraining request, with what raised it and what came of it."""
        known = self.graph.place_of(Kind.RETRAINING_REQUEST, str(request.id))
        if known is not None:
            return known
        place = self.graph.add(nodes.request_node(request))
        if place is None:
            return None
        for alert_id in self._related.alerts_of(request.id, limit=MAX_RELATED):
            self.graph.link(self._find_alert(alert_id), place, _relation(alert_id, request))
        if request.check_id is not None:
            self.graph.link(self._find_check(request.check_id), place, "raised")
        if request.version:
            old = self.version(VersionName(request.model, request.version), deep=False)
            self.graph.link(old, place, _role(request))
        # The run knows its version as soon as there is one; the request hears of it at its next look.
        run = self._run(request.training_run_id, deep=True) if request.training_run_id else None
        self.graph.link(place, run, "led to")
        if request.new_version:
            self.graph.link(run, self._made(VersionName(request.model, request.new_version)), "trained")
        return place

    def run(self, run_id: str) -> int | None:
        """Add a training run, with what led to it and the version that came of it."""
        place = self._run(run_id, deep=True)
        for request in self._related.of_run(run_id, limit=MAX_RELATED):
            self.request(request)
        return place

    def _parent(self, found: RegisteredVersion, place: int | None) -> None:
        """Add what was live when a version was registered."""
        if not found.parent_deployment_number or found.create_time is None:
            return
        try:
            live = self._reader.live_at(found.model, found.create_time)
        except MissingError:
            return  # its deployment number stands among the version's attributes
        if live.deployment_number != found.parent_deployment_number:
            return
        parent = self.graph.add(nodes.version_node(VersionName(live.model, live.version), live))
        self.graph.link(parent, place, "was live before")

    def _run(self, run_id: str, *, deep: bool = False) -> int | None:
        known = self.graph.place_of(Kind.TRAINING_RUN, run_id)
        if known is not None:
            return known
        try:
            run = self._reader.run(run_id)
        except MissingError as missing:
            return self.graph.add(nodes.run_node(run_id, None, missing.why))
        place = self.graph.add(nodes.run_node(run_id, run))
        for dataset in filter(None, run.dataset.split("+")):
            self.graph.link(self._dataset(dataset), place, "fed")
        if deep and run.new_version:
            self.graph.link(place, self._made(VersionName(run.model, run.new_version)), "trained")
        return place

    def _made(self, name: VersionName) -> int | None:
        """Add a version that a run made, with how it was judged, where it went, and what it is compared with now."""
        known = self.graph.place_of(Kind.VERSION, str(name))
        if known is not None:
            return known
        place = self.version(name, deep=False)
        self._judged(name, place)
        profile = self._store.profile_of(name)
        if profile is not None:
            self.graph.link(place, self.graph.add(nodes.profile_node(profile)), "is compared with")
        return place

    def _judged(self, name: VersionName, place: int | None) -> None:
        """Add how a version did on rows that it had not seen, and its moves from stage to stage."""
        try:
            evaluations = self._reader.evaluations(*name, MAX_RELATED)
            moves = self._reader.moves(*name, MAX_RELATED)
        except MissingError:
            return  # of the version itself it is said why
        for evaluation in reversed(evaluations):
            self.graph.link(place, self.graph.add(nodes.evaluation_node(name, evaluation)), "was evaluated")
        for move in reversed(moves):
            if move.from_stage:  # where it was born is no news
                self.graph.link(place, self.graph.add(nodes.transition_node(name, move)), "moved")

    def _dataset(self, reference: str) -> int | None:
        known = self.graph.place_of(Kind.DATASET, reference)
        if known is not None:
            return known
        name, _, version = reference.partition("/")
        try:
            if not version.isdecimal():
                raise MissingError("it names no version")
            return self.graph.add(nodes.dataset_node(reference, self._reader.dataset(name, int(version))))
        except MissingError as missing:
            return self.graph.add(nodes.dataset_node(reference, None, missing.why))

    def check(self, check: CheckFound) -> int | None:
        """Add a check, with what it compared and the requests that it raised."""
        known = self.graph.place_of(Kind.CHECK, str(check.id))
        if known is not None:
            return known
        place = self.graph.add(nodes.check_node(check))
        if place is None:
            return None
        self.graph.link(self.version(check.of, deep=False), place, "was checked")
        profile_id = find_id(check.profile_id)
        if profile_id is not None:
            self.graph.link(self._find_profile(profile_id), place, "was compared with")
        for request in self._related.of_check(check.id, limit=MAX_RELATED):
            self.graph.link(place, self.request(request), "raised")
        return place

    def _find_check(self, check_id: UUID) -> int | None:
        found = self._store.find_check(check_id)
        return self.graph.add(nodes.gone_node(Kind.CHECK, str(check_id), "A check")) if not found else self.check(found)

    def _find_alert(self, alert_id: UUID) -> int | None:
        found = self._store.find_alert(alert_id)
        return (
            self.graph.add(nodes.gone_node(Kind.ALERT, str(alert_id), "An alert")) if not found else self.alert(found)
        )

    def _find_profile(self, profile_id: UUID) -> int | None:
        found = self._store.find_profile(profile_id)
        if found is not None:
            return self.graph.add(nodes.profile_node(found))
        return self.graph.add(nodes.gone_node(Kind.PROFILE, str(profile_id), "A reference profile"))


def _role(request: Request) -> str:
    """Say what a version has to do with a request for it: of one that a person or the calendar asked for, nobody said
    that it did badly.
    """
    return "is to be retrained by" if request.reason in (Reason.MANUAL, Reason.SCHEDULED) else "did badly"


def _relation(alert_id: UUID, request: Request) -> str:
    return "raised" if request.alert_id == alert_id else "is answered by"
