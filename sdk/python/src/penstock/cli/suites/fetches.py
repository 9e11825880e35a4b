"""Versions of a suite that are fetched: what they are compared by, and the steps that bring them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from penstock.api.fetcher.v1 import fetch_jobs_pb2, sources_pb2
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.documents import document_of
from penstock.cli.fetch_advice import Ways, help_for
from penstock.cli.fetch_views import chosen_variant
from penstock.cli.formats import say_bytes, say_count
from penstock.cli.suites.schema import FetchSource, VersionSpec
from penstock.cli.suites.steps import Action, Run, Step, differences, said_of_version
from penstock.errors import FailedPrecondition, InvalidArgument, NotFound, PenstockError
from penstock.values import enum_number

if TYPE_CHECKING:
    from penstock.fetcher import FetcherClient

_WAYS = Ways(again="apply again, which goes on with what is here", anew="apply again", option="")
_UNENDED = ("pending", "queued", "downloading", "processing")
_PASSING = ("NETWORK_ERROR", "RATE_LIMITED", "SOURCE_CHANGED")
"""What a fetch waits out by itself: no reason to do nothing at all."""
_HELPED = ("SECURITY", "UNAUTHORIZED", "FILE_TOO_LARGE")
"""Where the file is right, and a setting is not."""
_FIXED = re.compile(r"[0-9a-f]{40}|sha256:[0-9a-f]{64}")
"""Revisions that never become others: commits and digests. A branch may have moved on; its version stays."""
MAX_REVISION_CHARS = 256
"""How much of a revision the registry keeps of what was fetched."""
_DEFAULT = "default"
"""What a source's variant is called where none is named."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What lies at a source, as a plan shows it; `size_bytes` is None where it is not known."""

    says: str
    size_bytes: int | None = None
    warnings: tuple[str, ...] = ()


class Unfetchable(Exception):
    """A source does not have it, or does not give it; says why and what helps."""


def look(fetcher: FetcherClient, source: FetchSource) -> Seen:
    """Ask what would be fetched, without fetching it.

    Raises:
        Unfetchable: no fetch can bring it as things are.
        PenstockError: the fetcher gives no answer, or not to this key.
    """
    named = " ".join(filter(None, (source.source, source.reference, source.variant)))
    try:
        found = fetcher.inspect(**source.said())
    except (InvalidArgument, NotFound, FailedPrecondition) as error:
        advice = f"; {help_for(error.reason, reference_of(source), _WAYS)}" if error.reason in _HELPED else ""
        raise Unfetchable(f"{named}: {error.message}{advice}") from error
    except PenstockError as error:
        if error.reason not in _PASSING:
            raise
        return Seen(f"{named}: size unknown, since {error.message} ({error.reason})")
    count = say_count(len(chosen_variant(found).files), "file")
    size = (
        f"{say_bytes(found.download_size_bytes)} to fetch" if found.HasField("download_size_bytes") else "size unknown"
    )
    known = [f"{count}, {size}", found.licence, f"revision {found.resolved_revision[:19]}" * bool(source.revision)]
    size_bytes = found.download_size_bytes if found.HasField("download_size_bytes") else None
    return Seen(f"{named}: {', '.join(filter(None, known))}", size_bytes, tuple(found.warnings))


def reference_of(source: FetchSource) -> sources_pb2.SourceReference:
    """Write what is fetched."""
    return sources_pb2.SourceReference(**source.said())


def is_on_its_way(source: FetchSource, found: pb.ModelVersion, fetcher: Callable[[], FetcherClient]) -> bool:
    """Say whether a version that is being uploaded is what a fetch of this source brings."""
    return found.state == pb.VERSION_STATE_UPLOADING and not _other_origin(source, found, fetcher)


def difference(source: FetchSource, found: pb.ModelVersion, fetcher: Callable[[], FetcherClient]) -> str:
    """Say in what a registered version is another than the one that would be fetched; empty: it is the same.

    The fetcher is asked only where one source has the reference spelled in two ways.
    """
    if other := _other_origin(source, found, fetcher):
        return other
    revision, traces = found.source.revision, document_of(found.metadata.fields)
    if _FIXED.fullmatch(source.revision) and _FIXED.fullmatch(revision) and source.revision != revision:
        return f"is of the revision {revision[:19]}"
    variant = traces.get("fetched_variant", _DEFAULT)
    if (source.variant or _DEFAULT) != variant:
        return f"is the variant {variant}, and not {source.variant or _DEFAULT}"
    only = found.files[0].sha256 if len(found.files) == 1 else ""
    digest = str(traces.get("fetched_sha256", only))  # an archive's, which the registry does not have
    if source.sha256 and digest and source.sha256 != digest:
        return f"holds other bytes: sha256 {digest[:12]}…, and not {source.sha256[:12]}…"
    return ""


def _other_origin(source: FetchSource, found: pb.ModelVersion, fetcher: Callable[[], FetcherClient]) -> str:
    there = found.source
    asked_for = document_of(found.metadata.fields).get("fetched_reference", there.reference)
    spelled_alike = source.reference in (there.reference, asked_for)
    if there.origin == source.source and (spelled_alike or _leads_to(source, there, fetcher)):
        return ""
    known = " ".join(filter(None, (there.origin, there.reference))) or "files"
    return f"was made of {known} instead of {source.source} {source.reference}"


def _leads_to(source: FetchSource, there: pb.Source, fetcher: Callable[[], FetcherClient]) -> bool:
    """Say whether another spelling of a reference leads to where a version came from; False where nobody can tell.

    A spelling may bear a tag of its own: so what it leads to now has to be what is registered, where that has a name.
    """
    try:
        found = fetcher().inspect(**source.said())
    except PenstockError:
        return False
    revision = found.resolved_revision[:MAX_REVISION_CHARS]
    return found.canonical_reference == there.reference and revision in ("", there.revision)


def with_said(said: pb.Metadata, found: pb.Metadata) -> pb.Metadata:
    """Give the metadata that a fetch makes of what a file says, where the source says what is found."""
    merged = pb.Metadata()
    merged.CopyFrom(found)
    if said.tags:
        del merged.tags[:]
    merged.MergeFrom(said)
    return merged


def fetch(
    model: str, spec: VersionSpec, source: FetchSource, seen: Seen, failed: pb.ModelVersion | None
) -> tuple[Step, Step]:
    """Fetch a version, in DEVELOPMENT: one step begins it, so that several come at once, another waits for it."""
    key = (model, spec.version)

    def begin(run: Run) -> None:
        if failed is not None:
            run.registry.delete_version(model, spec.version, etag=failed.etag)
        run.fetches[key] = _begun(run, model, spec, source).id

    def wait(run: Run) -> None:
        _wait(run, model, spec, source, run.fetches[key])

    says = seen.says + ("; in place of the one that failed validation" if failed is not None else "")
    changes = differences({}, said_of_version(spec))
    return (
        Step(Action.BEGIN_FETCH, model, begin, spec.version),
        Step(Action.FETCH, model, wait, spec.version, changes=changes, says=says, fetch_bytes=seen.size_bytes or 0),
    )


def _begun(run: Run, model: str, spec: VersionSpec, source: FetchSource) -> fetch_jobs_pb2.FetchJob:
    """Give the job that fetches it: one that is under way, one that ended badly tried again, else a new one."""
    fetcher = run.fetcher()
    for job in fetcher.list(states=_UNENDED, model=model, source=source.source):
        if job.source == reference_of(source) and _makes(job.target, spec):
            return job
    target = {
        "model": model,
        "version": spec.version,
        "framework": spec.framework,
        "description": spec.description or "",
        "labels": spec.labels,
        "metadata": spec.metadata,
    }
    start: Callable[..., fetch_jobs_pb2.FetchJob] = fetcher.start
    job = start(**source.said(), **target, request_id=_request_id(source, target))
    if job.state in (fetch_jobs_pb2.FETCH_JOB_STATE_FAILED, fetch_jobs_pb2.FETCH_JOB_STATE_CANCELLED):
        try:
            return fetcher.retry(job.id)
        except FailedPrecondition as error:  # another was quicker
            if error.reason != "WRONG_STATE":
                raise
    elif job.state == fetch_jobs_pb2.FETCH_JOB_STATE_COMPLETED and _is_gone(run, model, spec.version):
        return start(**source.said(), **target)
    return job


def _makes(target: fetch_jobs_pb2.FetchTarget, spec: VersionSpec) -> bool:
    """Say whether a fetch makes the version of a file, as far as that is not set afterwards."""
    framework = enum_number("framework", pb.Framework, spec.framework)
    said = (spec.version, framework, spec.metadata or pb.Metadata())
    return (target.version, target.framework, target.metadata) == said


def _is_gone(run: Run, model: str, version: str) -> bool:
    """Say whether what a fetch once made has been deleted since."""
    try:
        run.registry.get_version(model, version)
    except NotFound:
        return True
    return False


def _request_id(source: FetchSource, target: Mapping[str, Any]) -> str:
    """Tell one fetch from another by all that is said of it: the same again makes no second job."""
    said = {
        **target,
        "metadata": target["metadata"].SerializeToString(deterministic=True) if target["metadata"] else b"",
    }
    labels = sorted((said.pop("labels") or {}).items())
    return f"apply-{sha256(repr((source, sorted(said.items()), labels)).encode()).hexdigest()}"


def _wait(run: Run, model: str, spec: VersionSpec, source: FetchSource, job_id: str) -> None:
    """Wait for a fetch, showing how far it is, and set what a fetch does not."""
    from penstock.cli.fetch_progress import follow  # 30 ms that only watching needs

    with closing(run.fetcher().watch(job_id)) as watched:
        job = follow(run.output, watched, title=f"{model} {spec.version}")
    if job.state == fetch_jobs_pb2.FETCH_JOB_STATE_CANCELLED:
        raise FailedPrecondition(f"the fetch {job.id} was cancelled; {_WAYS.again}", reason="FETCH_CANCELLED")
    if job.state != fetch_jobs_pb2.FETCH_JOB_STATE_COMPLETED:
        advice = help_for(job.error.reason, reference_of(source), _WAYS)
        raise FailedPrecondition(f"{job.error.message}; {advice}", reason=job.error.reason)
    run.output.warn(job.result.warnings)
    found = run.registry.get_version(model, spec.version)
    unset = {name: value for name, value in said_of_version(spec).items() if getattr(found, name) != value}
    if unset:
        run.registry.update_version(model, spec.version, **unset, etag=found.etag)
