"""Fetched files into the registry, through the SDK, as one version; the same fetched twice is one version."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC
from pathlib import PurePosixPath
from typing import BinaryIO, cast

import structlog

from penstock import Client
from penstock.api.fetcher.v1.fetch_jobs_pb2 import FetchTarget
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PenstockError,
    PermissionDenied,
    Unauthenticated,
    ValidationFailed,
)
from penstock.registry import RegistryClient
from penstock.uploads import UploadFile, framework_of
from services.common.blobs import BlobStore
from services.common.jobs import Job, JobRun
from services.fetcher.downloading.reading import DownloadReader
from services.fetcher.faults import (
    RegistrationRefused,
    RegistryUnauthorized,
    RegistryUnavailable,
    StorageError,
    UnsupportedFramework,
)
from services.fetcher.lineage import Known, metadata_of
from services.fetcher.models import Download, FetchSpec, Phase, Plan
from services.fetcher.store.fetches import FetchStore

VALIDATION_S = 1_800.0
"""How long a version may wait for the registry's validator before its fetch counts that as a fault."""
PATIENCE_S = 5.0
"""How long a worker waits for the validator itself; then the job is put back, and leaves its place to others."""
LOOK_INTERVAL_S = 0.2
_log = structlog.get_logger(__name__)
LOOKED_THROUGH = 1_000
"""Versions of a model, the newest, among which one of the same source is looked for."""
MOST_TURNS = 100
"""Names that are tried for a version."""
_NO = (InvalidArgument, FailedPrecondition, NotFound, AlreadyExists)
_NO_KEY = (Unauthenticated, PermissionDenied)
_OWN_KEY = frozenset({"BROKEN_TOKEN_FILE", "BROKEN_TLS_FILES", "TOKEN_OVER_INSECURE_CHANNEL"})
"""What this service's own settings keep it from asking by: the SDK says so before anything is sent."""
_STORE = frozenset({"BLOB_STORE_FULL", "BLOB_STORE_DENIED", "BLOB_STORE_UNAVAILABLE", "SPOOL_FULL"})


class Validating(Exception):
    """A version waits for the registry's validator. `own`: this job has registered it."""

    def __init__(self, *, own: bool) -> None:
        super().__init__("it waits for the registry's validator")
        self.own = own


class Registering:
    """Makes versions of what was fetched."""

    def __init__(self, open_client: Callable[[], Client], fetches: FetchStore, blobs: BlobStore) -> None:
        """Take what opens a client of the registry: each run has its own, which closes when the run is to end."""
        self._open_client = open_client
        self._fetches = fetches
        self._blobs = blobs

    def register(
        self, run: JobRun, spec: FetchSpec, plan: Plan, model: str, downloads: Mapping[str, Download]
    ) -> tuple[registry.ModelVersion, bool]:
        """Register the files of a plan, and wait until the version is READY; gives it, and whether it was there before.

        Raises:
            RegistrationRefused: the registry does not take it, and says why.
            RegistryUnauthorized: it does not take this service's key.
            RegistryUnavailable: it gives no answer.
            StorageError: its store does not keep it.
            Validating: its validator takes its time.
        """
        target = FetchTarget.FromString(spec.target)
        with _answers(), self._asking(run) as asking:
            return asking.register(run, spec, plan, target, model, downloads)

    def judged(self, run: JobRun, spec: FetchSpec, plan: Plan, model: str) -> registry.ModelVersion | None:
        """Look again at the version that the job registered; None: it is not there any more. Raises as `register`."""
        with _answers(), self._asking(run) as asking:
            return asking.judged(run, Known.of_plan(spec, plan), model, spec.version)

    def there(self, run: JobRun, spec: FetchSpec, plan: Plan, model: str) -> registry.ModelVersion | None:
        """Find, before anything is brought, the version that was made of the same; None: that cannot be known yet.

        The job's own version is none, and a registry that gives no answer is asked again once the files are here.

        Raises:
            RegistrationRefused: the version that was asked for is another already (VERSION_EXISTS).
            RegistryUnauthorized: nothing can be registered by this service's key.
            Validating: it is there, and its validator takes its time.
        """
        asked_for = FetchTarget.FromString(spec.target).version
        if spec.phase is not Phase.DOWNLOADING or (spec.version and not asked_for):
            return None  # an attempt before this one may have made it
        known = Known.of_plan(spec, plan)
        try:
            with _answers(), self._asking(run) as asking:
                asking.check_key()
                if asked_for:
                    found = asking.named(model, asked_for)
                    if found is not None and not known.may_be(found):
                        raise _other(found)
                else:
                    found, _ = asking.among(model, known)
                if found is None or not known.is_of(found):
                    return None
                with suppress(ValidationFailed):  # it was refused just now, and is none
                    return asking.ready(run, found)
                return None
        except (RegistryUnavailable, StorageError) as error:
            _log.info("registry not asked beforehand", model=model, error=error.message)
            return None

    @contextmanager
    def _asking(self, run: JobRun) -> Iterator[_Asking]:
        """Lend connections of the run's own: whatever it waits for at the registry ends with it, and nothing else."""
        with self._open_client() as client:
            run.on_stop(client.close)
            try:
                yield _Asking(client.registry, self._fetches, self._blobs)
            finally:
                run.forget(client.close)


@contextmanager
def _answers() -> Iterator[None]:
    """Tell what the registry answers from its silence; see `Registering.register` for what is raised."""
    try:
        yield
    except (PenstockError, OSError) as error:
        if not isinstance(error, PenstockError):
            raise RegistryUnavailable(f"the registry gives no answer: {error}") from error
        said = f"{error.message} ({error.reason})"
        if isinstance(error, _NO_KEY) or error.reason in _OWN_KEY:
            sentence = (
                f"the registry lets this fetcher register nothing: {said}; an administrator gives it a key with the "
                "role operator, as PENSTOCK_SERVICE_TOKEN or in the file of PENSTOCK_SERVICE_TOKEN_FILE"
            )
            raise RegistryUnauthorized(sentence) from error
        if isinstance(error, DataLoss) or error.reason in _STORE:
            raise StorageError(f"the registry's store does not keep it: {said}") from error
        if isinstance(error, _NO):
            raise RegistrationRefused(f"the registry refused it: {said}") from error
        raise RegistryUnavailable(f"the registry gives no answer: {said}") from error


class _Asking:
    """One run's calls to the registry."""

    def __init__(self, registry_client: RegistryClient, fetches: FetchStore, blobs: BlobStore) -> None:
        self._registry = registry_client
        self._fetches = fetches
        self._blobs = blobs

    def check_key(self) -> None:
        """Ask for something that needs the role of whoever registers."""
        next(iter(self._registry.audit(page_size=1)), None)

    def judged(self, run: JobRun, known: Known, model: str, version: str) -> registry.ModelVersion | None:
        """Look at the job's own version, without waiting; one that was refused is cleared away."""
        found = self.named(model, version)
        if found is None or not known.may_be(found):
            return None
        try:
            return self.ready(run, found, own=True, patience_s=0.0)
        except ValidationFailed:
            self._clear_away(model, version, found.source)
            raise

    def register(
        self,
        run: JobRun,
        spec: FetchSpec,
        plan: Plan,
        target: FetchTarget,
        model: str,
        downloads: Mapping[str, Download],
    ) -> tuple[registry.ModelVersion, bool]:
        known = Known.of_downloads(spec, plan, downloads)
        version, refused = spec.version, 0
        if target.version and spec.phase is Phase.DOWNLOADING and (same := self._same(model, version, known)):
            return self.ready(run, same), True
        for _ in range(MOST_TURNS):
            if not version:
                found, highest = self.among(model, known)
                if found is not None:
                    return self.ready(run, found), True
                version = f"v{max(highest, refused) + 1}"
            # Kept before anything is registered: whoever takes the job over registers the same, or finds it there.
            with run.holding() as connection:
                self._fetches.name(connection, run.job.job_id, model, version)
            try:
                made = self._upload(run, spec, plan, model, version, known, downloads)
                return self.ready(run, made, own=True), False
            except AlreadyExists:
                if target.version:
                    if same := self._same(model, version, known):
                        return self.ready(run, same), True
                    raise
                # Another fetch was quicker, or one that was deleted had the name.
                version, refused = "", _number(version)
            except ValidationFailed:
                self._clear_away(model, version, known.origin)
                raise
        sentence = f"{MOST_TURNS} names up to v{refused} were taken, one after another: say what the version is called"
        raise RegistrationRefused(f"no name was found for a version of {model}: {sentence} (--version)")

    def _same(self, model: str, version: str, known: Known) -> registry.ModelVersion | None:
        """Find a version by its name, where it was made of the same.

        Raises:
            RegistrationRefused: it is another (VERSION_EXISTS).
        """
        found = self.named(model, version)
        if found is not None and not known.is_of(found):
            raise _other(found)
        return found

    def named(self, model: str, version: str) -> registry.ModelVersion | None:
        """Find a version by its name."""
        try:
            return self._registry.get_version(model, version)
        except NotFound:
            return None

    def ready(
        self, run: JobRun, version: registry.ModelVersion, *, own: bool = False, patience_s: float | None = None
    ) -> registry.ModelVersion:
        """Wait for the validator; raises Stopped as soon as the run is to end, Validating, and FailedPrecondition."""
        until = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
        while version.state != registry.VERSION_STATE_READY:
            if version.state == registry.VERSION_STATE_FAILED:
                raise ValidationFailed(version)
            if time.monotonic() >= until:
                _check_waited(run.job, version)
                raise Validating(own=own)
            run.wait(LOOK_INTERVAL_S)
            version = self._registry.get_version(version.model, version.version)
        return version

    def _clear_away(self, model: str, version: str, origin: registry.Source) -> None:
        """Delete a version of this fetch that failed its validation: nobody asked for one that cannot be served."""
        try:
            found = self._registry.get_version(model, version)
            if found.state == registry.VERSION_STATE_FAILED and found.source == origin:
                self._registry.delete_version(model, version)
        except PenstockError as error:
            _log.warning("a failed version stays", model=model, version=version, reason=error.reason)

    def among(self, model: str, known: Known) -> tuple[registry.ModelVersion | None, int]:
        """Find the version that was made of the same, and the highest number of those called v1, v2 and so on."""
        highest = 0
        try:
            for count, version in enumerate(self._registry.list_versions(model)):
                highest = max(highest, _number(version.version))
                if known.is_of(version):
                    return version, highest
                if count >= LOOKED_THROUGH:
                    break
        except NotFound:
            pass  # no such model yet
        return None, highest

    def _upload(
        self,
        run: JobRun,
        spec: FetchSpec,
        plan: Plan,
        model: str,
        version: str,
        known: Known,
        downloads: Mapping[str, Download],
    ) -> registry.ModelVersion:
        target = FetchTarget.FromString(spec.target)
        with ExitStack() as stack:
            files: dict[str, UploadFile] = {}
            for path, download in downloads.items():
                reader = stack.enter_context(DownloadReader(self._blobs, download))
                source = cast("BinaryIO", reader)
                files[path] = UploadFile(path, source, 0, download.size_bytes, download.sha256)
            return self._registry.register_version(
                model,
                version,
                files,
                framework=_framework_of(plan, target),
                stage=target.stage or None,
                approved_by=target.approved_by,
                note=target.note,
                description=target.description,
                labels=dict(target.labels),
                metadata=metadata_of(spec, plan, downloads, fetch_id=run.job.job_id, fetched_by=run.job.created_by),
                origin=known.origin,
                unpack=plan.unpack,
                request_id=_request_id(run.job, model, version, known.origin, downloads),
                progress=lambda *_: run.check(),
                wait=False,
            )


def _check_waited(job: Job, version: registry.ModelVersion) -> None:
    """See that a version has not waited for ever; raises RegistryUnavailable."""
    made_time = version.create_time.ToDatetime(UTC)
    waited_s = (job.read_time - max(made_time, job.start_time or made_time)).total_seconds()
    if waited_s > VALIDATION_S:
        sentence = f"{version.model} {version.version} has waited {waited_s / 60:.0f} minutes for the registry's"
        raise RegistryUnavailable(f"{sentence} validator: see that one runs")


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


def _number(version: str) -> int:
    """Give the number of a version called v1, v2 and so on; 0 of any other."""
    digits = version[1:]
    return int(digits) if version[:1] == "v" and digits.isascii() and digits.isdigit() else 0


def _other(found: registry.ModelVersion) -> RegistrationRefused:
    source = found.source
    made_of = " ".join(filter(None, (source.origin, source.reference, source.revision))) or "what is not known"
    return RegistrationRefused(
        f"{found.model} has a version {found.version} already, made of {made_of}: give this one another name "
        "(VERSION_EXISTS)"
    )


def _request_id(job: Job, model: str, version: str, origin: registry.Source, downloads: Mapping[str, Download]) -> str:
    """Name a registration: the same by whoever takes the job over, another once somebody tries it again by hand."""
    files = sorted((path, download.sha256) for path, download in downloads.items())
    said = repr((job.start_time, model, version, origin.revision, files))
    return f"fetch-{job.job_id}-{hashlib.sha256(said.encode()).hexdigest()[:32]}"
