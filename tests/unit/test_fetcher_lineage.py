"""What the registry is told of where a version came from, and which versions are taken for the same."""

from __future__ import annotations

import json
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from penstock.api.fetcher.v1.fetch_jobs_pb2 import FetchTarget
from penstock.api.registry.v1 import registry_pb2 as registry
from services.fetcher.lineage import Known, metadata_of, not_done
from services.fetcher.models import Download, FetchSpec, Plan, Reference, RemoteFile, kept

HUB = "https://hub.example/org/name/resolve/abc123"
GRAPH = RemoteFile("onnx/model.onnx", f"{HUB}/onnx/model.onnx", '"g"', 10, "1" * 64)
TOKENIZER = RemoteFile("tokenizer.json", f"{HUB}/tokenizer.json", '"t"', 20, "2" * 64)
PLAN = Plan("abc123", (GRAPH, TOKENIZER), metadata={"taskType": "feature-extraction", "tags": ["a", "b"]})
SPEC = FetchSpec(Reference("huggingface", "org/name"), b"")
WHO = {"fetched_by": "ada", "fetch_id": str(UUID(int=7))}
READY = registry.ModelVersion(
    model="m",
    version="v1",
    state=registry.VERSION_STATE_READY,
    stage=registry.STAGE_CANDIDATE,
    source=registry.Source(origin="huggingface", reference="org/name", revision="abc123"),
    files=[
        registry.File(path="onnx/model.onnx", sha256="1" * 64, size_bytes=10),
        registry.File(path="tokenizer.json", sha256="2" * 64, size_bytes=20),
    ],
)


def brought(plan: Plan) -> dict[str, Download]:
    return {file.path: Download(uuid4(), file.sha256 or "3" * 64, file.size_bytes or 0, []) for file in plan.files}


def written(spec: FetchSpec, plan: Plan) -> registry.Metadata:
    """What the registry is told of a model that ada fetched."""
    return metadata_of(spec, plan, brought(plan), fetch_id=UUID(int=7), fetched_by="ada")


def without_digests(plan: Plan) -> Plan:
    return replace(plan, files=tuple(replace(file, sha256="") for file in plan.files))


def otherwise(**changes: object) -> registry.ModelVersion:
    """A version that differs in some fields."""
    version = registry.ModelVersion()
    version.CopyFrom(READY)
    return ParseDict(changes, version, ignore_unknown_fields=False)


def test_a_version_of_the_same_files_is_known_before_and_after_they_came() -> None:
    for known in (Known.of_plan(SPEC, PLAN), Known.of_downloads(SPEC, PLAN, brought(PLAN))):
        assert (known.origin, known.is_of(READY)) == (READY.source, True)
    assert Known.of_plan(SPEC, without_digests(PLAN)).is_of(READY), "a revision stands for all bytes"


@pytest.mark.parametrize(
    "other",
    [
        otherwise(source={"origin": "url", "reference": "org/name", "revision": "abc123"}),
        otherwise(source={"origin": "huggingface", "reference": "org/other", "revision": "abc123"}),
        otherwise(source={"origin": "huggingface", "reference": "org/name", "revision": "def456"}),
        otherwise(files=[{"path": "model.onnx", "sha256": "1" * 64, "sizeBytes": 10}]),
    ],
)
def test_one_of_another_source_revision_or_files_is_not(other: registry.ModelVersion) -> None:
    known = Known.of_plan(SPEC, PLAN)
    assert (known.may_be(other), known.is_of(other)) == (False, False)


def test_another_variant_of_the_same_commit_is_another() -> None:
    quantized = replace(PLAN, files=(replace(GRAPH, size_bytes=5, sha256="4" * 64), TOKENIZER))
    assert not Known.of_plan(SPEC, quantized).may_be(READY)
    assert not Known.of_plan(SPEC, without_digests(quantized)).may_be(READY)


def test_one_that_failed_is_nothing_to_be_found() -> None:
    assert not Known.of_plan(SPEC, PLAN).is_of(otherwise(state="VERSION_STATE_FAILED"))


def test_where_nothing_is_known_beforehand_nothing_is_taken_for_the_same() -> None:
    plan = Plan("", (RemoteFile("a.onnx", "https://x.example/a.onnx", ""),))
    spec = FetchSpec(Reference("url", "https://x.example/a.onnx"), b"")
    version = otherwise(source={"origin": "url", "reference": "https://x.example/a.onnx"})
    known = Known.of_plan(spec, plan)
    assert (known.may_be(version), known.is_of(version)) == (True, False)
    assert Known.of_downloads(spec, plan, brought(plan)).origin.revision == f"sha256:{'3' * 64}"


def test_an_archive_is_known_by_its_own_digest_alone() -> None:
    plan = Plan("", (RemoteFile("a.zip", "https://x.example/a.zip", "", 5),), unpack=True)
    spec = FetchSpec(Reference("url", "https://x.example/a.zip"), b"")
    known = Known.of_downloads(spec, plan, brought(plan))
    source = {"origin": "url", "reference": "https://x.example/a.zip", "revision": f"sha256:{'3' * 64}"}
    assert known.is_of(otherwise(source=source)), "whatever its files are called and weigh"
    assert not known.is_of(otherwise(source={**source, "revision": f"sha256:{'5' * 64}"}))


def test_what_was_asked_for_goes_before_what_the_source_says_field_by_field() -> None:
    said = {**PLAN.metadata, "outputDimensions": 384, "fields": {"pooling": "mean", "licence": "mit"}}
    asked_for = registry.Metadata(task_type="text-ranking", tags=["mine"])
    asked_for.fields.update({"pooling": "cls", "team": "search"})
    spec = replace(SPEC, target=FetchTarget(metadata=asked_for).SerializeToString())
    metadata = MessageToDict(written(spec, replace(PLAN, metadata=said)))
    assert metadata.pop("fields") == {
        "pooling": "cls", "licence": "mit", "team": "search", "fetched_url": f"{HUB}/", **WHO,
    }  # fmt: skip
    assert metadata == {"taskType": "text-ranking", "outputDimensions": 384, "tags": ["mine"]}


@pytest.mark.parametrize(
    ("spec", "plan", "traces"),
    [
        (SPEC, PLAN, {"fetched_url": f"{HUB}/"}),
        (SPEC, replace(PLAN, files=(GRAPH,)), {"fetched_url": GRAPH.locator}),
        (replace(SPEC, reference=Reference("huggingface", "org/name", variant="fp16")), PLAN,
         {"fetched_url": f"{HUB}/", "fetched_variant": "fp16"}),
        (replace(SPEC, reference=Reference("url", GRAPH.locator)), replace(PLAN, files=(GRAPH,)), {}),
        (replace(SPEC, reference=Reference("filesystem", "/srv/a.zip")),
         Plan("", (RemoteFile("a.zip", "/srv/a.zip", "", 5, "7" * 64),), unpack=True), {"fetched_sha256": "7" * 64}),
    ],
)  # fmt: skip
def test_the_way_here_is_written_where_nothing_else_says_it(
    spec: FetchSpec, plan: Plan, traces: dict[str, str]
) -> None:
    assert MessageToDict(written(spec, plan).fields) == {**traces, **WHO}


def test_nobody_signs_for_another() -> None:
    asked_for = registry.Metadata()
    asked_for.fields.update({"fetched_by": "eve", "fetch_id": "none"})
    spec = replace(SPEC, target=FetchTarget(metadata=asked_for).SerializeToString())
    said = replace(PLAN, metadata={"fields": {"fetched_by": "mallory"}})
    assert MessageToDict(written(spec, said).fields).items() >= WHO.items()


def test_only_what_was_asked_for_and_is_otherwise_is_said() -> None:
    there = registry.ModelVersion()
    there.CopyFrom(READY)
    there.metadata.CopyFrom(written(SPEC, PLAN))

    def said(**asked_for: object) -> tuple[str, ...]:
        return not_done(there, FetchTarget(**asked_for), existed=True)  # type: ignore[arg-type]

    assert said() == ()
    assert said(metadata=registry.Metadata(task_type="feature-extraction")) == (), "the tags were not asked for"
    assert said(metadata=registry.Metadata(tags=["a", "b"])) == ()
    assert "not applied: metadata." in said(metadata=registry.Metadata(tags=["a"]))[0]
    assert "not applied: metadata." in said(metadata=registry.Metadata(output_dimensions=3))[0]
    assert "not applied: stage." in said(stage=registry.STAGE_STAGING)[0]


def test_of_a_new_version_a_stage_below_the_one_that_was_asked_for_is_said() -> None:
    assert not_done(READY, FetchTarget(stage=registry.STAGE_CANDIDATE), existed=False) == ()
    assert not_done(READY, FetchTarget(description="anything"), existed=False) == ()
    (sentence,) = not_done(READY, FetchTarget(stage=registry.STAGE_STAGING), existed=False)
    assert "is in CANDIDATE and not in STAGING" in sentence


def test_warnings_of_a_source_are_kept_within_bounds() -> None:
    many = kept(["w" * 501, *map(str, range(50))])
    assert len(many) == 50
    assert many[0] == "w" * 499 + "…"
    assert many[-1].startswith("2 more warnings")
    fitting = kept(["w" * 500] * 50)
    assert fitting == ("w" * 500,) * 50
    plan = replace(PLAN, warnings=fitting)
    assert Plan.of(json.loads(json.dumps(plan.columns()))).warnings == fitting
