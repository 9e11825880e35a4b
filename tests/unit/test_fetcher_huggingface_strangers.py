"""What a stranger's repository, a Hub out of order and the process around it cannot do to a fetcher: descriptions,
names, cards and texts that are wrong, large or hostile. A stand-in of the Hub, asked by the real client.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api.registry.v1 import registry_pb2 as registry
from services.common.addresses import AddressRules
from services.common.errors import DomainError
from services.fetcher.downloading.lacking import identity_of
from services.fetcher.faults import FileTooLarge, Forbidden, ModelNotFound, NetworkError, RegistrationRefused
from services.fetcher.models import Reference
from services.fetcher.sources import http_files
from services.fetcher.sources import hub as asked_hub
from services.fetcher.sources.hub import CARD
from services.fetcher.sources.source import Stopping
from tests import hub
from tests.hub import FILES, look, publish, source
from tests.origins import answering


@pytest.fixture(scope="module")
def server() -> Iterator[hub.Hub]:
    with hub.serving() as served:
        yield served


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


def test_a_description_that_drips_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come faster than the floor of speed, and take hours all the same."""
    monkeypatch.setattr(http_files, "MOST_TEXT_S", 0.05)
    left = threading.Event()

    def drip(connection: Any, _: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        with suppress(OSError):
            while not left.wait(0.01):
                connection.sendall(b" ")

    with answering(drip) as url:
        try:
            with pytest.raises(NetworkError):
                source(url).find(Reference("huggingface", "org/name"), Stopping())
        finally:
            left.set()


def test_of_too_many_files_none_is_looked_at(server: hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(server, "org/crowd")
    monkeypatch.setattr(asked_hub, "MAX_SIBLINGS", len(FILES) - 1)
    with pytest.raises(FileTooLarge, match=rf"has {len(FILES)} files; {len(FILES) - 1} are looked at"):
        look(server, "org/crowd")


def test_a_description_of_very_many_values_is_not_read(server: hub.Hub) -> None:
    publish(server, "org/values", said={"config": [[] for _ in range(asked_hub.MAX_VALUES)]})
    with pytest.raises(FileTooLarge, match="more than 200,000 values"):
        look(server, "org/values")


def test_what_is_not_fetched_costs_no_url(server: hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [{"rfilename": f"other/{number}.txt", "size": 1} for number in range(1_000)]
    publish(server, "org/large", said={"siblings": [{"rfilename": "onnx/model.onnx", "size": 9}, *others]})
    described: list[str] = []
    url = asked_hub.Hub.url

    def noted(self: asked_hub.Hub, repository: str, commit: str, path: str) -> str:
        described.append(path)
        return url(self, repository, commit, path)

    monkeypatch.setattr(asked_hub.Hub, "url", noted)
    assert [file.path for file in look(server, "org/large").plan.files] == ["model.onnx"]
    assert described == ["onnx/model.onnx"]


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_paths = st.sampled_from([*FILES, "modules.json", "a/b", "onnx", "1_Pooling/config.json"])
_large = st.fixed_dictionaries({}, optional={"sha256": _anything | st.just("0" * 64), "size": _anything})
_siblings = st.lists(
    st.fixed_dictionaries(
        {"rfilename": _paths | _anything},
        optional={"size": st.just(5) | _anything, "blobId": _anything, "lfs": _large | _anything},
    )
    | _anything,
    max_size=8,
)
_descriptions = st.fixed_dictionaries(
    {"siblings": _siblings | _anything},
    optional={
        "id": _anything, "sha": _anything, "gated": _anything, "pipeline_tag": _anything, "library_name": _anything,
        "tags": _anything, "private": _anything, "disabled": _anything,
        "cardData": _anything | st.dictionaries(st.sampled_from([*CARD, "model-index", "tags"]), _anything, max_size=3),
    },
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(_descriptions)
def test_whatever_a_hub_says_is_a_plan_or_a_fault(server: hub.Hub, said: dict[str, Any]) -> None:
    publish(server, "org/anything", said=said)
    try:
        found = look(server, "org/anything")
    except DomainError:
        return
    for file in found.plan.files:
        assert identity_of(source(server.url), file)
    kept = json.dumps(found.plan.columns())
    assert "\\u0000" not in kept, "PostgreSQL keeps no such text"
    kept.encode().decode("unicode_escape").encode("utf-16", "surrogatepass").decode("utf-16")
    ParseDict(dict(found.plan.metadata), registry.Metadata())


@pytest.mark.parametrize("said", [{"sha": 5}, {"sha": ["0" * 40]}, {"sha": None}])
def test_a_commit_that_is_none_is_a_fault_of_the_hubs(server: hub.Hub, said: dict[str, Any]) -> None:
    publish(server, "org/commit", said=said)
    with pytest.raises(NetworkError, match="names no commit"):
        look(server, "org/commit")


@pytest.mark.parametrize("blob_id", ["\ud800", "a\x00", 5, ["x"], None])
def test_an_id_of_bytes_that_is_none_is_not_believed(server: hub.Hub, blob_id: object) -> None:
    siblings = [{"rfilename": "model.onnx", "size": 1, "blobId": blob_id}]
    commit = publish(server, "org/blob", said={"siblings": siblings})
    assert look(server, "org/blob").plan.files[0].tag == f"{commit}-model.onnx"


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
    for mixed in (("variables/a", "variables/A"), ("assets/Words/a", "assets/words/b")):
        names = ("saved_model.pb", *mixed)
        publish(server, "org/mixed", said={"siblings": [{"rfilename": name, "size": 1} for name in names]})
        with pytest.raises(RegistrationRefused, match="some file systems mix them up"):
            look(server, "org/mixed")


def test_names_that_are_left_out_hide_no_other_warning(server: hub.Hub) -> None:
    siblings = [{"rfilename": name, "size": 1} for name in ("onnx/model.onnx", *(f"../{n}" for n in range(60)))]
    publish(server, "org/hidden", said={"siblings": siblings, "cardData": {}, "tags": []})
    warnings = look(server, "org/hidden").warnings
    assert len(warnings) == 50
    assert any("names no licence" in warning for warning in warnings)


def test_a_model_of_too_many_files_is_refused(server: hub.Hub) -> None:
    names = ["saved_model.pb", *(f"variables/{number}" for number in range(1_000))]
    publish(server, "org/many", said={"siblings": [{"rfilename": name, "size": 1} for name in names]})
    with pytest.raises(FileTooLarge, match="1,001 files; 1,000 are allowed"):
        look(server, "org/many")


def test_texts_that_are_large_or_no_json_are_not_believed(server: hub.Hub) -> None:
    large = b" " * (1024 * 1024 + 1)
    files = {**FILES, "config.json": large, "tokenizer_config.json": b"no", "modules.json": b"{}"}
    publish(server, "org/texts", files, pipeline_tag="text-ranking")
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
from tests.hub import source, Reference, Stopping
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
