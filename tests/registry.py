"""A registry for the tests: the real composition, in this process, on a port of its own."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psycopg
from google.protobuf.message import Message

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from penstock.api.status.v1.status_pb2 import BadRequest, ErrorInfo, Status
from services.registry.__main__ import build
from services.registry.settings import RegistrySettings
from tests.postgres import LOCK_TIMEOUT_MS
from tests.waiting import looks

DEADLINE_S = 60.0
Found = TypeVar("Found")
APPROVED: dict[str, Any] = {"approved_by": "ada", "note": "it was tried"}


def settings_for(database_url: str, folder: Path, **more: Any) -> RegistrySettings:
    """Settings of a registry that a test can be quick with."""
    values: dict[str, Any] = {
        "database_url": database_url,
        "blob_url": f"file://{folder}/blobs",
        "port": 0,
        "metrics_port": 0,
        "poll_interval_ms": 200,
        "drain_grace_ms": 2_000,
        "database_lock_timeout_ms": LOCK_TIMEOUT_MS,
        "log_level": "error",
    }
    return RegistrySettings.model_validate({**values, **more})


@contextmanager
def served(settings: RegistrySettings) -> Iterator[str]:
    """Serve, and give the address."""
    with ExitStack() as stack:
        server = build(settings, stack)
        port = server.open()
        stack.callback(server.close)
        yield f"127.0.0.1:{port}"


@contextmanager
def registry(settings: RegistrySettings) -> Iterator[RegistryServiceStub]:
    """Serve, and give a stub, for messages that the SDK would not send; its channel outlives the server."""
    with ExitStack() as stack:
        server = build(settings, stack)
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.open()}"))
        stack.callback(server.close)
        yield RegistryServiceStub(channel)


class RegistryProcess:
    """A registry in a process of its own, as it is run, or by another module that runs it."""

    def __init__(self, database_url: str, folder: Path, *, module: str = "services.registry", **more: Any) -> None:
        settings = {
            "database_url": database_url,
            "blob_url": f"file://{folder}/blobs",
            "port": 0,
            "metrics_port": 0,
            "poll_interval_ms": 200,
            **more,
        }
        environment = {**os.environ, **{f"PENSTOCK_{key.upper()}": str(value) for key, value in settings.items()}}
        self.log = folder / f"registry-{secrets.token_hex(4)}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-m", module], env=environment, stdout=log, stderr=log)

    def address(self) -> str:
        """Wait until it listens, and say where."""

        def look() -> str | None:
            assert self.process.poll() is None, self.log.read_text()
            whole = [line for line in self.log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
            lines = [json.loads(line) for line in whole if line.startswith("{")]
            return next((line["address"] for line in lines if line["event"] == "listening"), None)

        return wait_until(look)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and give the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


def upload(
    content: bytes,
    *,
    model: str = "iris",
    version: str = "1",
    chunk_bytes: int = 64 * 1024,
    file: dict[str, Any] | None = None,
    **header: Any,
) -> Iterator[pb.RegisterVersionRequest]:
    """The messages of an upload."""
    header = {"framework": pb.FRAMEWORK_ONNX, **header}
    yield pb.RegisterVersionRequest(header=pb.VersionHeader(model=model, version=version, **header))
    described = {"path": "model.onnx", "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    yield pb.RegisterVersionRequest(file=pb.FileHeader(**{**described, **(file or {})}))
    for start in range(0, len(content), chunk_bytes):
        yield pb.RegisterVersionRequest(chunk=content[start : start + chunk_bytes])


def upload_files(
    files: Mapping[str, bytes],
    *,
    model: str = "iris",
    version: str = "1",
    file: dict[str, Any] | None = None,
    **header: Any,
) -> Iterator[pb.RegisterVersionRequest]:
    """The messages of an upload of several files, or archives."""
    header = {"framework": pb.FRAMEWORK_ONNX, "file_count": len(files), **header}
    yield pb.RegisterVersionRequest(header=pb.VersionHeader(model=model, version=version, **header))
    for path, content in files.items():
        described = {"path": path, "sha256": hashlib.sha256(content).hexdigest(), **(file or {})}
        yield pb.RegisterVersionRequest(file=pb.FileHeader(**described))
        for start in range(0, len(content), 1024 * 1024):
            yield pb.RegisterVersionRequest(chunk=content[start : start + 1024 * 1024])


def register(stub: RegistryServiceStub, content: bytes, **more: Any) -> pb.ModelVersion:
    """Upload a version, and wait until it is READY or FAILED."""
    registered = stub.RegisterVersion(upload(content, **more), timeout=DEADLINE_S).version
    return settled(stub, registered.model, registered.version)


def settled(stub: RegistryServiceStub, model: str, version: str) -> pb.ModelVersion:
    """Wait until a version is READY or FAILED."""

    def look() -> pb.ModelVersion | None:
        found = stub.GetVersion(pb.GetVersionRequest(model=model, version=version), timeout=DEADLINE_S).version
        return found if found.state in (pb.VERSION_STATE_READY, pb.VERSION_STATE_FAILED) else None

    return wait_until(look)


def promote(
    stub: RegistryServiceStub, version: str, to_stage: pb.Stage.ValueType = pb.STAGE_UNSPECIFIED, model: str = "iris"
) -> pb.ModelVersion:
    """Move a version, with an approval."""
    request = pb.PromoteVersionRequest(model=model, version=version, to_stage=to_stage, **APPROVED)
    return stub.PromoteVersion(request, timeout=DEADLINE_S).version


def go_live(stub: RegistryServiceStub, version: str, model: str = "iris") -> None:
    """Move a version from DEVELOPMENT to PRODUCTION."""
    for stage in (pb.STAGE_CANDIDATE, pb.STAGE_STAGING, pb.STAGE_PRODUCTION):
        promote(stub, version, stage, model)


def wait_until(look: Callable[[], Found | None], deadline_s: float = DEADLINE_S) -> Found:
    """Look until something is found."""
    for _ in looks(deadline_s):
        if (found := look()) is not None:
            return found
    raise AssertionError("waited too long")


@contextmanager
def models_locked(database_url: str) -> Iterator[Callable[[int], None]]:
    """Keep every model from being changed inside the block; gives what waits until so many try to."""
    with psycopg.connect(database_url) as holder:
        holder.execute("LOCK TABLE registry.models IN EXCLUSIVE MODE")
        yield partial(wait_for_locks, database_url)
        holder.rollback()


def wait_for_locks(database_url: str, count: int) -> None:
    """Wait until so many of the database's connections wait for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(database_url, autocommit=True) as eyes:
        wait_until(lambda: (eyes.execute(waiting).fetchone() == (count,)) or None)


def refusal(error: BaseException | None) -> tuple[grpc.StatusCode, str, list[str]]:
    """Take an error apart: its code, its reason, and the fields that it names."""
    call: Any = error  # what a stub raises is a grpc.Call as well, which its types do not say
    info, bad = ErrorInfo(), BadRequest()
    for key, value in call.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in Status.FromString(value).details:
                kinds: dict[str, Message] = {"ErrorInfo": info, "BadRequest": bad}
                kind = kinds.get(detail.type_url.rpartition(".")[2])
                if kind is not None:
                    kind.ParseFromString(detail.value)
    return call.code(), info.reason, [violation.field for violation in bad.field_violations]
