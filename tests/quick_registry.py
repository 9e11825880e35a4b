"""A registry whose validator believes what the first bytes of a file say, so that a test may register many versions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1.administration_pb2_grpc import AdministrationServiceStub
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from services.registry.__main__ import build
from services.registry.settings import RegistrySettings
from services.registry.validation.report import Failure, FailureReason, Signature, TensorSpec, ValidationReport
from services.registry.validation.validator import Validator
from tests import registry

GOOD, BAD = b"good ", b"bad "
FOUND = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 3)),))
_contents = itertools.count()


@dataclass(frozen=True)
class Registry:
    """Both services of a registry that runs here."""

    address: str
    models: RegistryServiceStub
    administration: AdministrationServiceStub


@contextmanager
def running(settings: RegistrySettings) -> Iterator[Registry]:
    """Serve as the registry does, but for the validator."""

    def believe(_self: Validator, folder: Path, _framework: str, **_more: str) -> ValidationReport:
        content = b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
        if content.startswith(BAD):
            return ValidationReport(failure=Failure(FailureReason.INVALID_MODEL, "it says so itself"))
        return ValidationReport(signature=FOUND, opset=17)

    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(Validator, "validate", believe)
        server = build(settings, stack)
        address = f"127.0.0.1:{server.open()}"
        channel = stack.enter_context(grpc.insecure_channel(address))
        stack.callback(server.close)
        yield Registry(address, RegistryServiceStub(channel), AdministrationServiceStub(channel))


def unique(kind: bytes = GOOD) -> bytes:
    """Make a file's content that no other version has."""
    return kind + str(next(_contents)).encode()


def register(
    here: Registry, version: str = "1", *, model: str = "iris", content: bytes | None = None, **more: Any
) -> pb.ModelVersion:
    """Upload a version, and wait until it is READY or FAILED."""
    return registry.register(here.models, content or unique(), model=model, version=version, **more)


def delete(here: Registry, version: str, *, model: str = "iris") -> pb.ModelVersion:
    """Delete a version."""
    request = pb.DeleteVersionRequest(model=model, version=version)
    return here.models.DeleteVersion(request, timeout=registry.DEADLINE_S).version


def restore(here: Registry, version: str, *, model: str = "iris") -> pb.ModelVersion:
    """Restore a version."""
    request = pb.RestoreVersionRequest(model=model, version=version)
    return here.models.RestoreVersion(request, timeout=registry.DEADLINE_S).version


def reason_of(call: Any, *arguments: Any) -> tuple[grpc.StatusCode, str]:
    """Make a call that is refused, and give its code and reason."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, timeout=registry.DEADLINE_S)
    code, reason, _ = registry.refusal(caught.value)
    return code, reason
