"""Looking at models of the Hub: references, tokens, refusals, and names that lead elsewhere. A stand-in of the Hub on
loopback, asked by the real huggingface_hub client.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from services.common.addresses import AddressRules, AllowedHosts
from services.common.errors import DomainError, InvalidArgument
from services.fetcher.faults import FileTooLarge, Forbidden, ModelNotFound, NetworkError, RateLimited, Unauthorized
from services.fetcher.models import Reference
from services.fetcher.sources import hub as asked_hub
from services.fetcher.sources.http import GuardedHttp, HttpLimits
from services.fetcher.sources.hub import Hub
from services.fetcher.sources.huggingface import HuggingFaceSource
from services.fetcher.sources.kept import KeptConnections
from services.fetcher.sources.source import Found, Stopping
from tests import hub
from tests.origins import answering

PATIENT = HttpLimits(connect_s=600, silence_s=600, floor_s=600)
LOOPBACK = AddressRules(AllowedHosts.parse("127.0.0.1"))
GRAPH = b"g" * hub.LFS_BYTES
FILES = {
    "README.md": b"read me",
    "config.json": json.dumps({"hidden_size": 8}).encode(),
    "tokenizer.json": b"{}",
    "onnx/model.onnx": GRAPH,
    "onnx/model_fp16.onnx": GRAPH + b"h",
}


@pytest.fixture(scope="module")
def server() -> Iterator[hub.Hub]:
    with hub.serving() as served:
        yield served


def source(url: str, token: str = "", rules: AddressRules = LOOPBACK) -> HuggingFaceSource:
    return HuggingFaceSource(Hub(GuardedHttp(rules, PATIENT), url, SecretStr(token) if token else None))


def look(server: hub.Hub, reference: str, token: str = "", **more: str) -> Found:
    said = Reference("huggingface", reference, **more)
    found = source(server.url, token)
    found.check(said)
    return found.find(said, Stopping())


def publish(server: hub.Hub, name: str, files: Mapping[str, bytes] = FILES, **more: Any) -> str:
    return server.publish(name, files, **{"card": {"license": "mit"}, "pipeline_tag": "feature-extraction", **more})


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
            assert (flow.offset, b"".join(flow)) == (100, b"11")


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
        assert b"".join(flow) == GRAPH
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
        ({"answers": [(500, {})]}, "", NetworkError, "answered 500"),
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


def test_nobody_elsewhere_answers_for_the_hub(server: hub.Hub) -> None:
    document = json.dumps({"id": "org/x", "sha": "0" * 40, "siblings": []})
    away = server.cdn.serve("/api/models/org/away", document.encode())
    publish(server, "org/away", answers=[(302, {"Location": away})])
    with pytest.raises(NetworkError, match="sends whoever asks for org/away elsewhere"):
        look(server, "org/away", server.token)
    assert "Authorization" not in server.cdn.asked[-1][1]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'{"siblings": 7}', b'{"id": "x", "siblings": [{}]}', b"[" * 100_000, b"\xff",
        b'{"id": "x", "siblings": []}', b'{"id": "x", "sha": "main", "siblings": [{"rfilename": "m.onnx"}]}',
    ],
)  # fmt: skip
def test_what_is_no_description_is_a_fault_of_the_hubs(body: bytes) -> None:
    def say(connection: Any, _: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with answering(say) as url, pytest.raises(NetworkError):
        source(url).find(Reference("huggingface", "org/name"), Stopping())


def test_a_description_without_end_is_not_read(server: hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(server, "org/endless")
    monkeypatch.setattr(asked_hub, "MAX_ANSWER_BYTES", 100)
    with pytest.raises(FileTooLarge, match=r"what .* says of org/endless has more than 100 bytes"):
        look(server, "org/endless")


def test_names_of_files_that_lead_elsewhere_are_left_out(server: hub.Hub) -> None:
    names = ("../up", "/etc/passwd", "a\\b", "a/../../b", "c\x00d", "esc\x1b[2J", "", "a//b", "./x", "l" * 600)
    siblings = [{"rfilename": name, "size": 1} for name in names]
    good = [{"rfilename": "onnx/model.onnx", "size": True, "lfs": {"sha256": "no digest", "size": -1}}]
    publish(server, "org/names", said={"siblings": siblings + good})
    found = look(server, "org/names")
    [file] = found.plan.files
    assert (file.path, file.size_bytes, file.sha256) == ("model.onnx", None, "")
    assert len([each for each in found.warnings if "is left out" in each]) == len(names)
    assert all(warning.isprintable() for warning in found.warnings)


def test_names_that_some_file_systems_mix_up_are_refused_before_anything_comes(server: hub.Hub) -> None:
    names = ("saved_model.pb", "variables/a", "variables/A")
    publish(server, "org/mixed", said={"siblings": [{"rfilename": name, "size": 1} for name in names]})
    with pytest.raises(DomainError, match="some file systems mix them up"):
        look(server, "org/mixed")


def test_a_model_of_too_many_files_is_refused(server: hub.Hub) -> None:
    names = ["saved_model.pb", *(f"variables/{number}" for number in range(1_000))]
    publish(server, "org/many", said={"siblings": [{"rfilename": name, "size": 1} for name in names]})
    with pytest.raises(FileTooLarge, match="1,001 files; 1,000 are allowed"):
        look(server, "org/many")


def test_texts_that_are_large_or_no_json_are_not_believed(server: hub.Hub) -> None:
    large = b" " * (1024 * 1024 + 1)
    publish(server, "org/texts", {**FILES, "config.json": large, "tokenizer_config.json": b"no", "modules.json": b"{}"})
    found = look(server, "org/texts")
    assert [warning.partition(" ")[0] for warning in found.warnings] == [
        "config.json", "modules.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert "config.json" in {file.path for file in found.plan.files}


def test_a_text_that_is_larger_than_the_hub_says_is_not_read(server: hub.Hub) -> None:
    publish(server, "org/liar", {**FILES, "config.json": b" " * (1024 * 1024 + 1)})
    files = [{"rfilename": path, "size": 10} for path in FILES]
    server.repositories["org/liar"].said = {"siblings": files}
    with pytest.raises(FileTooLarge, match=r"config\.json has more than"):
        look(server, "org/liar")


def test_a_card_that_the_library_would_stumble_over_hinders_nobody(server: hub.Hub) -> None:
    card = {"license": "mit", "model-index": [{"name": "x", "results": [{"source": {"name": "y"}}]}], "self": 1}
    publish(server, "org/card", card={**card, "ignore_metadata_errors": 1, "tags": 7, "language": {"a": "\ud800"}})
    server.repositories["org/card"].said = {"createdAt": "never", "safetensors": {"x": 1}, "tags": {"no": "list"}}
    assert look(server, "org/card").licence == "mit"


def test_nothing_is_asked_for_whoever_has_left(server: hub.Hub) -> None:
    def check() -> None:
        raise NetworkError("whoever asked has left")

    asked = len(server.asked)
    with pytest.raises(NetworkError, match="has left"):
        source(server.url).find(Reference("huggingface", "org/plain"), Stopping(check))
    assert len(server.asked) == asked


def test_a_hub_at_a_private_address_has_to_be_allowed_by_name(server: hub.Hub) -> None:
    with pytest.raises(Forbidden):
        source(server.url, rules=AddressRules()).check(Reference("huggingface", "org/name"))


@pytest.mark.slow
@pytest.mark.parametrize("loaded", [False, True], ids=["at-rest", "asked"])
def test_the_process_around_it_decides_nothing(server: hub.Hub, tmp_path: Path, loaded: bool) -> None:
    """Nor does who has no business with the Hub pay for its client: it takes long to import."""
    publish(server, "org/plain")
    asks = f"""
import sys
from services.fetcher.__main__ import build
from tests.unit.test_fetcher_huggingface import source, Reference, Stopping
if {loaded}:
    print(source({server.url!r}).find(Reference("huggingface", "org/plain"), Stopping()).licence)
print("huggingface_hub" in sys.modules)
"""
    around = {
        "HF_TOKEN": "hf_of-the-process", "HF_ENDPOINT": "https://127.0.0.1:1", "HF_HUB_OFFLINE": "1",
        "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "home"), "HTTP_PROXY": "http://127.0.0.1:1", "HF_DEBUG": "1",
    }  # fmt: skip
    asked = len(server.asked)
    done = subprocess.run(
        [sys.executable, "-c", asks], env={**os.environ, **around}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == (["mit", "True"] if loaded else ["False"])
    assert not any("Authorization" in headers for _, headers in server.asked[asked:])
    assert list(tmp_path.iterdir()) == []


def test_a_signed_url_that_has_run_out_is_asked_for_anew(server: hub.Hub) -> None:
    """A transfer of hours outlives the CDN's URLs: that the CDN refuses says nothing of what the Hub would give."""
    publish(server, "org/long")
    found = look(server, "org/long", server.token)
    with closing(KeptConnections()) as kept:
        for begin in (0, 100):
            with source(server.url, server.token).open(found.plan.files[0], begin, Stopping(kept=kept)) as flow:
                assert (flow.offset, b"".join(flow)) == (begin, GRAPH[begin:])
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


def test_a_hub_that_is_silent_is_let_go_of_as_soon_as_nobody_waits() -> None:
    callbacks: list[Callable[[], None]] = []

    def say(_: Any, head: str) -> None:
        assert head.startswith("GET /api/models/org/name?blobs=true ")
        while callbacks:
            callbacks.pop()()

    def forget(callback: Callable[[], None]) -> None:
        if callback in callbacks:
            callbacks.remove(callback)

    stopping = Stopping(on_stop=callbacks.append, forget=forget)
    with answering(say) as url, pytest.raises(NetworkError, match="nobody wants it any more"):
        source(url).find(Reference("huggingface", "org/name"), stopping)


def test_many_ask_at_once_each_for_itself(server: hub.Hub) -> None:
    """The Hub's client is one for the whole process, and its callers have Hubs and tokens of their own."""
    publish(server, "org/shared", private=True)

    def asks(number: int) -> str:
        try:
            return look(server, "org/shared", server.token if number % 2 else "").plan.revision
        except ModelNotFound:
            return "missing"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(asks, range(40)))
    assert set(answers[::2]) == {"missing"}
    assert set(answers[1::2]) == set(server.repositories["org/shared"].commits)
