"""Looking at models of the Hub: references, tokens, refusals, and names that lead elsewhere. A stand-in of the Hub on
loopback, asked by the real huggingface_hub client.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from services.common.errors import DomainError, InvalidArgument
from services.fetcher.faults import (
    Forbidden,
    ModelNotFound,
    NetworkError,
    RateLimited,
    Unauthorized,
    UnsupportedFramework,
)
from services.fetcher.sources.kept import KeptConnections
from services.fetcher.sources.source import Stopping
from tests import hub
from tests.flows import all_of
from tests.hub import FILES, GRAPH, look, publish, source


@pytest.fixture(scope="module")
def server() -> Iterator[hub.Hub]:
    with hub.serving() as served:
        yield served


def test_a_repository_is_looked_at_as_it_is_at_its_commit(server: hub.Hub) -> None:
    commit = publish(server, "org/plain")
    asked = len(server.asked)
    found = look(server, "org/plain")
    plan = found.plan
    assert (plan.revision, plan.framework, found.suggested_model, found.licence) == (
        commit, "TRANSFORMERS", "plain", "mit",
    )  # fmt: skip
    assert {file.path for file in plan.files} == FILES.keys() - {"README.md", "onnx/model_fp16.onnx"}
    assert all(f"/org/plain/resolve/{commit}/" in file.locator and file.ranges for file in plan.files)
    graph = plan.files[0]
    assert (graph.size_bytes, len(graph.sha256), found.variants[1].name) == (len(GRAPH), 64, "fp16")
    # Of weights no byte, and of texts only those that say something.
    assert {path.rpartition("/")[2] for path in server.paths()[asked:]} == {"plain", "config.json"}


def test_a_commits_files_stay_what_they_are(server: hub.Hub) -> None:
    first = publish(server, "org/moves", {**FILES, "onnx/model.onnx": b"1" * hub.LFS_BYTES})
    server.repositories["org/moves"].revisions |= {"v1": first, "refs/pr/7": first}
    second = publish(server, "org/moves", {**FILES, "onnx/model.onnx": b"2" * hub.LFS_BYTES})
    assert look(server, "org/moves").plan.revision == second
    for revision in ("v1", "refs/pr/7", first):
        found = look(server, "org/moves", revision=revision)
        assert found.plan.revision == first
        with source(server.url).open(found.plan.files[0], 100, Stopping(), end=102) as flow:
            assert (flow.offset, all_of(flow)) == (100, b"11")


@pytest.mark.parametrize(
    "form",
    [
        "org/forms", "hf://org/forms", "org/forms@main", "hf://org/forms@refs/heads/main", "{url}/org/forms",
        "{url}/org/forms/tree/main", "{url}/org/forms/tree/refs%2Fheads%2Fmain", "org/forms/",
    ],
)  # fmt: skip
def test_a_reference_is_a_name_or_the_url_of_its_page(server: hub.Hub, form: str) -> None:
    commit = publish(server, "org/forms")
    server.repositories["org/forms"].revisions["refs/heads/main"] = commit
    assert look(server, form.format(url=server.url)).plan.revision == commit


def test_a_model_may_have_no_organisation_and_lie_in_a_folder(server: hub.Hub) -> None:
    publish(server, "gpt2", {"sub/folder/net.onnx": GRAPH, "net.onnx": GRAPH})
    for form in ("gpt2@main", f"{server.url}/gpt2", f"{server.url}/gpt2/tree/main/sub/folder"):
        [file] = look(server, form).plan.files
        assert (file.path, "sub/" in file.locator) == ("net.onnx", "sub/" in form)
    publish(server, "org/deep", {"sub/folder/net.onnx": GRAPH, "net.onnx": GRAPH})
    [file] = look(server, "org/deep/sub/folder@main").plan.files
    assert (file.path, file.locator.endswith("/sub/folder/net.onnx")) == ("net.onnx", True)
    with pytest.raises(ModelNotFound, match="no file in nowhere"):
        look(server, "org/deep/nowhere")


@pytest.mark.parametrize(
    "form",
    [
        "org/../etc", "../org/name", "org/name/../../x", "/org/name", "org//name", "org/na\\me", "org/name@../../api",
        "org/name@a//b",
        "datasets/org/name", "spaces/org", "org/name.git", "org/a--b", "org/a..b",
        "https://elsewhere.example/org/name", "{url}/org/name/blob/main/model.onnx", "{url}/org/name?token=x",
        "{url}/org/name/tree/..%2F..%2Fapi", "{url}", "{url}.evil/org/name", "hf://datasets/a/b", "org/" + "n" * 97,
        "org/näme", "org/name/..", "api/models", "hf.co/org/name",
    ],
)  # fmt: skip
def test_a_reference_that_leads_elsewhere_is_none(server: hub.Hub, form: str) -> None:
    asked = len(server.asked)
    with pytest.raises(InvalidArgument) as refused:
        look(server, form.format(url=server.url))
    assert refused.value.reason == "INVALID_REFERENCE"
    assert len(server.asked) == asked


def test_a_revision_is_said_once(server: hub.Hub) -> None:
    with pytest.raises(InvalidArgument, match="says 'main' already"):
        look(server, "org/plain@main", revision="v1")
    with pytest.raises(InvalidArgument, match="leave it out"):
        look(server, "org/plain", sha256="0" * 64)


def test_the_token_goes_to_the_hub_and_to_nobody_else(server: hub.Hub) -> None:
    publish(server, "org/private", private=True)
    asked, elsewhere = len(server.asked), len(server.cdn.asked)
    found = look(server, "org/private", server.token)
    with source(server.url, server.token).open(found.plan.files[0], 0, Stopping()) as flow:
        assert all_of(flow) == GRAPH
    assert {headers.get("Authorization") for _, headers in server.asked[asked:]} == {f"Bearer {server.token}"}
    assert [headers.get("Authorization") for _, headers in server.cdn.asked[elsewhere:]] == [None]
    assert server.token not in f"{found}{source(server.url, server.token)!r}{vars(source(server.url, server.token))}"


@pytest.mark.parametrize(
    ("more", "token", "fault", "sentence"),
    [
        ({"private": True}, "", ModelNotFound, "where it is private, no token is set"),
        ({"private": True}, "hf_wrong", Unauthorized, "answered 401.*a token is set.*see that it is valid"),
        ({"gated": True}, "", Unauthorized, "is gated: accept its conditions at http://.*/org/closed.*no token is set"),
        ({"gated": True, "allowed": False}, "right", Unauthorized, "is gated: accept its conditions.*a token is set"),
        ({"answers": [(403, {})]}, "", Unauthorized, "answered 403.*PENSTOCK_FETCHER_HF_TOKEN"),
        ({"answers": [(404, {})]}, "", ModelNotFound, "knows no org/closed"),
        ({"answers": [(410, {})]}, "", ModelNotFound, "answered 410"),
        ({"answers": [(500, {})]}, "", NetworkError, "answered 500.*a mirror in PENSTOCK_FETCHER_HF_ENDPOINT"),
        ({"answers": [(302, {"Location": "https://169.254.169.254/"})]}, "", Forbidden, "private address"),
        ({"answers": [(302, {"Location": "http://10.0.0.1/"})]}, "", Forbidden, "http is not allowed"),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    server: hub.Hub, more: dict[str, Any], token: str, fault: type[DomainError], sentence: str
) -> None:
    publish(server, "org/closed", **{"private": False, "gated": False, "allowed": True, "answers": [], **more})
    with pytest.raises(fault, match=sentence) as refused:
        look(server, "org/closed", server.token if token == "right" else token)
    assert "hf_" not in str(refused.value)


def test_who_accepted_the_conditions_gets_what_is_gated(server: hub.Hub) -> None:
    publish(server, "org/gated", gated=True)
    assert "it is gated" in look(server, "org/gated", server.token).warnings[0]


def test_access_to_what_is_gated_is_seen_to_before_anything_comes(server: hub.Hub) -> None:
    """Its description is given to anybody, and a graph alone has no texts whose reading would be refused."""
    publish(server, "org/gated-graph", {"model.onnx": GRAPH}, gated=True, allowed=False)
    elsewhere = len(server.cdn.asked)
    with pytest.raises(Unauthorized, match="is gated"):
        look(server, "org/gated-graph", server.token)
    server.repositories["org/gated-graph"].allowed = True
    assert look(server, "org/gated-graph", server.token).plan.files
    assert len(server.cdn.asked) == elsewhere


def test_a_missing_repository_and_a_missing_revision_are_told_apart(server: hub.Hub) -> None:
    with pytest.raises(ModelNotFound, match="knows no org/nothing"):
        look(server, "org/nothing", server.token)
    publish(server, "org/branches")
    with pytest.raises(ModelNotFound, match="org/branches has no revision 'v9'"):
        look(server, "org/branches@v9")


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}, 55.0),
        ({"RateLimit": '"api";r=12;t=55', "Retry-After": "7"}, 7.0),
        ({"RateLimit": '"api";r=0;t=999999'}, 3_600.0),
        ({}, None),
    ],
)
def test_the_hubs_limits_are_obeyed(server: hub.Hub, headers: dict[str, str], wait_s: float | None) -> None:
    publish(server, "org/busy", answers=[(429, headers)])
    with pytest.raises(RateLimited) as refused:
        look(server, "org/busy")
    assert refused.value.retry_after_s == wait_s


def test_a_repository_that_was_renamed_is_found(server: hub.Hub) -> None:
    commit = publish(server, "org/new-name")
    publish(server, "org/old-name", moved="org/new-name")
    assert look(server, "org/old-name").plan.revision == commit


def test_a_signed_url_that_has_run_out_is_asked_for_anew(server: hub.Hub) -> None:
    """A transfer of hours outlives the CDN's URLs: that the CDN refuses says nothing of what the Hub would give."""
    publish(server, "org/long")
    found = look(server, "org/long", server.token)
    with closing(KeptConnections()) as kept:
        for begin in (0, 100):
            with source(server.url, server.token).open(found.plan.files[0], begin, Stopping(kept=kept)) as flow:
                assert (flow.offset, all_of(flow)) == (begin, GRAPH[begin:])
            path = server.signed_path("org/long", found.plan.files[0].sha256)
            server.cdn.files[path].failures.append((403, {}))
        asked = server.paths().count(f"/org/long/resolve/{found.plan.revision}/onnx/model.onnx")
    assert asked == 2


def test_a_plain_graphs_config_may_lie_above_it(server: hub.Hub) -> None:
    config = {"architectures": ["ViTForImageClassification"], "id2label": {"0": "cat", "1": "dog"}}
    files = {"onnx/model.onnx": GRAPH, "config.json": json.dumps(config).encode()}
    publish(server, "org/images", files, pipeline_tag="image-classification")
    plan = look(server, "org/images").plan
    assert (plan.framework, [file.path for file in plan.files]) == ("ONNX", ["model.onnx"])
    assert (plan.metadata["task_type"], plan.metadata["fields"]["label_count"]) == ("image-classification", 2)


def test_a_look_shows_the_variants_of_which_one_has_to_be_named(server: hub.Hub) -> None:
    files = {**FILES, "onnx/model_q4.onnx": GRAPH + b"4"}
    del files["onnx/model.onnx"]
    publish(server, "org/choose", files)
    found = look(server, "org/choose")
    assert ([variant.name for variant in found.variants], found.has_default) == (["fp16", "q4"], False)
    assert "name one of: fp16, q4" in found.warnings[0]
    with pytest.raises(InvalidArgument) as refused:
        found.check(framework_named=True)
    assert refused.value.reason == "UNKNOWN_VARIANT"
    look(server, "org/choose", variant="q4").check(framework_named=False)
    with pytest.raises(InvalidArgument, match="no 'q3'"):
        look(server, "org/choose", variant="q3")


def test_a_model_that_makes_texts_is_looked_at_and_not_fetched(server: hub.Hub) -> None:
    publish(server, "org/generates", pipeline_tag="text-generation")
    found = look(server, "org/generates")
    assert [variant.name for variant in found.variants] == ["default", "fp16"]
    assert found.unserved == found.warnings[0]
    with pytest.raises(UnsupportedFramework, match=r"makes texts \(its task is text-generation\).*Ollama"):
        found.check(framework_named=False)
    found.check(framework_named=True)


def test_a_decoders_class_tells_that_it_makes_texts_and_its_encoder_may_embed(server: hub.Hub) -> None:
    config = json.dumps({"architectures": ["T5ForConditionalGeneration"]}).encode()
    parts = {"onnx/encoder_model.onnx": GRAPH, "onnx/decoder_model.onnx": GRAPH + b"d"}
    files = {"tokenizer.json": b"{}", "config.json": config, **parts}
    publish(server, "org/t5", files, pipeline_tag=None)
    with pytest.raises(UnsupportedFramework, match="encoder and a decoder"):
        look(server, "org/t5").check(framework_named=True)
    with pytest.raises(UnsupportedFramework, match="names T5ForConditionalGeneration"):
        look(server, "org/t5", variant="decoder_model").check(framework_named=False)
    look(server, "org/t5", variant="encoder_model").check(framework_named=False)


def test_pooling_is_read_above_the_tokenizers_folder(server: hub.Hub) -> None:
    """As BAAI/bge-m3 has it: the tokenizer in onnx/, what sentence-transformers saved on top."""
    modules = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Pooling", "Normalize")]
    files = {
        "modules.json": json.dumps(modules).encode(),
        "1_Pooling/config.json": json.dumps({"pooling_mode_cls_token": True}).encode(),
        "sentence_bert_config.json": b'{"max_seq_length": 77}',
        "onnx/tokenizer.json": b"{}", "onnx/config.json": b"{}", "onnx/model.onnx": GRAPH,
    }  # fmt: skip
    publish(server, "org/above", files)
    found = look(server, "org/above")
    fields = found.plan.metadata["fields"]
    assert (fields["pooling"], fields["normalize"], fields["max_tokens"], found.warnings) == ("cls", True, 77, ())
    assert {file.path for file in found.plan.files} == {path.removeprefix("onnx/") for path in files}


def test_a_plan_of_another_endpoint_gets_no_token(server: hub.Hub) -> None:
    """Plans are kept: those of an old PENSTOCK_FETCHER_HF_ENDPOINT lead to the host that it named."""
    publish(server, "org/kept")
    file = look(server, "org/kept").plan.files[0]
    asked = len(server.asked)
    elsewhere = f"http://127.0.0.1:{urlsplit(server.cdn.url).port}"
    with source(elsewhere, server.token).open(file, 0, Stopping()) as flow:
        assert all_of(flow) == GRAPH
    with source(server.url, server.token).open(file, 0, Stopping()) as flow:
        assert all_of(flow) == GRAPH
    assert [headers.get("Authorization") for _, headers in server.asked[asked:]] == [None, f"Bearer {server.token}"]
