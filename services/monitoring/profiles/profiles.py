"""Reference profiles: made of files or of live traffic, frozen, numbered, attached."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from penstock.ids import uuid7
from services.common import pages
from services.common.errors import ResourceExhausted
from services.common.keys import caller
from services.monitoring.feature_views.describing import describe_view
from services.monitoring.feature_views.subjects import PREFIX, view_of
from services.monitoring.feature_views.views import FeatureViews
from services.monitoring.models import Window
from services.monitoring.profiles.files import RowFiles
from services.monitoring.profiles.layouts import ANY_NAMES, Layout
from services.monitoring.profiles.models import FeatureKind, Reference
from services.monitoring.profiles.naming import declared
from services.monitoring.profiles.reference import MAX_FEATURES, Columns, Description, build_reference
from services.monitoring.profiles.references import References, no_profile
from services.monitoring.profiles.rows import read_rows
from services.monitoring.profiles.sources import (
    Attachment,
    FileSource,
    NewProfile,
    Page,
    Profile,
    RowFormat,
    Source,
    UploadSource,
    WindowSource,
)
from services.monitoring.profiles.store.live import LiveStore
from services.monitoring.profiles.store.profiles import ProfileStore
from services.monitoring.profiles.traffic import read_traffic
from services.monitoring.profiles.versions import KnownVersion, Versions
from services.monitoring.rollups.metrics import MetricsReader

Clock = Callable[[], datetime]
DEFAULT_PAGE_SIZE = 100
MAX_MAKING = 2
"""Profiles made at once: each may take hundreds of megabytes."""
MAX_RECEIVING = 8
"""Files that come at once: each may take a gigabyte of disk."""


class Profiles:
    """Makes profiles, and says which one a version is compared with."""

    def __init__(
        self,
        store: ProfileStore,
        references: References,
        files: RowFiles,
        live: LiveStore,
        metrics: MetricsReader,
        clock: Clock,
        attached: Callable[[], None],
        versions: Versions,
        views: FeatureViews,
        *,
        require_sandbox: bool,
    ) -> None:
        """`attached` is called when live data is to be counted anew; `require_sandbox` as `read_rows` says."""
        self._store = store
        self._references = references
        self._files = files
        self._live = live
        self._metrics = metrics
        self._clock = clock
        self._attached = attached
        self._versions = versions
        self._views = views
        self._require_sandbox = require_sandbox
        self._making = threading.BoundedSemaphore(MAX_MAKING)
        self._receiving = threading.BoundedSemaphore(MAX_RECEIVING)

    def reference(self, model: str, version: str) -> Reference | None:
        """Give what a version is compared with now; None where it is with nothing."""
        return self._references.find_attached(model, version)

    def compared(self, versions: Collection[tuple[str, str]]) -> Collection[tuple[str, str]]:
        """Say which of these models' versions are compared with something."""
        return self._store.attached_of(versions)

    def compared_views(self) -> Collection[tuple[str, str]]:
        """Say which versions of feature views are compared with something; `view:NAME` stands where a model does."""
        return self._store.attached_below(PREFIX)

    def upload(self, new: NewProfile, row_format: RowFormat, chunks: Iterable[bytes], *, sha256: str) -> Profile:
        """Make a profile of a file that is sent, and attach it.

        Raises:
            InvalidArgument: TOO_LARGE, TOO_FEW_ROWS, NO_FEATURES, TOO_MANY_FEATURES, DIGEST_MISMATCH, MALFORMED_FILE,
                UNKNOWN_COLUMN.
            NotFound: the registry knows the model, and no such version (VERSION_NOT_FOUND).
            FailedPrecondition: REQUEST_ID_REUSED, SANDBOX_UNAVAILABLE.
            ResourceExhausted: others are sent or made just now (TOO_MANY_PROFILES).
            Unavailable: there is no room for the file (SCRATCH_FULL).
        """
        known = self._look_up(new.model, new.version)
        with _place(self._receiving, MAX_RECEIVING), self._files.sent(chunks, sha256=sha256) as (path, digest):
            new = replace(new, body_sha256=hashlib.sha256(new.body_sha256 + bytes.fromhex(digest)).digest())
            made = self._store.find_made(new, caller().name)
            if made is not None:
                return self._warned(made, known)
            description = self._describe_file(path, row_format, new.columns)
        return self._keep(new, description, UploadSource(digest), known)

    def create(self, new: NewProfile, source: FileSource | WindowSource) -> Profile:
        """Make a profile of a dataset, of a file in a blob store, or of live traffic, and attach it.

        Raises:
            InvalidArgument: as `upload`; URI_NOT_ALLOWED, INVALID_WINDOW.
            NotFound: there is no such file (INPUT_NOT_FOUND), dataset (DATASET_NOT_FOUND, DATASET_VERSION_NOT_FOUND),
                or version (VERSION_NOT_FOUND).
            FailedPrecondition: REQUEST_ID_REUSED, SANDBOX_UNAVAILABLE, TRAINER_NOT_CONFIGURED, DATASET_NOT_READY.
            ResourceExhausted: TOO_MANY_PROFILES.
            Unavailable: TRAINER_UNAVAILABLE, INPUT_UNAVAILABLE, SCRATCH_FULL.
        """
        known = self._look_up(new.model, new.version)
        made = self._store.find_made(new, caller().name)
        if made is not None:
            return self._warned(made, known)
        if isinstance(source, FileSource):
            source = self._files.resolved(source)
            with (
                _place(self._receiving, MAX_RECEIVING),
                self._files.brought(source, new.columns.ignored) as path,
            ):
                description = self._describe_file(path, source.row_format, new.columns)
        else:
            description = self._describe_window(new, source.window)
        return self._keep(new, description, source, known)

    def get(self, profile_id: UUID) -> Profile:
        """Give a profile with its features; raises NotFound (PROFILE_NOT_FOUND)."""
        found = self._store.find(profile_id)
        if found is None:
            raise no_profile(f"there is no profile {profile_id}")
        return found

    def get_attached(self, model: str, version: str) -> Profile:
        """Give the profile that a version is compared with; raises NotFound (PROFILE_NOT_FOUND)."""
        profile_id = self._store.find_attached(model, version)
        if profile_id is None:
            raise no_profile(f"version {version!r} of {model!r} has no profile")
        return self.get(profile_id)

    def page(self, model: str, version: str, *, size: int, token: str) -> Page:
        """List profiles without their features, the newest first.

        Raises:
            InvalidArgument: the size or the token (INVALID_PAGE_SIZE, INVALID_PAGE_TOKEN).
        """
        size = pages.page_size(size, default=DEFAULT_PAGE_SIZE)
        filters = {"model": model, "version": version}
        position = pages.decode(token, filters)
        before = None if position is None else _before(position)
        found = self._store.page(model, version, before=before, limit=size + 1)
        if len(found) <= size:
            return Page(found, "")
        return Page(found[:size], pages.encode([str(found[size - 1].id)], filters))

    def attach(self, profile_id: UUID, version: str) -> Profile:
        """Have a version compared with a profile of its model; live data is counted anew against it.

        It is given without its features.

        Raises:
            NotFound: PROFILE_NOT_FOUND, VERSION_NOT_FOUND.
        """
        reference = self._references.get(profile_id)
        known = self._look_up(reference.model, version)
        attachment = Attachment(reference.model, version, profile_id, self._clock(), caller().name, known.columns)
        self._store.attach(attachment)
        self._attached()
        found = self._warned(profile_id, known)
        return replace(found, reference=replace(found.reference, features={}))

    def layout(self, model: str, version: str) -> Layout:
        """Say how the version's columns are called, since a tensor's have no names of their own: as in what it is
        compared with, as they were declared, or else as in the model's last profile."""
        columns = declared(self._versions.inputs(model, version))
        profile_id = self._store.find_attached(model, version)
        if profile_id is None and columns:
            return replace(ANY_NAMES, columns=columns)
        if profile_id is None:
            newest = self._store.page(model, "", before=None, limit=1)
            profile_id = newest[0].id if newest else None
        return Layout.named_by(self._references.get(profile_id), columns) if profile_id else ANY_NAMES

    def _look_up(self, model: str, version: str) -> KnownVersion:
        view = view_of(model)
        if not view:
            return self._versions.look_up(model, version)
        self._views.require(view, version)
        return KnownVersion(())

    def _describe_file(self, path: Path, row_format: RowFormat, columns: Columns) -> Description:
        with _place(self._making, MAX_MAKING):
            frame = read_rows(path, row_format, columns, require_sandbox=self._require_sandbox)
            return build_reference(frame, columns)

    def _describe_window(self, new: NewProfile, window: Window) -> Description:
        if view := view_of(new.model):
            with _place(self._making, MAX_MAKING):
                return describe_view(self._views.read(view, new.version, window), new.columns, window)
        with _place(self._making, MAX_MAKING):
            payloads = self._live.payloads(new.model, new.version, window, columns=MAX_FEATURES)
            traffic = read_traffic(payloads.slices, new.columns, window, self.layout(new.model, new.version))
            columns = Columns(kinds=new.columns.kinds, predictions=traffic.predictions)
            found = build_reference(traffic.frame, columns, traffic.clusterings, traffic.users)
        outputs = [feature for feature in found.features.values() if feature.is_prediction]
        if len(outputs) == 1 and outputs[0].kind is FeatureKind.NUMERIC:
            return found  # of a regression equality says nothing
        totals = self._metrics.total(new.model, new.version, window)
        return replace(found, accuracy=totals.accuracy, judged_count=totals.counts.judged_count)

    def _keep(self, new: NewProfile, description: Description, source: Source, known: KnownVersion) -> Profile:
        attachment = Attachment(new.model, new.version, UUID(uuid7()), self._clock(), caller().name, known.columns)
        profile_id = self._store.add(new, description, source, attachment)
        self._attached()
        return self._warned(profile_id, known)

    def _warned(self, profile_id: UUID, known: KnownVersion) -> Profile:
        """Give a profile, with what is odd about comparing a version with it."""
        found = self.get(profile_id)
        return replace(found, warnings=known.warnings(found.reference))


@contextmanager
def _place(places: threading.BoundedSemaphore, most: int) -> Iterator[None]:
    if not places.acquire(blocking=False):
        sentence = f"{most} profiles are being sent or made just now; try again when one is done"
        raise ResourceExhausted(sentence, reason="TOO_MANY_PROFILES", retry_after_s=5.0)
    try:
        yield
    finally:
        places.release()


def _before(position: list[Any]) -> UUID:
    """Read what a token of ours says; it is not signed, so it is looked at like any input."""
    try:
        (text,) = position
        return UUID(text)
    except (ValueError, TypeError, AttributeError) as error:
        raise pages.unknown_token() from error
