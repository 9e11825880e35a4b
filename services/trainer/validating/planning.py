"""What a validation will be, from what was asked for and what the registry says of model and version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from penstock import Client
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.errors import FailedPrecondition as TheyRefuse
from penstock.errors import NotFound as TheyLackIt
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.trainer.runs.convert import plain_parameters
from services.trainer.runs.planning import asking_registry, slices_of
from services.trainer.runs.splitting import split_of
from services.trainer.validating.jobs import NewValidation, ValidationSpec

LABEL: Final = "label"


class ValidationPlanning:
    """Plans validations."""

    def __init__(self, open_client: Callable[[], Client]) -> None:
        self._open_client = open_client

    def planned(self, new: NewValidation) -> ValidationSpec:
        """Say what a validation will be; see the contract for what is raised."""
        with asking_registry(), self._open_client() as client:
            model = _model(client, new.model)
            version = _resolved(client, new.model, new.version)
            against = "" if new.alone else _against(client, new, model, version.version)
        parameters = plain_parameters(model.training_config.parameters)
        source = new.data_source or model.training_config.data_source
        if not source:
            sentence = "name where the rows come from: a dataset as NAME or NAME/VERSION, or `traffic`"
            raise InvalidArgument.field("data_source", sentence, reason="INVALID_DATA_SOURCE")
        split_of(parameters)  # one that cannot be meant is refused now, and not when a worker comes to it
        slices = new.slices or slices_of(parameters)
        return ValidationSpec(
            model=new.model,
            version=version.version,
            against=against,
            data_source=source,
            rows=new.rows,
            split=parameters.get("split"),
            label_column=new.label_column or _label_of(version, parameters),
            slices=tuple(slices),
            note=new.note,
        )


def _model(client: Client, name: str) -> registry.Model:
    try:
        return client.registry.get_model(name)
    except TheyLackIt:
        raise NotFound(f"there is no model {name!r}", reason="MODEL_NOT_FOUND") from None


def _resolved(client: Client, model: str, selector: str) -> registry.ModelVersion:
    try:
        return client.registry.resolve(model, selector)
    except TheyLackIt:
        raise NotFound(f"{model} has no version {selector!r}", reason="VERSION_NOT_FOUND") from None
    except TheyRefuse as error:
        raise FailedPrecondition(error.message, reason=error.reason) from error


def _against(client: Client, new: NewValidation, model: registry.Model, version: str) -> str:
    """Say what it is compared with: what was asked for, else what is in production; '' where that is itself."""
    selector = new.against or model.production_version
    against = _resolved(client, new.model, selector).version if selector else ""
    return "" if against == version else against


def _label_of(version: registry.ModelVersion, parameters: dict[str, Any]) -> str:
    """Give the label's column: of a version that a run made, its metadata say it."""
    fields = MessageToDict(version.metadata.fields)
    return str(fields.get("label_column") or parameters.get("label_column") or LABEL)
