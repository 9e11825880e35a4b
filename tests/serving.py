"""Parts that the tests of the inference service share: versions made of bytes, sessions without a model."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from services.common.errors import NotFound
from services.inference.artifacts.artifacts import ArtifactCache
from services.inference.models import ArtifactFile, ResolvedVersion, ServingSettings, Signature, TensorSpec
from services.inference.runtimes.onnx_runtime import OnnxRuntime
from services.inference.sessions.loader import ModelLoader
from services.inference.tensors import Tensor

LINEAR = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 3)),))


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait until something is so, and fail if it never is."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


class BlobShelf:
    """Blobs by digest, and a count of how often each was asked for."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []

    def put(self, data: bytes) -> str:
        """Keep bytes; returns their digest."""
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def fetch(self, version: ResolvedVersion, file: ArtifactFile, path: Path) -> None:
        """Write a blob."""
        self.asked.append(file.sha256)
        path.write_bytes(self.blobs[file.sha256])

    def version(
        self,
        files: Mapping[str, bytes],
        *,
        model: str = "iris",
        version: str = "1.0.0",
        signature: Signature = LINEAR,
        serving: ServingSettings | None = None,
    ) -> ResolvedVersion:
        """Make a version of these files, and keep them."""
        kept = tuple(ArtifactFile(path, self.put(data), len(data)) for path, data in files.items())
        return ResolvedVersion(
            model, version, 1, "onnx", "PRODUCTION", signature, kept, serving=serving or ServingSettings()
        )


class Versions:
    """A resolver over a dictionary."""

    def __init__(self, *versions: ResolvedVersion) -> None:
        self._versions = {version.model: version for version in versions}

    def resolve(self, model: str, version: str) -> ResolvedVersion:
        """Find a version by its model's name."""
        if model not in self._versions:
            raise NotFound(f"Request for unknown model: {model!r} is not found")
        return self._versions[model]


def onnx_loader(shelf: BlobShelf, folder: Path) -> ModelLoader:
    """Build the loader that the service builds, over the shelf."""
    artifacts = ArtifactCache(folder, shelf.fetch)
    artifacts.open()
    return ModelLoader(artifacts, partial(OnnxRuntime, intra_op_threads=1))


class PlainSession:
    """A session without a model, that knows whether anybody ran it after it was closed."""

    def __init__(self, size_bytes: int = 100) -> None:
        self.signature = LINEAR
        self.size_bytes = size_bytes
        self.closed = threading.Event()

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] = ()) -> dict[str, Tensor]:
        """Answer zeros."""
        assert not self.closed.is_set(), "a closed session was run"
        return {"y": np.zeros((1, 3), np.float32)}

    def terminate(self, *, longer_than_s: float = 0.0) -> int:
        """End nothing: a run is over at once."""
        return 0

    def close(self) -> None:
        """Note that it is over."""
        self.closed.set()


def plain_version(name: str, *, size_bytes: int = 100, pinned: bool = False) -> ResolvedVersion:
    """Make a version whose file never existed."""
    file = ArtifactFile("model.onnx", hashlib.sha256(name.encode()).hexdigest(), size_bytes)
    return ResolvedVersion(name, "1", 1, "onnx", "PRODUCTION", LINEAR, (file,), serving=ServingSettings(pinned=pinned))


class PlainLoader:
    """Loads plain sessions; `gate` holds loads back, `failures` are raised first."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.failures: list[BaseException] = []
        self.sessions: list[tuple[str, PlainSession]] = []
        self.began = 0

    def __call__(self, version: ResolvedVersion, resources: ExitStack) -> PlainSession:
        """Load, or fail as told."""
        self.began += 1
        assert self.gate.wait(60)
        if self.failures:
            raise self.failures.pop(0)
        session = PlainSession(version.size_bytes)
        self.sessions.append((version.model, session))
        resources.callback(session.close)
        return session

    def of(self, model: str) -> PlainSession:
        """The latest session of a model."""
        return next(session for name, session in reversed(self.sessions) if name == model)
