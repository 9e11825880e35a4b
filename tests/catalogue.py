"""A registry full of references, which are READY at once: what the tests of its catalogue share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1.administration_pb2_grpc import AdministrationServiceStub
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from tests import registry

INVALID = grpc.StatusCode.INVALID_ARGUMENT
ABORTED = grpc.StatusCode.ABORTED
NOT_FOUND = grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
DEADLINE_S = registry.DEADLINE_S


@dataclass(frozen=True)
class Catalogue:
    """A registry of the test's own: its stubs, and its database."""

    stub: RegistryServiceStub
    administration: AdministrationServiceStub
    database_url: str


@contextmanager
def served(database_url: str, folder: Path, **settings: Any) -> Iterator[Catalogue]:
    """Serve a registry, and give the stubs of it."""
    with (
        registry.served(registry.settings_for(database_url, folder, **settings)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        yield Catalogue(RegistryServiceStub(channel), AdministrationServiceStub(channel), database_url)


def header(model: str, version: str, **more: Any) -> pb.VersionHeader:
    """The header of a reference to a model of Ollama's."""
    reference = pb.OllamaReference(model="llama3.2:1b", mode=pb.OLLAMA_MODE_GENERATE)
    return pb.VersionHeader(
        **{"model": model, "version": version, "framework": pb.FRAMEWORK_OLLAMA, "ollama": reference, **more}
    )


def register(stub: RegistryServiceStub, version: str, model: str = "iris", **more: Any) -> pb.ModelVersion:
    """Register a reference; it is READY."""
    request = pb.RegisterVersionRequest(header=header(model, version, **more))
    return stub.RegisterVersion(iter([request]), timeout=DEADLINE_S).version


def update_model(stub: RegistryServiceStub, paths: list[str], name: str = "iris", **fields: Any) -> pb.Model:
    """Change the fields of a model that the mask names."""
    request = pb.UpdateModelRequest(model=pb.Model(name=name, **fields), update_mask=FieldMask(paths=paths))
    return stub.UpdateModel(request, timeout=DEADLINE_S).model


def update_version(stub: RegistryServiceStub, paths: list[str], version: str = "1", **fields: Any) -> pb.ModelVersion:
    """Change the fields of a version of `iris` that the mask names."""
    wanted = pb.ModelVersion(model="iris", version=version, **fields)
    request = pb.UpdateVersionRequest(version=wanted, update_mask=FieldMask(paths=paths))
    return stub.UpdateVersion(request, timeout=DEADLINE_S).version


def get_model(stub: RegistryServiceStub, name: str = "iris") -> pb.Model:
    """Read a model."""
    return stub.GetModel(pb.GetModelRequest(name=name), timeout=DEADLINE_S).model


def get_version(stub: RegistryServiceStub, version: str, model: str = "iris") -> pb.ModelVersion:
    """Read a version."""
    return stub.GetVersion(pb.GetVersionRequest(model=model, version=version), timeout=DEADLINE_S).version


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str, list[str]]:
    """The code, the reason and the fields of a call that is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return registry.refusal(caught.value)
