"""Sessions of the Ollama runtime on the stand-in: what its tests share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.common.errors import (
    DomainError,
)
from services.inference.models import (
    OllamaReference,
    ResolvedVersion,
    Signature,
    TensorSpec,
)
from services.inference.runtimes.ollama.runtime import OllamaRuntime
from services.inference.runtimes.ollama.server import OllamaLimits, OllamaServer
from services.inference.runtimes.ollama.session import OllamaSession
from services.inference.runtimes.runtime import Artifact
from services.inference.tensors import Tensor
from tests import ollama
from tests.ollama import StubOllama, well

NAME = "llama3.2:1b"
SIGNATURES = {
    "chat": Signature((TensorSpec("messages", "BYTES", (-1,)),), (TensorSpec("response", "BYTES", (-1,)),)),
    "generate": Signature((TensorSpec("prompt", "BYTES", (-1,)),), (TensorSpec("response", "BYTES", (-1,)),)),
    "embed": Signature((TensorSpec("text", "BYTES", (-1,)),), (TensorSpec("embedding", "FP32", (-1, -1)),)),
}
SHORT = OllamaLimits(stall_timeout_s=0.2, timeout_s=20)


@pytest.fixture
def stub() -> Iterator[StubOllama]:
    with ollama.running() as running:
        running.models[NAME] = well
        yield running


def version(mode: str, name: str = NAME) -> ResolvedVersion:
    reference = OllamaReference(name, mode)
    return ResolvedVersion("talker", "1", 1, "ollama", "production", SIGNATURES[mode], ollama=reference)


def load(stub: StubOllama, mode: str, limits: OllamaLimits | None = None, **more: Any) -> OllamaSession:
    server = OllamaServer(stub.url, limits, **more)
    return OllamaRuntime(server).load(Artifact(version(mode), Path()))


def texts(*rows: str | bytes) -> Tensor:
    tensor = np.empty(len(rows), dtype=object)
    tensor[:] = [row.encode() if isinstance(row, str) else row for row in rows]
    return tensor


def chat(*words: str) -> Tensor:
    return texts(*(json.dumps([{"role": "user", "content": word}]) for word in words))


def prompted(stub: StubOllama, behave: ollama.Behaviour, limits: OllamaLimits | None = None) -> list[Any]:
    """Ask for a text that a behaviour gives."""
    stub.models[NAME] = behave
    response: list[Any] = load(stub, "generate", limits).run({"prompt": texts("hello")})["response"].tolist()
    return response


def refusal(stub: StubOllama, behave: ollama.Behaviour, limits: OllamaLimits | None = None) -> DomainError:
    with pytest.raises(DomainError) as caught:
        prompted(stub, behave, limits)
    return caught.value
