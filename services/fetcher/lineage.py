"""Where a version came from, as the registry has it: what is written of it, and which versions are of the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final
from uuid import UUID

from google.protobuf.json_format import ParseDict

from penstock.api.fetcher.v1.fetch_jobs_pb2 import FetchTarget
from penstock.api.registry.v1 import registry_pb2 as registry
from services.fetcher.models import Download, FetchSpec, Plan

MAX_REVISION_CHARS: Final = 256


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a version's files, so that one made of the same is known again.

    Attributes:
        origin: where they come from; its revision is empty where that is not known before they are here.
        sizes: of the files, sorted; None where one is not known, or where they are in an archive.
        digests: likewise.
    """

    origin: registry.Source
    sizes: Sequence[int] | None
    digests: Sequence[str] | None

    @classmethod
    def of_plan(cls, spec: FetchSpec, plan: Plan) -> Known:
        """Say what is known before the files are here."""
        digests = [file.sha256 for file in plan.files]
        sizes = [file.size_bytes for file in plan.files if file.size_bytes is not None]
        return cls(
            _origin(spec, plan, digests),
            sorted(sizes) if len(sizes) == len(plan.files) and not plan.unpack else None,
            sorted(digests) if all(digests) and not plan.unpack else None,
        )

    @classmethod
    def of_downloads(cls, spec: FetchSpec, plan: Plan, downloads: Mapping[str, Download]) -> Known:
        """Say what is known once they are."""
        digests = sorted(download.sha256 for download in downloads.values())
        sizes = sorted(download.size_bytes for download in downloads.values())
        return cls(
            _origin(spec, plan, digests),
            None if plan.unpack else sizes,
            None if plan.unpack else digests,
        )

    def may_be(self, version: registry.ModelVersion) -> bool:
        """Whether nothing that is known says that the version was made of something else."""
        source = version.source
        if (source.origin, source.reference) != (self.origin.origin, self.origin.reference):
            return False
        return (
            self.origin.revision in ("", source.revision)
            and self.sizes in (None, sorted(file.size_bytes for file in version.files))
            and self.digests in (None, sorted(file.sha256 for file in version.files))
        )

    def is_of(self, version: registry.ModelVersion) -> bool:
        """Whether the version was made of the same: by its files' digests, or by a revision that stands for them."""
        if version.state == registry.VERSION_STATE_FAILED or version.source != self.origin:
            return False
        return (self.digests is not None or self.origin.revision != "") and self.may_be(version)


def _origin(spec: FetchSpec, plan: Plan, digests: Sequence[str]) -> registry.Source:
    """Say where it came from. A single file's digest stands in for a revision that the source does not have.

    So two archives are never taken for the same: of what is unpacked, the registry has no digest.
    """
    revision = plan.revision
    if len(digests) == 1 and not 0 < len(revision) <= MAX_REVISION_CHARS:
        revision = f"sha256:{digests[0]}" if digests[0] else ""
    return registry.Source(
        origin=spec.reference.source,
        reference=plan.canonical or spec.reference.reference,
        revision=revision[:MAX_REVISION_CHARS],
    )


def metadata_of(
    spec: FetchSpec, plan: Plan, downloads: Mapping[str, Download], *, fetch_id: UUID, fetched_by: str
) -> registry.Metadata:
    """Give what the source says of the model, and how it came; what was asked for goes before that, field by field.

    Who asked for it, and by which fetch, goes before all else: nobody signs for another.
    """
    metadata = ParseDict(dict(plan.metadata), registry.Metadata())
    metadata.fields.update(_traces(spec, plan, downloads))
    asked_for = FetchTarget.FromString(spec.target).metadata
    if asked_for.tags:
        del metadata.tags[:]
    metadata.MergeFrom(asked_for)
    metadata.fields.update({"fetched_by": fetched_by, "fetch_id": str(fetch_id)})
    return metadata


def _traces(spec: FetchSpec, plan: Plan, downloads: Mapping[str, Download]) -> dict[str, str]:
    """Say of the way here what neither the version's source nor its files say."""
    first, last = min(places := [file.locator for file in plan.files]), max(places)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    place = first if len(places) == 1 else first[: first.rfind("/", 0, common) + 1]
    asked_for = spec.reference.reference
    traces = {
        "fetched_reference": asked_for if plan.canonical not in ("", asked_for) else "",
        "fetched_url": place if "://" in place and place != spec.reference.reference else "",
        "fetched_variant": spec.reference.variant,
        "fetched_sha256": next(iter(downloads.values())).sha256 if plan.unpack else "",
    }
    return {name: text for name, text in traces.items() if text}


def not_done(version: registry.ModelVersion, target: FetchTarget, *, existed: bool) -> tuple[str, ...]:
    """Say what was asked for and is otherwise: of one that was there already all that differs, else its stage alone."""
    stage = registry.Stage.Name(version.stage).removeprefix("STAGE_")
    lower = bool(target.stage) and target.stage != version.stage
    if not existed:
        if not lower:
            return ()
        asked_for = registry.Stage.Name(target.stage).removeprefix("STAGE_")
        sentence = (
            f"{version.model} {version.version} is in {stage} and not in {asked_for}, as was asked for: where the "
            "model has success criteria, an evaluation must meet them first; `penstock model promote` says what lacks"
        )
        return (sentence,)
    kept = {
        "stage": lower,
        "labels": any(version.labels.get(name) != value for name, value in target.labels.items()),
        "description": bool(target.description) and target.description != version.description,
        "metadata": _differs(version.metadata, target.metadata),
    }
    names = [name for name, differs in kept.items() if differs]
    if not names:
        return ()
    sentence = (
        f"{version.model} {version.version} was there already and stays as it was, in {stage}; not applied: "
        f"{', '.join(names)}. Change it by itself (penstock model promote, penstock model set), or give it a version "
        "of its own (--version)"
    )
    return (sentence,)


def _differs(metadata: registry.Metadata, asked_for: registry.Metadata) -> bool:
    """Whether a version's metadata are otherwise than was asked for; of what was not asked for, nothing is."""
    merged = registry.Metadata()
    merged.CopyFrom(metadata)
    if asked_for.tags:
        del merged.tags[:]
    merged.MergeFrom(asked_for)
    return merged != metadata
