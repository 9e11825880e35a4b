"""The registry's client: models, versions, their files and their stages."""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from os import PathLike
from pathlib import Path

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.tensors.v1.tensors_pb2 import Signature, TensorSpec
from penstock.downloads import Fetch, download, verified_chunks
from penstock.errors import DeadlineExceeded, InvalidArgument, PenstockError, Unavailable, ValidationFailed
from penstock.ids import uuid7
from penstock.paging import pages
from penstock.part_uploads import HUGE_BYTES, LARGE_BYTES, sent_beforehand
from penstock.registry_administration import RegistryAdministration
from penstock.registry_editing import RegistryEditing
from penstock.registry_stages import RegistryStages
from penstock.retries import NO_RETRIES, Tries
from penstock.signed_downloads import by_url
from penstock.uploads import NO_FILES, Progress, Source, opened
from penstock.values import enum_number

Columns = Sequence[str] | Mapping[str, Sequence[str]]
_SLOWEST_POLL_S = 2.0
# The registry answers when it has unpacked all, and says nothing before.
_UNPACKING_TIMEOUT_S = 1_800.0


class RegistryClient(RegistryEditing, RegistryStages, RegistryAdministration):
    """Calls the registry. Every method raises PenstockError's subclasses; their reasons stand in the contracts.

    Enums are taken by number or by short name, in any case: `stage="production"`. Lists are fetched page by page,
    as they are iterated.
    """

    def create_model(
        self,
        name: str,
        description: str = "",
        *,
        labels: Mapping[str, str] | None = None,
        tags: Sequence[str] = (),
        request_id: str | None = None,
    ) -> pb.Model:
        """Create a model without versions; the same `request_id` again gives the first result for 7 days."""
        request = pb.CreateModelRequest(
            name=name, description=description, labels=labels, tags=tags, request_id=request_id or uuid7()
        )
        return self._connection.unary(self._connection.stub.CreateModel, request).model

    def get_model(self, name: str) -> pb.Model:
        """Get a model."""
        return self._connection.unary(self._connection.stub.GetModel, pb.GetModelRequest(name=name)).model

    def list_models(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        query: str = "",
        show_deleted: bool = False,
        page_size: int = 0,
    ) -> Iterator[pb.Model]:
        """List models by name, so many a page (1 to 1,000; 0: 50).

        Args:
            labels: only models with all of these.
            query: only models in whose name, description or tags every word of this begins a word, in any case.
            show_deleted: deleted ones too.
            page_size: models a page.
        """

        def fetch(token: str) -> pb.ListModelsResponse:
            request = pb.ListModelsRequest(
                labels=labels, query=query, show_deleted=show_deleted, page_size=page_size, page_token=token
            )
            return self._connection.unary(self._connection.stub.ListModels, request)

        return (model for page in pages(fetch) for model in page.models)

    def register_version(
        self,
        model: str,
        version: str,
        source: Source | None = None,
        *,
        framework: pb.Framework.ValueType | str | None = None,
        stage: pb.Stage.ValueType | str | None = None,
        approved_by: str = "",
        note: str = "",
        description: str = "",
        labels: Mapping[str, str] | None = None,
        columns: Columns = (),
        signature: Signature | None = None,
        unpack: bool = False,
        ollama: pb.OllamaReference | None = None,
        source_version: str = "",
        origin: pb.Source | None = None,
        training_run_id: str = "",
        metadata: pb.Metadata | None = None,
        serving_settings: pb.ServingSettings | None = None,
        capture_policy: pb.CapturePolicy | None = None,
        request_id: str | None = None,
        progress: Progress | None = None,
        wait: bool = True,
        wait_timeout_s: float = 600.0,
    ) -> pb.ModelVersion:
        """Upload a version and, unless told otherwise, wait until it is READY.

        What can be read twice is hashed before it is sent, at the cost of one more reading, so that the registry
        checks every byte; a break is then retried under the same request id. Files over 1 GiB, and after a break those
        over 64 MiB, go in parts: what has arrived is not sent again, also when another process tries again with the
        same key within 7 days. What can be read only once, such as a pipe, is sent once, and its digest after it.

        Args:
            model: created where it is missing.
            version: 1 to 128 of a-z, A-Z, 0-9, `.`, `_`, `-`, `+`; unique per model.
            source: the path of a file or a folder, bytes, a binary file, or several of these by their names. None with
                `ollama` alone, which brings no files.
            framework: None: by the files' names; an archive's says nothing.
            stage: None: DEVELOPMENT. A later one needs what `promote` needs.
            approved_by: who approved the stage.
            note: why.
            description: what it is; may be changed later, as the labels may.
            labels: for search.
            columns: what the features are called, in order: of the only input, or by input. Not with `signature`.
            signature: what the model takes and gives; refused where the file contradicts it.
            unpack: the source is an archive (zip, tar, tar.gz, tar.bz2, tar.xz), or several: what they hold is
                registered in their place.
            ollama: which model of an Ollama server answers.
            source_version: what its makers call it.
            origin: where it came from.
            training_run_id: the run that made it.
            metadata: task, tags and free fields; immutable once READY.
            serving_settings: how inference serves it.
            capture_policy: which payloads are kept.
            request_id: the same again, files included, gives the first result for 7 days. None: a new one.
            progress: told the bytes sent and in all, after each MiB, from another thread; begins anew with a retry.
                What it raises ends the upload and is raised here.
            wait: until the version is READY, or FAILED.
            wait_timeout_s: how long at most, in seconds, after the upload.

        Raises:
            ValidationFailed: the registry refused the files; its `version` is the FAILED version.
            DeadlineExceeded: still VALIDATING (VALIDATION_TIMEOUT); the version stays, and `get_version` tells more.
            OSError: the source can't be read.
        """
        with opened(NO_FILES if source is None and ollama else source, unpack=unpack) as upload:
            told = pb.FRAMEWORK_OLLAMA if ollama else upload.framework
            number = enum_number("framework", pb.Framework, framework) or told
            if number is None:
                raise InvalidArgument(
                    "framework: the file's name doesn't tell it; give framework='onnx' (--framework onnx) or another",
                    reason="UNSUPPORTED_FRAMEWORK",
                )
            header = pb.VersionHeader(
                model=model,
                version=version,
                framework=number,
                stage=enum_number("stage", pb.Stage, stage),
                approved_by=approved_by,
                note=note,
                declared_signature=_declared(signature, columns),
                source_version=source_version,
                source=origin,
                training_run_id=training_run_id,
                metadata=metadata,
                serving_settings=serving_settings,
                capture_policy=capture_policy,
                request_id=request_id or uuid7(),
                description=description,
                labels=labels,
                ollama=ollama,
                file_count=len(upload.files),
            )
            upload = sent_beforehand(self._connection, upload, progress, over_bytes=HUGE_BYTES)
            tries = Tries(self._connection.retry if upload.repeatable else NO_RETRIES)
            while True:
                try:
                    registered = self._connection.upload(
                        self._connection.stub.RegisterVersion,
                        pb.RegisterVersionRequest,
                        upload.requests(header, progress),
                        idle_timeout_s=_UNPACKING_TIMEOUT_S if unpack else None,
                    ).version
                    break
                except PenstockError as error:
                    tries.again(error)
                    upload = sent_beforehand(self._connection, upload, progress, over_bytes=LARGE_BYTES)
        return self.wait_until_ready(model, version, timeout_s=wait_timeout_s) if wait else registered

    def wait_until_ready(self, model: str, version: str, *, timeout_s: float = 600.0) -> pb.ModelVersion:
        """Wait for the validator.

        Raises:
            ValidationFailed: the version is FAILED.
            DeadlineExceeded: it is still VALIDATING after `timeout_s` seconds (VALIDATION_TIMEOUT).
        """
        deadline = time.monotonic() + timeout_s
        pause_s = 0.05
        while True:
            found = self.get_version(model, version)
            if found.state == pb.VERSION_STATE_READY:
                return found
            if found.state == pb.VERSION_STATE_FAILED:
                raise ValidationFailed(found)
            if time.monotonic() + pause_s > deadline:
                raise DeadlineExceeded(
                    f"{model} {version} is registered, and still VALIDATING after {timeout_s:g} s; look again later",
                    reason="VALIDATION_TIMEOUT",
                )
            time.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards no secret
            pause_s = min(pause_s * 1.5, _SLOWEST_POLL_S)

    def get_version(self, model: str, version: str) -> pb.ModelVersion:
        """Get an exact version; `resolve` takes selectors."""
        request = pb.GetVersionRequest(model=model, version=version)
        return self._connection.unary(self._connection.stub.GetVersion, request).version

    def list_versions(
        self,
        model: str = "",
        *,
        stage: pb.Stage.ValueType | str | None = None,
        state: pb.VersionState.ValueType | str | None = None,
        framework: pb.Framework.ValueType | str | None = None,
        labels: Mapping[str, str] | None = None,
        query: str = "",
        show_deleted: bool = False,
        page_size: int = 0,
    ) -> Iterator[pb.ModelVersion]:
        """List a model's versions, or all models', the newest first; only those that meet what is given.

        Args:
            model: empty: of all models.
            stage: only those in it.
            state: only those in it.
            framework: only those of it.
            labels: only versions with all of these, on themselves or on their model.
            query: only versions in whose model's name, version, description, tags, task or source every word of this
                begins a word, in any case.
            show_deleted: deleted ones too, until they are purged.
            page_size: versions a page, 1 to 1,000; 0: 50.
        """
        filters = pb.ListVersionsRequest(
            model=model,
            stage=enum_number("stage", pb.Stage, stage),
            state=enum_number("state", pb.VersionState, state),
            framework=enum_number("framework", pb.Framework, framework),
            labels=labels,
            query=query,
            show_deleted=show_deleted,
            page_size=page_size,
        )

        def fetch(token: str) -> pb.ListVersionsResponse:
            request = pb.ListVersionsRequest()
            request.CopyFrom(filters)
            request.page_token = token
            return self._connection.unary(self._connection.stub.ListVersions, request)

        return (version for page in pages(fetch) for version in page.versions)

    def revalidate(self, model: str, version: str) -> pb.ModelVersion:
        """Validate a FAILED version again; gives it in VALIDATING, and `wait_until_ready` waits for the rest."""
        request = pb.RevalidateVersionRequest(model=model, version=version)
        return self._connection.unary(self._connection.stub.RevalidateVersion, request).version

    def download(
        self,
        model: str,
        version: str,
        destination: str | PathLike[str],
        *,
        path: str = "",
        progress: Progress | None = None,
    ) -> Path:
        """Download one file of a version, verified by its SHA-256; gives its final path.

        It appears whole or not at all. A break is resumed where it happened.

        Args:
            model: the model.
            version: the exact version.
            destination: the file's new path, or an existing folder for it.
            path: which file of the version; empty where it has one only.
            progress: told the bytes so far and in all, after each part.

        Raises:
            DataLoss: the bytes are not the registered ones.
            OSError: the destination can't be written.
        """
        return download(self._fetch(model, version, path), Path(destination), self._connection.retry, progress)

    def download_url(
        self, model: str, version: str, path: str = "", *, lifetime_s: int = 0
    ) -> pb.CreateDownloadUrlResponse:
        """Get a URL that reads one file of a version for a while, without a key; its `url` is empty where the
        registry has none to give: then `download` streams the file.

        Args:
            model: the model.
            version: the exact version.
            path: which file of the version; empty where it has one only.
            lifetime_s: how long the URL works, 1 to 604,800 s; 0: 900 s.
        """
        request = pb.CreateDownloadUrlRequest(model=model, version=version, path=path, lifetime_s=lifetime_s)
        return self._connection.unary(self._connection.stub.CreateDownloadUrl, request)

    def download_chunks(self, model: str, version: str, path: str = "") -> Generator[bytes, None, None]:
        """Give one file's bytes as they come, at most 1 MiB at once, resumed where the connection breaks.

        Raises:
            DataLoss: the bytes are not the registered ones; known for sure only after the last chunk.
        """
        with closing(verified_chunks(self._fetch(model, version, path), self._connection.retry)) as parts:
            for _, chunk in parts:
                yield chunk

    def watch(self, after_revision: int = 0, *, epoch: str = "") -> Iterator[pb.WatchModelsResponse]:
        """Follow every version's state, without end: a snapshot (from 0), then each change, and bookmarks.

        A break is mended by asking again after the last revision seen; one inside the snapshot begins the snapshot
        anew. Leaving the iterator ends the watch. `epoch` is the one that came with the revision.

        Raises:
            OutOfRange: the revision is no longer kept (REVISION_COMPACTED), or the registry was restored from a backup
                (EPOCH_CHANGED): watch again from 0.
            PenstockError: the registry stayed away through all tries; go on later from the last revision seen.
        """
        tries = Tries(self._connection.retry)
        while True:
            try:
                request = pb.WatchModelsRequest(after_revision=after_revision, epoch=epoch)
                with closing(self._connection.stream(self._connection.stub.WatchModels, request)) as events:
                    for event in events:
                        tries.progressed()
                        if not event.HasField("snapshot") or event.snapshot.complete:
                            after_revision, epoch = event.revision, event.epoch
                        yield event
                raise Unavailable("the registry ended the watch", reason="WATCH_ENDED", retryable=True)
            except PenstockError as error:
                tries.again(error)

    def _fetch(self, model: str, version: str, path: str) -> Fetch:
        def fetch(offset_bytes: int) -> Generator[pb.DownloadFileResponse, None, None]:
            request = pb.DownloadFileRequest(model=model, version=version, path=path, offset_bytes=offset_bytes)
            return self._connection.stream(self._connection.stub.DownloadFile, request)

        return by_url(lambda: self.download_url(model, version, path), fetch, timeout_s=self._connection.idle_timeout_s)


def _declared(signature: Signature | None, columns: Columns) -> Signature | None:
    """Say in a signature what the caller knows: all of it, or only what columns are called."""
    if signature is not None and columns:
        raise InvalidArgument("columns: put them into the signature, or leave that out", reason="COLUMNS_TWICE")
    if not columns:
        return signature
    # The only input needs no name; an input without a datatype declares nothing but its columns.
    named = columns if isinstance(columns, Mapping) else {"": columns}
    return Signature(inputs=[TensorSpec(name=name, columns=each) for name, each in named.items()])
