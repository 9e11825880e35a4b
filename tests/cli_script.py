"""All three services in this process, whose answers are scripted, for the commands that call them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from penstock.api.inference.v1 import inference_pb2_grpc
from penstock.api.monitoring.v1 import monitoring_pb2_grpc
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.api.registry.v1 import registry_pb2_grpc
from penstock.cli.__main__ import run
from services.common import errors
from services.common.status import DETAILS_KEY, code_of, details_of

SERVICES = {"REGISTRY", "INFERENCE", "MONITORING"}


class Script:
    """What each RPC answers (a message, several, an error, or a function of the request), and what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[Any] = []
        self.metadata: list[dict[str, Any]] = []

    def respond(self, name: str, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer one call."""
        request = list(request) if isinstance(request, Iterator) else request
        self.asked.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        answer = self.answers[name]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, errors.DomainError):
            context.set_trailing_metadata(((DETAILS_KEY, details_of(answer)),))
            context.abort(code_of(answer), answer.message)
        return iter(answer) if isinstance(answer, list) else answer

    def servicer(self, base: type) -> Any:
        """Make a servicer of all a service's RPCs."""

        def method(name: str) -> Callable[[Any, Any, grpc.ServicerContext], Any]:
            return lambda _, request, context: self.respond(name, request, context)

        return type("Scripted", (base,), {name: method(name) for name in vars(base) if not name.startswith("_")})()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Script]:
    """Serve all three services on one port, which the environment names."""
    script = Script()
    server = grpc.server(ThreadPoolExecutor(4))
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(
        script.servicer(registry_pb2_grpc.RegistryServiceServicer), server
    )
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(
        script.servicer(inference_pb2_grpc.InferenceServiceServicer), server
    )
    monitoring_pb2_grpc.add_MonitoringServiceServicer_to_server(
        script.servicer(monitoring_pb2_grpc.MonitoringServiceServicer), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PENSTOCK_TOKEN", raising=False)
    for service in SERVICES:
        monkeypatch.setenv(f"PENSTOCK_{service}_ADDRESS", f"127.0.0.1:{port}")
    yield script
    server.stop(None).wait()


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command that must succeed, and read its document."""

    def read(*arguments: str) -> Any:
        capsys.readouterr()
        assert run([*arguments, "--json"]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return json.loads(printed.out)

    return read


def version_in(stage: registry.Stage.ValueType, **more: Any) -> registry.ModelVersion:
    return registry.ModelVersion(
        model="iris", version="2.0.0", deployment_number=2, stage=stage, state=registry.VERSION_STATE_READY, **more
    )
