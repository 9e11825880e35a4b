"""Reference profiles as tables and facts."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from penstock.api.monitoring.v1 import profiles_pb2 as pb
from penstock.cli.charts import sparkline
from penstock.cli.documents import enum_word
from penstock.cli.formats import say_count, say_number, say_share, say_time
from penstock.cli.model_views import time_of
from penstock.cli.output import Column, Output

_COLUMNS = (
    Column("profile", give="id"),
    Column("model", give="cut"),
    Column("number", "right"),
    Column("versions", give="cut"),
    Column("rows", "right"),
    Column("features", "right"),
    Column("made of", give="cut", optional=True),
    Column("made", optional=True),
    Column("by", give="cut", optional=True),
)
_FEATURE_COLUMNS = (
    Column("feature", give="cut", least_width=16),
    Column("kind"),
    Column("missing", "right"),
    Column("distribution", give="cut", least_width=12),
    Column("min", "right", optional=True),
    Column("median", "right", optional=True),
    Column("max", "right", optional=True),
    Column("mean", "right"),
    Column("st. dev.", "right", optional=True),
    Column("values", give="cut", optional=True, least_width=12),
)
SHOWN_CATEGORIES = 5
_BESIDE = ("missing", "other")


def profiles_table(output: Output, found: Sequence[pb.Profile]) -> RenderableType:
    """Lay out profiles, one a row."""
    rows = [
        (
            profile.id,
            profile.model,
            str(profile.number),
            ", ".join(profile.attached_versions) or Text("none", style="dim"),
            f"{profile.row_count:,}",
            f"{profile.feature_count:,}",
            source_words(profile.source),
            output.time(time_of(profile.create_time)),
            profile.created_by,
        )
        for profile in found
    ]
    return output.table(
        _COLUMNS, rows, empty="no profile: `penstock profile create MODEL VERSION --file FILE` makes one"
    )


def profile_facts(output: Output, profile: pb.Profile) -> RenderableType:
    """Lay out what there is to know of a profile as a whole."""
    title = Text.assemble((f"{profile.model} profile {profile.number}", "bold"), (f"  {profile.id}", "dim"))
    judged = ""
    if profile.HasField("accuracy"):
        judged = f"{say_share(profile.accuracy)} of {say_count(profile.judged_count, 'row')}"
    return output.facts(
        title,
        [
            ("compared with", ", ".join(profile.attached_versions)),
            ("made for", profile.version),
            ("made of", source_words(profile.source)),
            ("rows", f"{profile.row_count:,}"),
            ("features", f"{profile.feature_count:,}"),
            ("accuracy", judged),
            ("made", f"{say_time(time_of(profile.create_time))} by {profile.created_by}"),
            ("note", profile.note),
        ],
    )


def features_table(output: Output, features: Sequence[pb.FeatureProfile]) -> RenderableType:
    """Lay out features, one a row, with the shares of their bins as a picture."""
    return output.table(_FEATURE_COLUMNS, [_feature(each) for each in features], empty="no features")


def source_words(source: pb.ProfileSource) -> str:
    """Say what a profile was made of."""
    match source.WhichOneof("kind"):
        case "upload_sha256":
            return f"rows that were sent, SHA-256 {source.upload_sha256[:12]}…"
        case "file":
            return source.file.uri
        case "window":
            begin, end = time_of(source.window.from_time), time_of(source.window.to_time)
            return f"traffic {say_time(begin)} to {say_time(end)}"
    return ""


def kind_word(kind: pb.FeatureKind.ValueType) -> str:
    """Say how a feature is counted."""
    return str(enum_word(pb.FeatureKind.DESCRIPTOR, kind) or "").replace("_", " ")


def _feature(feature: pb.FeatureProfile) -> tuple[str | Text, ...]:
    missing = next((each.share for each in feature.bins if each.label == "missing"), 0.0)
    values = [each for each in feature.bins if each.label not in _BESIDE]
    picture = Text(sparkline([each.share for each in values]), style="cyan")
    moments = feature.moments if feature.HasField("moments") else None
    numbers = (
        tuple(say_number(getattr(moments, name)) for name in ("min", "median", "max", "mean", "standard_deviation"))
        if moments
        else ("",) * 5
    )
    return (
        feature.name,
        kind_word(feature.kind),
        Text(say_share(missing), style="" if missing else "dim"),
        picture,
        *numbers,
        _words(feature, values),
    )


def _words(feature: pb.FeatureProfile, values: Sequence[pb.Bin]) -> str:
    if feature.kind == pb.FEATURE_KIND_EMBEDDING:
        return f"{feature.dimensions} dimensions"
    if feature.kind in (pb.FEATURE_KIND_NUMERIC, pb.FEATURE_KIND_TEXT_LENGTH):
        return f"{len(values)} between quantiles"
    top = sorted(values, key=lambda each: -each.count)[:SHOWN_CATEGORIES]
    more = f", {len(values) - len(top)} more" if len(values) > len(top) else ""
    return ", ".join(f"{each.label} {each.share:.0%}" for each in top) + more
