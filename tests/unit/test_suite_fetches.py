"""What a suite file may say of models that are fetched, and how what is there is compared with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as jobs_pb2
from penstock.api.fetcher.v1 import sources_pb2
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.exits import CommandError
from penstock.cli.output import Output
from penstock.cli.suites import fetches
from penstock.cli.suites.schema import FetchSource, Suite, read_suite
from penstock.cli.suites.steps import Run
from penstock.errors import Unavailable
from penstock.fetcher import FetcherClient
from services.common import errors
from tests.sdk import Behaviour, ScriptedServer, abort, answer, client_of, scripted_server

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
        (
            "source: {fetch: url, reference: u, unpack: true}",
            "source.unpack: is no field here; there are path, ollama, fetch, sha256, reference, revision, variant",
        ),
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


def away() -> FetcherClient:
    raise Unavailable("nobody is there")


@pytest.mark.parametrize(
    ("source", "found", "said"),
    [
        (FetchSource("huggingface", "org/m"), made(COMMIT, DIGEST), ""),
        (FetchSource("huggingface", "org/m", revision=COMMIT), made(COMMIT), ""),
        (FetchSource("huggingface", "org/m", revision=COMMIT), made(OTHER), "is of the revision bbbbbb"),
        (FetchSource("huggingface", "org/m", revision="main"), made(OTHER), ""),
        (FetchSource("huggingface", "org/m@main"), made(fetched_reference="org/m@main"), ""),
        (FetchSource("huggingface", "org/m@v2"), made(fetched_reference="org/m@main"), "was made of huggingface org/m"),
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
    difference = fetches.difference(source, found, away)
    assert difference.startswith(said)
    assert bool(difference) == bool(said)


def test_metadata_are_the_same_where_the_source_has_more_than_the_file_says() -> None:
    found = pb.Metadata(task_type="feature-extraction", output_dimensions=384, tags=["onnx", "bert"])
    found.fields.update({"pooling": "mean"})
    assert fetches.with_said(pb.Metadata(task_type="feature-extraction"), found) == found
    assert fetches.with_said(pb.Metadata(tags=["onnx", "bert"]), found) == found
    assert fetches.with_said(pb.Metadata(tags=["onnx"]), found) != found
    assert fetches.with_said(pb.Metadata(output_dimensions=3), found) != found


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        server.on("ListFetchJobs", answer(jobs_pb2.ListFetchJobsResponse()))
        yield server


@pytest.mark.parametrize(
    ("canonical", "resolved", "there", "same"),
    [
        ("/srv/m", "", made("sha256:" + DIGEST, origin="oci", reference="/srv/m"), True),
        ("host/m", "sha256:" + DIGEST, made("sha256:" + DIGEST, origin="oci", reference="host/m"), True),
        ("host/m", "e" * 300, made("e" * 256, origin="oci", reference="host/m"), True),
        ("host/m", "sha256:" + "d" * 64, made("sha256:" + DIGEST, origin="oci", reference="host/m"), False),
        ("host/n", "sha256:" + DIGEST, made("sha256:" + DIGEST, origin="oci", reference="host/m"), False),
        ("", "", made("", origin="oci", reference="host/m"), False),
    ],
    ids=["folder", "tag", "long", "another tag", "another place", "older fetcher"],
)
def test_another_spelling_of_a_reference_is_the_same_where_it_leads_to_what_is_registered(
    server: ScriptedServer, canonical: str, resolved: str, there: pb.ModelVersion, same: bool
) -> None:
    found = sources_pb2.InspectSourceResponse(canonical_reference=canonical, resolved_revision=resolved)
    server.on("InspectSource", answer(found))
    source = FetchSource("oci", "another-spelling:v2")
    with client_of(server, fetcher=server.address) as client:
        assert (fetches.difference(source, there, lambda: client.fetcher) == "") is same
        there.state = pb.VERSION_STATE_UPLOADING
        assert fetches.is_on_its_way(source, there, lambda: client.fetcher) is same


def begun(server: ScriptedServer, folder: Path, more: str = "") -> str:
    """Take the step that begins a fetch, and give the job that it found or made."""
    (model,) = read(folder, "source: {fetch: url, reference: u}" + more).models
    (spec,) = model.versions
    source = spec.source
    assert isinstance(source, FetchSource)
    with client_of(server, fetcher=server.address) as client:
        output = Output(as_json=True, no_color=True)
        run = Run(client.registry, output, lambda: client.fetcher)
        first, _ = fetches.fetch("m", spec, source, fetches.Seen("u"), None)
        first.do(run)
    return run.fetches["m", "1"]


def made_job(name: str, state: jobs_pb2.FetchJobState.ValueType) -> Behaviour:
    return answer(jobs_pb2.CreateFetchJobResponse(job=jobs_pb2.FetchJob(id=name, state=state)))


def test_what_a_fetch_once_made_and_is_gone_is_fetched_by_another_job(server: ScriptedServer, tmp_path: Path) -> None:
    server.on(
        "CreateFetchJob",
        made_job("old", jobs_pb2.FETCH_JOB_STATE_COMPLETED),
        made_job("new", jobs_pb2.FETCH_JOB_STATE_QUEUED),
    )
    server.on("GetVersion", refuse(errors.NotFound("it was purged", reason="VERSION_NOT_FOUND")))
    assert begun(server, tmp_path) == "new"
    first, second = (request.request_id for request in server.calls["CreateFetchJob"])
    assert first.startswith("apply-")
    assert second != first


def test_a_fetch_under_way_is_waited_for_where_it_makes_the_same(server: ScriptedServer, tmp_path: Path) -> None:
    source = jobs_pb2.FetchJob().source
    source.source, source.reference = "url", "u"
    said: dict[str, Any] = {"model": "m", "version": "1", "metadata": pb.Metadata(task_type="t")}
    others = [
        {**said, "framework": pb.FRAMEWORK_TENSORFLOW},
        {**said, "framework": pb.FRAMEWORK_ONNX, "metadata": pb.Metadata(task_type="u")},
        {**said, "framework": pb.FRAMEWORK_ONNX, "version": "2"},
        {**said, "framework": pb.FRAMEWORK_ONNX},
    ]
    jobs = [
        jobs_pb2.FetchJob(id=str(number), source=source, target=jobs_pb2.FetchTarget(**target))
        for number, target in enumerate(others)
    ]
    server.on("CreateFetchJob", made_job("new", jobs_pb2.FETCH_JOB_STATE_QUEUED))
    more = "\n    framework: onnx\n    metadata: {task_type: t}"
    server.on("ListFetchJobs", answer(jobs_pb2.ListFetchJobsResponse(jobs=jobs)))
    assert begun(server, tmp_path, more) == "3"
    server.on("ListFetchJobs", answer(jobs_pb2.ListFetchJobsResponse(jobs=jobs[:3])))
    assert begun(server, tmp_path, more) == "new"


def test_what_is_there_by_now_is_not_fetched_again(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("CreateFetchJob", made_job("old", jobs_pb2.FETCH_JOB_STATE_COMPLETED))
    server.on("GetVersion", answer(pb.GetVersionResponse()))
    assert begun(server, tmp_path) == "old"


def test_who_tries_a_failed_fetch_again_beside_another_waits_for_the_same(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.on("CreateFetchJob", made_job("failed", jobs_pb2.FETCH_JOB_STATE_FAILED))
    server.on("RetryFetchJob", refuse(errors.FailedPrecondition("it is QUEUED", reason="WRONG_STATE")))
    assert begun(server, tmp_path) == "failed"
    assert len(server.calls["RetryFetchJob"]) == 1
    assert begun(server, tmp_path) == "failed"
    one, two = (request.request_id for request in server.calls["CreateFetchJob"])
    assert one == two, "the same again makes no second job"


def refuse(error: errors.DomainError) -> Behaviour:
    return lambda _, context: abort(context, error)
