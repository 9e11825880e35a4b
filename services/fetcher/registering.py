"""Fetched files into the registry, through the SDK, as one version; the same fetched twice is one version."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import BinaryIO, cast

import structlog
from google.protobuf.json_format import ParseDict

from penstock import Client
from penstock.api.fetcher.v1.fetch_jobs_pb2 import FetchTarget
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PenstockError,
    PermissionDenied,
    ValidationFailed,
)
from penstock.uploads import UploadFile, framework_of
from services.common.blobs import BlobStore
from services.common.jobs import JobRun
from services.fetcher.downloading.reading import DownloadReader
from services.fetcher.faults import RegistrationRefused, RegistryUnavailable, UnsupportedFramework
from services.fetcher.models import Download, FetchSpec, Plan
from services.fetcher.store.fetches import FetchStore

VALIDATION_S = 600.0
LOOK_INTERVAL_S = 0.2
_log = structlog.get_logger(__name__)
MAX_REVISION_CHARS = 256
LOOKED_THROUGH = 1_000
"""Versions of a model, the newest, among which one of the same source is looked for."""
MOST_TURNS = 100
"""Names that are tried for a version."""
_NO = (InvalidArgument, FailedPrecondition, PermissionDenied, NotFound, AlreadyExists)


class Registering:
    """Makes versions of what was fetched."""

    def __init__(self, client: Client, fetches: FetchStore, blobs: BlobStore) -> None:
        self._client = client
        self._fetches = fetches
        self._blobs = blobs

    def register(
        self, run: JobRun, spec: FetchSpec, plan: Plan, model: str, downloads: Mapping[str, Download]
    ) -> tuple[registry.ModelVersion, bool]:
        """Register the files of a plan, and wait until the version is READY; gives it, and whether it was there before.

        Raises:
            RegistrationRefused: the registry does not take it, and says why.
            RegistryUnavailable: it gives no answer.
        """
        target = FetchTarget.FromString(spec.target)
        try:
            return self._register(run, spec, plan, target, model, downloads)
        except _NO as error:
            raise RegistrationRefused(f"the registry refused it: {error.message} ({error.reason})") from error
        except (PenstockError, OSError) as error:
            said = f"{error.message} ({error.reason})" if isinstance(error, PenstockError) else str(error)
            raise RegistryUnavailable(f"the registry gives no answer: {said}") from error

    def _register(
        self,
        run: JobRun,
        spec: FetchSpec,
        plan: Plan,
        target: FetchTarget,
        model: str,
        downloads: Mapping[str, Download],
    ) -> tuple[registry.ModelVersion, bool]:
        origin = _origin(spec, plan, downloads)
        version, refused = spec.version, 0
        for _ in range(MOST_TURNS):
            if not version:
                same, highest = self._among(model, origin, plan, downloads)
                if same is not None:
                    return self._ready(run, same), True
                version = f"v{max(highest, refused) + 1}"
            # Kept before anything is registered: whoever takes the job over registers the same, or finds it there.
            with run.holding() as connection:
                self._fetches.name(connection, run.job.job_id, model, version)
            try:
                return self._ready(run, self._upload(run, plan, target, model, version, origin, downloads)), False
            except AlreadyExists:
                if target.version:
                    raise
                # Another fetch was quicker, or one that was deleted had the name.
                version, refused = "", _number(version)
            except ValidationFailed:
                self._clear_away(model, version, origin)
                raise
        sentence = f"{MOST_TURNS} names up to v{refused} were taken, one after another: say what the version is called"
        raise RegistrationRefused(f"no name was found for a version of {model}: {sentence} (--version)")

    def _ready(self, run: JobRun, version: registry.ModelVersion) -> registry.ModelVersion:
        """Wait for the validator; raises Stopped as soon as the run is to end, and FailedPrecondition."""
        until = time.monotonic() + VALIDATION_S
        while version.state != registry.VERSION_STATE_READY:
            if version.state == registry.VERSION_STATE_FAILED:
                raise ValidationFailed(version)
            if time.monotonic() > until:
                sentence = f"{version.model} {version.version} still waits for a validator; its fetch is tried again"
                raise RegistryUnavailable(sentence)
            run.wait(LOOK_INTERVAL_S)
            version = self._client.registry.get_version(version.model, version.version)
        return version

    def _clear_away(self, model: str, version: str, origin: registry.Source) -> None:
        """Delete a version of this fetch that failed its validation: nobody asked for one that cannot be served."""
        try:
            found = self._client.registry.get_version(model, version)
            if found.state == registry.VERSION_STATE_FAILED and found.source == origin:
                self._client.registry.delete_version(model, version)
        except PenstockError as error:
            _log.warning("a failed version stays", model=model, version=version, reason=error.reason)

    def _among(
        self, model: str, origin: registry.Source, plan: Plan, downloads: Mapping[str, Download]
    ) -> tuple[registry.ModelVersion | None, int]:
        """Find the version that was made of the same, and the highest number of those called v1, v2 and so on."""
        highest = 0
        digests = sorted(download.sha256 for download in downloads.values())
        try:
            for count, version in enumerate(self._client.registry.list_versions(model)):
                highest = max(highest, _number(version.version))
                same = version.source == origin and version.state != registry.VERSION_STATE_FAILED
                if same and (plan.unpack or sorted(file.sha256 for file in version.files) == digests):
                    return version, highest
                if count >= LOOKED_THROUGH:
                    break
        except NotFound:
            pass  # no such model yet
        return None, highest

    def _upload(
        self,
        run: JobRun,
        plan: Plan,
        target: FetchTarget,
        model: str,
        version: str,
        origin: registry.Source,
        downloads: Mapping[str, Download],
    ) -> registry.ModelVersion:
        with ExitStack() as stack:
            files: dict[str, UploadFile] = {}
            for path, download in downloads.items():
                reader = stack.enter_context(DownloadReader(self._blobs, download))
                source = cast("BinaryIO", reader)
                files[path] = UploadFile(path, source, 0, download.size_bytes, download.sha256)
            return self._client.registry.register_version(
                model,
                version,
                files,
                framework=_framework_of(plan, target),
                stage=target.stage or None,
                approved_by=target.approved_by,
                note=target.note,
                description=target.description,
                labels=dict(target.labels),
                metadata=_metadata_of(plan, target),
                origin=origin,
                unpack=plan.unpack,
                request_id=f"fetch-{run.job.job_id}-{_digest_of(model, version, origin, downloads)}",
                progress=lambda *_: run.check(),
                wait=False,
            )


def check_framework(plan: Plan, target: FetchTarget) -> None:
    """See that some runtime can serve what a plan has, by its files' names; an archive's say nothing.

    Raises:
        UnsupportedFramework: none can.
    """
    if plan.unpack or _framework_of(plan, target):
        return
    if framework_of(file.path for file in plan.files) is None:
        names = ", ".join(sorted(PurePosixPath(file.path).name for file in plan.files)[:5])
        raise UnsupportedFramework(
            f"no runtime is known to serve {names}: ONNX (.onnx), SavedModel (saved_model.pb), .keras and Transformers "
            "bundles (tokenizer and .onnx) are served; safetensors and PyTorch files must be exported to ONNX first"
        )


def _framework_of(plan: Plan, target: FetchTarget) -> registry.Framework.ValueType | None:
    """Give what was asked for, else what the source says; None: by the files' names."""
    said = registry.Framework.Value(f"FRAMEWORK_{plan.framework}") if plan.framework else None
    return target.framework or said


def _metadata_of(plan: Plan, target: FetchTarget) -> registry.Metadata:
    """Give what the source says of the model; what was asked for goes before it, field by field."""
    metadata = ParseDict(dict(plan.metadata), registry.Metadata())
    if target.metadata.tags:
        del metadata.tags[:]
    metadata.MergeFrom(target.metadata)
    return metadata


def not_done(version: registry.ModelVersion, target: FetchTarget) -> tuple[str, ...]:
    """Say what was asked for of a version that was there already, and is otherwise: it stays as it was."""
    kept = {
        "stage": bool(target.stage) and target.stage != version.stage,
        "labels": any(version.labels.get(name) != value for name, value in target.labels.items()),
        "description": bool(target.description) and target.description != version.description,
        "metadata": target.HasField("metadata") and target.metadata != version.metadata,
    }
    names = [name for name, differs in kept.items() if differs]
    if not names:
        return ()
    stage = registry.Stage.Name(version.stage).removeprefix("STAGE_")
    sentence = (
        f"{version.model} {version.version} was there already and stays as it was, in {stage}; not applied: "
        f"{', '.join(names)}. Change it by itself (penstock model promote, penstock model set), or give it a version "
        "of its own (--version)"
    )
    return (sentence,)


def _origin(spec: FetchSpec, plan: Plan, downloads: Mapping[str, Download]) -> registry.Source:
    """Say where it came from. A single file's digest stands in for a revision that the source does not have.

    So two archives are never taken for the same: of what is unpacked, the registry has no digest.
    """
    revision = plan.revision
    if len(downloads) == 1 and not 0 < len(revision) <= MAX_REVISION_CHARS:
        (only,) = downloads.values()
        revision = f"sha256:{only.sha256}"
    return registry.Source(
        origin=spec.reference.source, reference=spec.reference.reference, revision=revision[:MAX_REVISION_CHARS]
    )


def _number(version: str) -> int:
    """Give the number of a version called v1, v2 and so on; 0 of any other."""
    digits = version[1:]
    return int(digits) if version[:1] == "v" and digits.isascii() and digits.isdigit() else 0


def _digest_of(model: str, version: str, origin: registry.Source, downloads: Mapping[str, Download]) -> str:
    """Tell apart what a job registers in one attempt and another: the same is the same request."""
    files = sorted((path, download.sha256) for path, download in downloads.items())
    said = repr((model, version, origin.revision, files))
    return hashlib.sha256(said.encode()).hexdigest()[:32]
