"""Validating what was uploaded, in the registry's process or one of its own; models are opened in child processes."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Collection
from datetime import UTC, datetime

import structlog
from prometheus_client import Counter

from services.common.blobs import BlobStore
from services.common.errors import DataLoss, DomainError, NotFound
from services.registry.audit import REGISTRY
from services.registry.auditing import version_changed
from services.registry.frameworks import check_validator
from services.registry.models import Framework, Lease, ModelVersion, Signature, Validation, VersionState
from services.registry.promotions import climb
from services.registry.settings import RegistrySettings
from services.registry.signatures import reconcile
from services.registry.store import Store
from services.registry.validation.report import Failure, FailureReason, Refusal, ValidationReport
from services.registry.validation.settings import ValidatorSettings
from services.registry.validation.validator import ValidationLimits, Validator, installed_frameworks
from services.registry.validation.workspace import Workspace

_log = structlog.get_logger(__name__)
MAX_CRASHES = 3
POSTPONED_S = 5.0
CLOSE_WAIT_S = 5.0
ANNOUNCED_S = 60.0
SIGNATURE_FIELD = "signature_name"
"""The field of a version's metadata that names its SavedModel's signature; the inference service reads it too."""


class Validations:
    """Takes versions in VALIDATING one by one, under a lease, and says what became of them.

    Any number of processes share the queue. One that is killed lets its leases run out, and another takes over;
    a version that ends three attempts that way is FAILED. Only versions of `frameworks` are taken, and the database
    is told which those are, so that nobody registers what nothing would ever open. With no threads nothing is taken:
    validators elsewhere do the work.
    """

    def __init__(
        self,
        store: Store,
        blobs: BlobStore,
        validator: Validator,
        workspace: Workspace,
        *,
        frameworks: Collection[Framework],
        threads: int,
        lease_s: float,
        finished: Counter,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._validator = validator
        self._workspace = workspace
        self._frameworks = tuple(sorted(frameworks))
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._lease_s = lease_s
        self._finished = finished
        self._stopping = threading.Event()
        self._wakes = [threading.Event() for _ in range(threads)]
        self._held: dict[int, Lease] = {}
        self._held_lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    @classmethod
    def from_settings(
        cls, settings: RegistrySettings | ValidatorSettings, store: Store, blobs: BlobStore, *, finished: Counter
    ) -> Validations:
        """Build it as the settings say."""
        names = settings.validation_frameworks
        return cls(
            store,
            blobs,
            Validator(
                ValidationLimits(
                    timeout_s=settings.validation_timeout_ms / 1000,
                    memory_limit_bytes=settings.validation_memory_bytes,
                ),
                allowed=settings.validation_allow,
                require_sandbox=settings.validation_require_sandbox,
            ),
            Workspace(settings.validation_dir),
            frameworks=[Framework(name.upper()) for name in (installed_frameworks() if names is None else names)],
            threads=settings.validation_threads,
            lease_s=settings.validation_lease_ms / 1000,
            finished=finished,
        )

    def open(self) -> None:
        """Tell the database what is opened here, and start the threads."""
        if not self._wakes:
            return
        self._workspace.open()
        self._announce()
        self._threads = [
            # Daemons: a validation under way must not hold up the end of the process; its lease is given back.
            threading.Thread(target=self._work, args=(wake,), name="validate", daemon=True)
            for wake in self._wakes
        ]
        self._threads.append(threading.Thread(target=self._renew, name="validate-leases", daemon=True))
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Say that there may be something to do."""
        for wake in self._wakes:
            wake.set()

    def close(self) -> None:
        """Stop taking; give back what is not finished soon, for another registry to take at once."""
        self._stopping.set()
        self.wake()
        for thread in self._threads:
            thread.join(CLOSE_WAIT_S / len(self._threads))
        for lease in self._leases():
            self._postpone(lease, 0.0)

    def revalidate(self, model: str, version: str) -> ModelVersion:
        """Queue a FAILED version again.

        Raises:
            NotFound: MODEL_NOT_FOUND, VERSION_NOT_FOUND.
            FailedPrecondition: it is not FAILED (WRONG_STATE); nobody opens its framework (NO_VALIDATOR).
        """
        with self._store.write() as tables:
            found = tables.versions.get(tables.models.lock(model), version)
            found.state.after(VersionState.VALIDATING)
            check_validator(tables, found.framework)
            tables.versions.set_validating(found.version_id)
            tables.validations.insert(found.version_id)
            tables.changes.record()
            queued = tables.versions.get_by_id(found.version_id)
            version_changed(tables, "RevalidateVersion", found, queued)
            return queued

    def _work(self, wake: threading.Event) -> None:
        while not self._stopping.is_set():
            wake.clear()
            try:
                while not self._stopping.is_set() and self._validate_next():
                    pass
            except DomainError as error:
                _log.warning("validation interrupted", reason=error.reason, message=error.message)
            except Exception:  # noqa: BLE001 - whatever one file does, the thread goes on; the lease runs out
                _log.exception("validation broke")
            if not self._stopping.is_set():
                wake.wait()

    def _announce(self) -> None:
        try:
            with self._store.write() as tables:
                tables.validations.announce(self._name, self._frameworks)
        except DomainError as error:
            _log.warning("not announced; trying again", reason=error.reason, message=error.message)

    def _renew(self) -> None:
        announced = time.monotonic()
        while not self._stopping.wait(min(self._lease_s / 3, ANNOUNCED_S)):
            if time.monotonic() - announced > ANNOUNCED_S:
                self._announce()
                announced = time.monotonic()
            leases = self._leases()
            if not leases:
                continue
            try:
                with self._store.write() as tables:
                    tables.validations.renew(leases, self._lease_s)
            except DomainError as error:
                _log.warning("leases not renewed", reason=error.reason, message=error.message)

    def _validate_next(self) -> bool:
        """Validate one version; False when none waits."""
        with self._store.write() as tables:
            lease = tables.validations.claim(self._lease_s, self._frameworks)
            if lease is None:
                return False
            version = tables.versions.get_by_id(lease.version_id)
        with self._held_lock:
            self._held[lease.validation_id] = lease
        try:
            report = _given_up() if lease.crash_count > MAX_CRASHES else self._examine(version)
            self._conclude(lease, report)
        except (DomainError, OSError) as error:
            # Trouble of the server's own (a dependency away, a full disk) says nothing about the file.
            _log.warning("validation postponed", model=version.model, version=version.version, error=str(error))
            self._postpone(lease, POSTPONED_S)
        finally:
            with self._held_lock:
                self._held.pop(lease.validation_id, None)
        return True

    def _examine(self, version: ModelVersion) -> ValidationReport:
        """Open the files in a child process; stored bytes that are damaged or gone are a failure of the version."""
        try:
            with self._workspace.copy(self._blobs, version.files) as folder:
                signature_name = str(version.metadata.fields.get(SIGNATURE_FIELD, ""))
                return self._validator.validate(folder, version.framework.lower(), signature_name=signature_name)
        except Refusal as refusal:
            return ValidationReport(failure=Failure(refusal.reason, refusal.message))
        except (DataLoss, NotFound) as error:
            self._blobs.check()  # a volume that is not mounted has no blob either, and that is no fault of the files
            return ValidationReport(failure=Failure(FailureReason.INVALID_MODEL, error.message))

    def _conclude(self, lease: Lease, report: ValidationReport) -> None:
        with self._store.write() as tables:
            name = tables.versions.get_by_id(lease.version_id).model
            model = tables.models.lock(name)
            version = tables.versions.get_by_id(lease.version_id)
            if not tables.validations.finish(lease):
                _log.warning("lease lost", model=name, version=version.version, attempt=lease.attempt)
                return
            outcome = _outcome(version, report)
            if isinstance(outcome, Failure):
                state = version.state.after(VersionState.FAILED)
                tables.versions.set_failed(version.version_id, outcome.reason, outcome.message)
            else:
                state = version.state.after(VersionState.READY)
                tables.versions.set_ready(version.version_id, outcome, _facts(report))
                climb(tables, model, tables.versions.get_by_id(version.version_id))
            concluded = tables.versions.get_by_id(version.version_id)
            version_changed(tables, "Validate", version, concluded, note=concluded.failure_message, actor=REGISTRY)
        self._finished.labels(result=state.lower()).inc()
        _log.info(
            "validated",
            model=name,
            version=version.version,
            state=state,
            failure=report.failure and report.failure.reason,
            ms=report.duration_ms,
            peak_memory_bytes=report.peak_memory_bytes,
            diagnostics=report.diagnostics,
        )

    def _postpone(self, lease: Lease, pause_s: float) -> None:
        try:
            with self._store.write() as tables:
                tables.validations.postpone(lease, pause_s)
        except DomainError as error:
            _log.warning("lease not given back; it runs out", reason=error.reason, message=error.message)

    def _leases(self) -> list[Lease]:
        with self._held_lock:
            return list(self._held.values())


def _outcome(version: ModelVersion, report: ValidationReport) -> Signature | Failure:
    if report.failure is not None:
        return report.failure
    if report.signature is None:
        return Failure(FailureReason.VALIDATOR_CRASHED, "the validator passed the model without a signature")
    return reconcile(version.declared_signature, report.signature)


def _facts(report: ValidationReport) -> Validation:
    return Validation(
        opset=report.opset,
        ir_version=report.ir_version,
        producer=report.producer,
        rows_independent=report.rows_independent,
        rows_independent_reason=report.rows_independent_reason,
        sandbox=report.sandbox,
        time=datetime.now(UTC),
    )


def _given_up() -> ValidationReport:
    message = f"the validator ended {MAX_CRASHES} times while it had this version open; it is not tried again"
    return ValidationReport(failure=Failure(FailureReason.VALIDATOR_CRASHED, message))
