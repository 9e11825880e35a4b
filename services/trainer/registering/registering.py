"""A run's files into the registry, through the SDK, as one version; the same run registers it once."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import structlog

from penstock import Client
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.errors import AlreadyExists, NotFound, PenstockError, ValidationFailed
from penstock.registry import RegistryClient
from penstock.uploads import UploadFile
from services.trainer.faults import RegistrationFailed, RegistryUnavailable
from services.trainer.registering.answers import registry_answers
from services.trainer.registering.lineage import metadata_of, source_of
from services.trainer.registering.models import RegisteredVersion, Registration
from services.trainer.registering.names import next_name
from services.trainer.task import Stopping

LOOK_INTERVAL_S = 0.2
VALIDATION_S = 1_800.0
"""How long a version may wait for the registry's validator; then the run is put back, and looks again."""
MOST_NAMES = 100
"""Names that are tried for a version."""
LOOKED_THROUGH = 10_000
"""Versions of a model, the newest, among which the highest is looked for."""
KeepName = Callable[[str], None]
"""Keeps what the version is called, before anything is registered: whoever takes the run over finds it there."""
_log = structlog.get_logger(__name__)


class Registering:
    """Makes versions of what runs leave."""

    def __init__(self, open_client: Callable[[], Client]) -> None:
        """Take what opens a client of the registry: each run has its own, which closes when the run is to end."""
        self._open_client = open_client

    def register(self, stopping: Stopping, registration: Registration, keep_name: KeepName) -> RegisteredVersion:
        """Register what a run left as a CANDIDATE, and wait until it is READY.

        Begun again after a crash it finds the version that it made, and waits for it.

        Raises:
            RegistrationFailed: the registry does not take it, or its validator refused it; no version is left.
            RegistryUnavailable: the registry gives no answer, or its validator takes too long.
            Stopped: the run is to end; a version that was registered stays, and is found again.
        """
        with registry_answers(), self._open_client() as client:
            stopping.on_stop(client.close)
            try:
                made = _Asking(client.registry, stopping).register(registration, keep_name)
            except PenstockError:
                stopping.check()  # what it stumbled over may be its own end
                raise
            finally:
                stopping.forget(client.close)
        return RegisteredVersion(
            made.model,
            made.version,
            made.deployment_number,
            registry.Stage.Name(made.stage).removeprefix("STAGE_"),
            made.size_bytes,
        )


class _Asking:
    """One run's calls to the registry."""

    def __init__(self, registry_client: RegistryClient, stopping: Stopping) -> None:
        self._registry = registry_client
        self._stopping = stopping

    def register(self, registration: Registration, keep_name: KeepName) -> registry.ModelVersion:
        files = files_of(registration.folder.artifact)
        version, generated = registration.version, registration.generated or not registration.version
        for _ in range(MOST_NAMES):
            if version and (found := self._find(registration.model, version)) is not None:
                if found.training_run_id == registration.run_id:
                    return self._ready(found)
                if not generated:
                    raise _taken(found)
                version = ""
            version = version or next_name(self._names(registration.model))
            keep_name(version)
            try:
                return self._ready(self._upload(registration, version, files))
            except AlreadyExists:
                # Another was quicker, or this run's own registration was answered to nobody: the next turn sees which.
                if self._find(registration.model, version) is None:  # one of that name was deleted
                    if not generated:
                        raise
                    version = ""
        sentence = f"{MOST_NAMES} names up to {version} were taken, one after another: say what the version is called"
        raise RegistrationFailed(f"no name was found for a version of {registration.model}: {sentence} (--version)")

    def _find(self, model: str, version: str) -> registry.ModelVersion | None:
        try:
            return self._registry.get_version(model, version)
        except NotFound:
            return None

    def _names(self, model: str) -> Iterator[str]:
        """Give the names of a model's versions, deleted ones too: theirs are never given again."""
        try:
            for count, version in enumerate(self._registry.list_versions(model, show_deleted=True)):
                yield version.version
                if count >= LOOKED_THROUGH:
                    break
        except NotFound:
            pass  # no such model yet

    def _upload(
        self, registration: Registration, version: str, files: Mapping[str, UploadFile]
    ) -> registry.ModelVersion:
        outcome = registration.outcome
        return self._registry.register_version(
            registration.model,
            version,
            files,
            framework=outcome.framework,
            stage="CANDIDATE",
            columns=[column.name for column in outcome.features] if outcome.input_name else (),
            origin=source_of(registration),
            training_run_id=registration.run_id,
            metadata=metadata_of(registration),
            description=registration.note[:4_096],
            request_id=_request_id(registration, version, files),
            progress=lambda *_: self._stopping.check(),
            wait=False,
        )

    def _ready(self, version: registry.ModelVersion) -> registry.ModelVersion:
        """Wait for the validator; a version that it refuses is deleted, for nobody asked for one that cannot serve."""
        until = time.monotonic() + VALIDATION_S
        while version.state != registry.VERSION_STATE_READY:
            if version.state == registry.VERSION_STATE_FAILED:
                self._clear_away(version)
                raise ValidationFailed(version)
            if time.monotonic() >= until:
                minutes = VALIDATION_S / 60
                raise RegistryUnavailable(
                    f"{version.model} {version.version} has waited {minutes:.0f} minutes for the registry's "
                    "validator: see that one runs"
                )
            self._stopping.wait(LOOK_INTERVAL_S)
            version = self._registry.get_version(version.model, version.version)
        return version

    def _clear_away(self, version: registry.ModelVersion) -> None:
        try:
            self._registry.delete_version(version.model, version.version)
        except PenstockError as error:
            _log.warning("a failed version stays", model=version.model, version=version.version, reason=error.reason)


def files_of(folder: Path) -> dict[str, UploadFile]:
    """List what a recipe left, hashed. What it left is not trusted: links lead out of its folder, and are refused.

    Raises:
        RegistrationFailed: there is nothing, or something that is no plain file (INVALID_OUTCOME).
    """
    files: dict[str, UploadFile] = {}
    for parent, folders, names in os.walk(folder, followlinks=False):
        for name in (*folders, *names):
            path = Path(parent, name)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise _odd(f"{path.relative_to(folder)} is no plain file; a version has plain files alone")
        for name in sorted(names):
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            files[relative] = UploadFile.of(relative, path)
    if not files:
        raise _odd("it left no file; a recipe writes the version's files into the folder `artifact`")
    return files


def _odd(sentence: str) -> RegistrationFailed:
    return RegistrationFailed(sentence, reason="INVALID_OUTCOME")


def _taken(found: registry.ModelVersion) -> RegistrationFailed:
    sentence = f"{found.model} has a version {found.version} already, which another made; give this one another name"
    return RegistrationFailed(f"{sentence} (--version), or none", reason="VERSION_EXISTS")


def _request_id(registration: Registration, version: str, files: Mapping[str, UploadFile]) -> str:
    """Name a registration: the same by whoever takes the run over, another where the files are others."""
    said = repr((version, sorted((path, file.sha256) for path, file in files.items())))
    return f"training-{registration.run_id}-{hashlib.sha256(said.encode()).hexdigest()[:32]}"
