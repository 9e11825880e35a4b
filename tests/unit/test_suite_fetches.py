"""What a suite file may say of models that are fetched, and how what is there is compared with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.exits import CommandError
from penstock.cli.suites import fetches
from penstock.cli.suites.schema import FetchSource, Suite, read_suite

COMMIT, OTHER = "a" * 40, "b" * 40
DIGEST = "c" * 64


def read(folder: Path, version: str) -> Suite:
    file = folder / "suite.yaml"
    file.write_text(f"suite: s\nmodels:\n- name: m\n  versions:\n  - version: 1\n    {version}\n")
    return read_suite(file)


def test_all_that_names_what_is_fetched_arrives(tmp_path: Path) -> None:
    (model,) = read(
        tmp_path,
        f"source: {{fetch: huggingface, reference: org/m, revision: 1.10, variant: fp16, sha256: {DIGEST}}}\n"
        "    framework: onnx\n    metadata: {task_type: t}\n    stage: staging",
    ).models
    assert model.versions[0].source == FetchSource("huggingface", "org/m", "1.10", "fp16", DIGEST)


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        ("source: {fetch: url}", "suite.yaml:6: models[0].versions[0].source: needs 'reference'"),
        ("source: {reference: org/m}", "takes one of `path`, `ollama` with a `mode`, and `fetch`"),
        ("source: {fetch: url, reference: u, path: m.onnx}", "takes one of `path`, `ollama` with a `mode`, and"),
        ("source: {fetch: url, reference: u, ollama: m, mode: chat}", "takes one of `path`, `ollama`"),
        ("source: {fetch: url, reference: u, varient: q}", "source.varient: is no field here; did you mean variant?"),
        ("source: {fetch: url, reference: u, unpack: true}", "source.unpack: is no field here"),
        ("source: {fetch: url, reference: u, mode: chat}", "source.mode: is no field here"),
        ("source: {fetch: url, reference: u, sha256: abc}", "source.sha256: is no SHA-256: 64 of 0-9, a-f"),
        ("source: {fetch: url, reference: {a: b}}", "source.reference: takes a single value"),
        (f"source: {{fetch: url, reference: {'u' * 2_049}}}", "has 2,049 characters; 2,048 are allowed"),
        ("source: {fetch: url, reference: u}\n    columns: [a]", "columns: are not told of what is fetched"),
        ("source: {fetch: , reference: u}", "source.fetch: has no value"),
        ("fetch: {source: url, reference: u}", "versions[0]: needs 'source'"),
    ],
)
def test_every_mistake_is_named(tmp_path: Path, version: str, sentence: str) -> None:
    with pytest.raises(CommandError) as caught:
        read(tmp_path, version)
    assert caught.value.reason == "INVALID_SUITE"
    assert sentence in caught.value.message


def made(
    revision: str = "", *digests: str, origin: str = "huggingface", reference: str = "org/m", **traces: str
) -> pb.ModelVersion:
    files = [pb.File(path=str(number), sha256=digest) for number, digest in enumerate(digests)]
    source = pb.Source(origin=origin, reference=reference, revision=revision)
    version = pb.ModelVersion(files=files, source=source)
    version.metadata.fields.update(traces)
    return version


@pytest.mark.parametrize(
    ("source", "found", "said"),
    [
        (FetchSource("huggingface", "org/m"), made(COMMIT, DIGEST), ""),
        (FetchSource("huggingface", "org/m", revision=COMMIT), made(COMMIT), ""),
        (FetchSource("huggingface", "org/m", revision=COMMIT), made(OTHER), "is of the revision bbbbbb"),
        (FetchSource("huggingface", "org/m", revision="main"), made(OTHER), ""),
        (FetchSource("huggingface", "org/m"), made(reference="org/n"), "was made of huggingface org/n instead of"),
        (FetchSource("huggingface", "org/m"), made(origin="url"), "was made of url org/m instead of huggingface"),
        (FetchSource("huggingface", "org/m"), made(origin="", reference=""), "was made of files instead of"),
        (FetchSource("huggingface", "org/m", sha256=DIGEST), made(COMMIT, DIGEST), ""),
        (FetchSource("huggingface", "org/m", sha256=DIGEST), made(COMMIT, "d" * 64), "holds other bytes"),
        (FetchSource("huggingface", "org/m", sha256=DIGEST), made("", "d" * 64, fetched_sha256=DIGEST), ""),
        (FetchSource("huggingface", "org/m", sha256=DIGEST), made("", DIGEST, fetched_sha256="d" * 64), "holds other"),
        (FetchSource("huggingface", "org/m", sha256=DIGEST), made("", "d" * 64, "e" * 64), ""),
        (FetchSource("huggingface", "org/m", variant="fp16"), made(fetched_variant="fp16"), ""),
        (FetchSource("huggingface", "org/m", variant="default"), made(), ""),
        (FetchSource("huggingface", "org/m", variant="q4"), made(), "is the variant default, and not q4"),
        (FetchSource("huggingface", "org/m"), made(fetched_variant="q4"), "is the variant q4, and not default"),
    ],
)
def test_what_is_registered_is_the_same_unless_what_was_asked_for_can_not_have_become_it(
    source: FetchSource, found: pb.ModelVersion, said: str
) -> None:
    assert fetches.difference(source, found).startswith(said)
    assert bool(fetches.difference(source, found)) == bool(said)


def test_metadata_are_the_same_where_the_source_has_more_than_the_file_says() -> None:
    found = pb.Metadata(task_type="feature-extraction", output_dimensions=384, tags=["onnx", "bert"])
    found.fields.update({"pooling": "mean"})
    assert fetches.with_said(pb.Metadata(task_type="feature-extraction"), found) == found
    assert fetches.with_said(pb.Metadata(tags=["onnx", "bert"]), found) == found
    assert fetches.with_said(pb.Metadata(tags=["onnx"]), found) != found
    assert fetches.with_said(pb.Metadata(output_dimensions=3), found) != found
