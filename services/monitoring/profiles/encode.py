"""Profiles as the contract's messages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from penstock.api.monitoring.v1 import profiles_pb2 as pb
from services.monitoring.profiles.models import FeatureKind, FeatureReference, Moments
from services.monitoring.profiles.sources import FileSource, Profile, Source, UploadSource, WindowSource

MISSING, OTHER = "missing", "other"


def profile_proto(profile: Profile) -> pb.Profile:
    """Encode a profile, with the features that it comes with."""
    reference = profile.reference
    message = pb.Profile(
        id=str(reference.id),
        model=reference.model,
        version=reference.version,
        number=reference.number,
        source=_source(profile.source),
        row_count=reference.row_count,
        features=map(_feature, reference.features.values()),
        feature_count=profile.feature_count,
        accuracy=reference.accuracy,
        judged_count=reference.judged_count,
        created_by=reference.created_by,
        note=reference.note,
        attached_versions=profile.attached_versions,
        warnings=profile.warnings,
    )
    message.create_time.FromDatetime(reference.create_time)
    return message


def bin_labels(feature: FeatureReference) -> list[str]:
    """Name a feature's bins as people read them, in the order of its counts."""
    values = feature.categories if feature.categories or not feature.edges else _ranges(feature.edges)
    if feature.kind in (FeatureKind.NUMERIC, FeatureKind.TEXT_LENGTH) and not feature.edges:
        values = ["any"] * (len(feature.counts) - 2)
    return [*values, MISSING, OTHER]


def _ranges(edges: Sequence[float]) -> list[str]:
    inner = [f"{low:.6g} to {high:.6g}" for low, high in pairwise(edges)]
    return [f"up to {edges[0]:.6g}", *inner, f"over {edges[-1]:.6g}"]


def _feature(feature: FeatureReference) -> pb.FeatureProfile:
    total = max(1, sum(feature.counts))
    bins = (
        pb.Bin(label=label, count=count, share=count / total)
        for label, count in zip(bin_labels(feature), feature.counts, strict=True)
    )
    return pb.FeatureProfile(
        name=feature.name,
        kind=pb.FeatureKind.ValueType(feature.kind.value),
        bins=bins,
        edges=feature.edges,
        moments=None if feature.moments is None else _moments(feature.moments),
        dimensions=feature.dimensions,
        overdispersion=feature.overdispersion,
    )


def _moments(moments: Moments) -> pb.Moments:
    return pb.Moments(**{name: getattr(moments, name) for name in Moments.__slots__})


def _source(source: Source) -> pb.ProfileSource:
    match source:
        case UploadSource():
            return pb.ProfileSource(upload_sha256=source.sha256)
        case FileSource():
            number = pb.RowFormat.ValueType(source.row_format.value)
            return pb.ProfileSource(file=pb.FileSource(uri=source.uri, sha256=source.sha256, format=number))
        case WindowSource():
            message = pb.WindowSource()
            message.from_time.FromDatetime(source.window.from_time)
            message.to_time.FromDatetime(source.window.to_time)
            return pb.ProfileSource(window=message)
