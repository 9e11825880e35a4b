"""How models are watched: defaults for all, and what differs for a model or a version of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import islice
from typing import Any

from google.protobuf.message import Message

from penstock.api.monitoring.v1 import configuration_pb2 as pb
from penstock.api.monitoring.v1 import drift_pb2
from penstock.durations import write_duration
from penstock.errors import FieldViolation, InvalidArgument
from penstock.monitoring_connection import MonitoringConnected, page_size_of
from penstock.paging import pages
from penstock.values import enum_number

Changes = Mapping[str, Mapping[str, Any]]
"""By part and field: `{"drift": {"window": timedelta(hours=6), "gate": "ks"}, "retraining": {"enabled": False}}`.

None takes back what the scope said; an empty list is none, whatever the scope above says."""


class ConfigurationsClient(MonitoringConnected):
    """Configurations. What one leaves unset, the one above says: version, model, all, built in."""

    def get(self, model: str = "", version: str = "") -> pb.GetConfigurationResponse:
        """Give what holds (`effective`) and what the scope says itself (`own`); without a model: the defaults.

        `warnings` say what looks like a mistake: a model that nobody knows, an ignored feature that no row has.
        """
        request = pb.GetConfigurationRequest(model=model, version=version)
        return self._connection.unary(self._connection.stub.GetConfiguration, request)

    def change(
        self, changes: Changes, *, model: str = "", version: str = "", note: str = ""
    ) -> pb.SetConfigurationResponse:
        """Change what is named, and leave the rest: None takes back what the scope said, so that what is above holds.

        Somebody else's change in between is not overwritten. `warnings` say what looks like a mistake, as in `get`.

        Args:
            changes: see `Changes`; durations as timedelta or text, enums by name.
            model: only this model; empty: the defaults for all.
            version: only this version.
            note: why; at most 1,000 characters.

        Raises:
            InvalidArgument: there is no such setting (UNKNOWN_FIELD), or a value is out of range
                (INVALID_CONFIGURATION); `violations` names it.
            Aborted: somebody changed it at the same time (ETAG_MISMATCH).
        """
        found = self.get(model, version)
        own = changed_configuration(found.own, changes)
        return self.set(own, model=model, version=version, note=note, etag=found.etag)

    def set(
        self, configuration: pb.Configuration, *, model: str = "", version: str = "", note: str = "", etag: str = ""
    ) -> pb.SetConfigurationResponse:
        """Replace all that a scope says itself; with an etag only if nobody changed it since. Raises as `change`."""
        request = pb.SetConfigurationRequest(
            model=model, version=version, configuration=configuration, note=note, etag=etag
        )
        return self._connection.unary(self._connection.stub.SetConfiguration, request)

    def changes(self, model: str = "", *, limit: int | None = None) -> Iterator[pb.ConfigurationChange]:
        """List what was changed, by whom and why, the newest first; with a model: only of its scopes.

        Raises:
            NotFound: nobody knows the model (MODEL_NOT_FOUND).
        """

        def fetch(token: str) -> pb.ListConfigurationChangesResponse:
            request = pb.ListConfigurationChangesRequest(model=model, page_size=page_size_of(limit), page_token=token)
            return self._connection.unary(self._connection.stub.ListConfigurationChanges, request)

        return islice((change for page in pages(fetch) for change in page.changes), limit)


def changed_configuration(own: pb.Configuration, changes: Changes) -> pb.Configuration:
    """Give a configuration with some of its settings changed.

    Raises:
        InvalidArgument: there is no such part or setting (UNKNOWN_FIELD), or a value is of another type
            (UNSUPPORTED_VALUE).
    """
    changed = pb.Configuration()
    changed.CopyFrom(own)
    for part, settings in changes.items():
        _refuse_unknown(pb.Configuration, part, part)
        section: Any = getattr(changed, part)
        for name, value in settings.items():
            path = f"{part}.{name}"
            _refuse_unknown(type(section), name, path)
            section.ClearField(name)
            if value is not None:
                section.MergeFrom(_said(type(section), name, path, value))
        if not section.ListFields():
            changed.ClearField(part)  # type: ignore[arg-type]  # checked above
    return changed


def _said(kind: type[Message], name: str, path: str, value: Any) -> Message:
    if isinstance(value, timedelta):
        value = write_duration(value)
    elif name == "gate":
        value = enum_number(path, drift_pb2.DriftGate, value)
    elif isinstance(value, (list, tuple)) and not value:
        value = [""]  # the contract's word for none: without any it would say nothing
    try:
        return kind(**{name: value})
    except (TypeError, ValueError) as error:
        sentence = f"{value!r} is of another type than this setting"
        violation = FieldViolation(path, sentence)
        raise InvalidArgument(f"{path}: {sentence}", reason="UNSUPPORTED_VALUE", violations=[violation]) from error


def _refuse_unknown(kind: type[Message], name: str, path: str) -> None:
    known = kind.DESCRIPTOR.fields_by_name
    if name not in known:
        sentence = f"there is no {path!r}; there are {', '.join(known)}"
        raise InvalidArgument(sentence, reason="UNKNOWN_FIELD", violations=[FieldViolation(path, sentence)])
