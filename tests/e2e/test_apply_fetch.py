"""`penstock apply` with models that are fetched: a real registry, fetcher and HTTP server, through the command."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.cli.__main__ import run
from penstock.errors import NotFound
from penstock.fetcher import FetcherClient
from tests import hub
from tests.fetching import Place, fetching
from tests.postgres import PostgresServer
from tests.registry import DEADLINE_S
from tests.testdata import bundles, models

pytestmark = pytest.mark.slow
Apply = Callable[..., str]


@pytest.fixture(scope="module")
def the_hub() -> Iterator[hub.Hub]:
    with hub.serving() as served:
        yield served


@pytest.fixture(scope="module")
def everywhere(
    the_hub: hub.Hub, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    with fetching(postgres_server, tmp_path_factory.mktemp("fetcher"), fetcher_hf_endpoint=the_hub.url) as running:
        yield running


@pytest.fixture
def place(everywhere: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Place:
    for name, address in everywhere.addresses.items():
        monkeypatch.setenv(name, address)
    monkeypatch.delenv("PENSTOCK_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    return everywhere


@pytest.fixture
def apply(place: Place, capsys: pytest.CaptureFixture[str]) -> Apply:
    """Write a suite file and apply it; gives what is said, on stderr where it must fail."""

    def apply(suite: str, *arguments: str, exit_code: int = 0) -> str:
        Path("suite.yaml").write_text(suite)
        capsys.readouterr()
        ended = run(["apply", "-f", "suite.yaml", "--approver", "ada", *arguments])
        printed = capsys.readouterr()
        assert ended == exit_code, printed
        return printed.err if exit_code else printed.out

    return apply


def suite_of(name: str, url: str, source: str = "", version: str = "") -> str:
    return (
        f"suite: fetched\nmodels:\n  - name: {name}\n    versions:\n      - version: v1\n"
        f"        source: {{fetch: url, reference: {url}{source}}}\n{version}"
    )


def test_a_fetched_version_gets_all_that_the_file_says_and_then_there_is_nothing_to_do(
    place: Place, apply: Apply
) -> None:
    content = models.classifier()
    url = place.origin.serve("/whole.onnx", content)
    Path("own.onnx").write_bytes(models.classifier())
    suite = suite_of(
        "whole",
        url,
        version=(
            "        description: fetched\n        labels: {team: growth}\n"
            "        metadata: {task_type: classification}\n"
            "        serving_settings: {max_in_flight: 7}\n        stage: production\n        note: the first\n"
            "      - version: own\n        source: {path: own.onnx}\n"
        ),
    )
    shown = apply(suite, "--dry-run")
    assert f"fetch version v1  url {url}: 1 file, {len(content)} B to fetch" in shown
    with pytest.raises(NotFound):
        place.client.registry.get_model("whole")
    printed = apply(suite, "--yes")
    assert "✔ fetch version whole v1" in printed
    version = place.client.registry.get_version("whole", "v1")
    assert (version.stage, version.description, dict(version.labels)) == (
        registry.STAGE_PRODUCTION,
        "fetched",
        {"team": "growth"},
    )
    assert (version.metadata.task_type, version.serving_settings.max_in_flight) == ("classification", 7)
    assert (version.source.origin, version.source.reference) == ("url", url)
    asked, jobs = len(place.origin.asked), list(place.client.fetcher.list(model="whole"))
    assert apply(suite, "--yes").startswith("nothing to do")
    assert (len(place.origin.asked), list(place.client.fetcher.list(model="whole"))) == (asked, jobs)


def test_another_spelling_of_the_reference_is_the_same_version(place: Place, apply: Apply) -> None:
    folder = place.root / "spelled"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(models.classifier())
    suite = (
        "suite: fetched\nmodels:\n  - name: spelled\n    versions:\n      - version: v1\n"
        "        source: {{fetch: filesystem, reference: '{}'}}\n"
    )
    assert "✔ fetch version spelled v1" in apply(suite.format(folder), "--yes")
    assert apply(suite.format(f"file://{place.root}/./spelled"), "--yes").startswith("nothing to do")


def test_a_fetch_that_is_under_way_is_waited_for_and_none_is_begun_beside_it(
    place: Place, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, watch = threading.Event(), FetcherClient.watch
    url = place.origin.serve("/slow.onnx", models.classifier(), hold=lambda _: bool(held.wait(DEADLINE_S)))
    first = place.client.fetcher.start("url", url, model="slow", version="v1")

    def let_go(client: FetcherClient, job_id: str) -> object:
        held.set()
        return watch(client, job_id)

    monkeypatch.setattr(FetcherClient, "watch", let_go)
    printed = apply(suite_of("slow", url, version="        description: of two\n"), "--yes")
    assert "✔ fetch version slow v1" in printed
    assert [job.id for job in place.client.fetcher.list(model="slow")] == [first.id]
    version = place.client.registry.get_version("slow", "v1")
    assert version.description == "of two", "which that fetch was not told"


def test_who_stops_waiting_ends_no_fetch_and_waits_for_the_same_one_the_next_time(
    place: Place, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suite_of("left", place.origin.serve("/left.onnx", models.classifier()))
    with monkeypatch.context() as patched:
        patched.setattr(FetcherClient, "watch", _interrupted)
        said = apply(suite, "--yes", exit_code=130)
    (job,) = place.client.fetcher.list(model="left")
    assert f"to end it: penstock fetch cancel {job.id}" in " ".join(said.split())
    assert "run it again to go on from here" in said
    place.end(job)
    apply(suite, "--yes")
    assert [each.id for each in place.client.fetcher.list(model="left")] == [job.id]


def _interrupted(*_: object) -> object:
    raise KeyboardInterrupt


def test_a_variant_of_the_hub_is_shown_with_its_licence_and_is_not_taken_for_another(
    place: Place, apply: Apply, the_hub: hub.Hub
) -> None:
    graphs = {"onnx/model_fp16.onnx": bundles.mean_of_table(len(bundles.WORDS), length="long")}
    files = {**bundles.bundle(graph="onnx/model.onnx"), **graphs}
    the_hub.publish("org/tiny", files, card={"license": "cc-by-nc-4.0"}, tags=["license:cc-by-nc-4.0"])
    suite = suite_of("tiny", "org/tiny", ", variant: fp16").replace("fetch: url", "fetch: huggingface")
    shown = apply(suite, "--dry-run")
    assert "huggingface org/tiny fp16: 4 files, " in shown
    assert "cc-by-nc-4.0" in shown
    assert "! tiny v1: " in shown, "a licence with conditions"
    apply(suite, "--yes")
    version = place.client.registry.get_version("tiny", "v1")
    assert "onnx/model_fp16.onnx" in {file.path for file in version.files}
    the_hub.publish("org/tiny", files | {"notes.txt": b"a commit later"})
    assert apply(suite, "--yes").startswith("nothing to do"), "a branch that moved on is no other version"
    said = apply(suite.replace(", variant: fp16", ""), "--yes", exit_code=2)
    assert "tiny v1 is registered, and is the variant fp16, and not default" in said


def _exists(place: Place, model: str) -> bool:
    try:
        place.client.registry.get_model(model)
    except NotFound:
        return False
    return True


def test_a_fetch_that_failed_says_why_and_what_helps_and_the_next_apply_tries_the_same_job_again(
    place: Place, apply: Apply
) -> None:
    url = place.origin.serve("/unready.onnx", b"this is no graph")
    other = place.origin.serve("/well.onnx", models.classifier())
    suite = suite_of("unready", url) + suite_of("well", other).partition("models:\n")[2]
    said = apply(suite, "--yes", exit_code=1)
    assert "REGISTRATION_REFUSED" in said
    assert "apply again" in said
    assert place.client.registry.get_version("well", "v1").state == registry.VERSION_STATE_READY, "the other goes on"
    (job,) = place.client.fetcher.list(model="unready")
    place.origin.serve("/unready.onnx", models.classifier(), etag='"mended"')
    apply(suite, "--yes")
    assert [each.id for each in place.client.fetcher.list(model="unready")] == [job.id]
    assert place.client.registry.get_version("unready", "v1").state == registry.VERSION_STATE_READY


def test_a_model_that_was_deleted_is_restored_rather_than_fetched_anew(place: Place, apply: Apply) -> None:
    suite = suite_of("again", place.origin.serve("/again.onnx", models.classifier()))
    apply(suite, "--yes")
    place.client.registry.delete_model("again", force=True)
    assert "penstock model restore again" in apply(suite, "--yes", exit_code=2)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda suite: suite.replace("fixed.onnx", "other.onnx"), "was made of url http"),
        (lambda suite: suite.replace("onnx}", f"onnx, sha256: {'a' * 64}}}"), "holds other bytes: sha256 "),
        (lambda suite: suite + "        framework: tensorflow\n", "is onnx"),
        (lambda suite: suite + "        metadata: {task_type: regression}\n", "has other metadata"),
    ],
)
def test_what_is_registered_and_is_another_stops_everything(
    place: Place, apply: Apply, change: Callable[[str], str], sentence: str
) -> None:
    suite = suite_of("fixed", place.origin.serve("/fixed.onnx", models.classifier()))
    apply(suite, "--yes")
    said = apply(change(suite), "--yes", exit_code=2)
    assert f"suite.yaml:5: fixed v1 is registered, and {sentence}" in said
    assert "a version never changes" in said


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("{fetch: url, reference: https://10.0.0.7/m.onnx}", "PENSTOCK_FETCHER_ALLOWED_HOSTS"),
        ("{fetch: filesystem, reference: /etc/passwd}", "PENSTOCK_FETCHER_ROOTS"),
        ("{fetch: url, reference: MISSING}", "answered 404"),
        ("{fetch: ulr, reference: https://example.org/m.onnx}", "did you mean url?"),
        ("{fetch: url, reference: https://example.org/m.onnx, revision: main}", "a URL has none"),
    ],
)
def test_what_can_not_be_fetched_is_named_with_its_line_and_nothing_is_changed(
    place: Place, apply: Apply, source: str, sentence: str
) -> None:
    source = source.replace("MISSING", f"{place.origin.url}/missing.onnx")
    suite = suite_of("refused", "x").replace("{fetch: url, reference: x}", source)
    for arguments in (["--dry-run"], ["--yes"]):
        said = apply(suite, *arguments, exit_code=2)
        assert "suite.yaml:5: " in said
        assert sentence in said
    assert not _exists(place, "refused")


def test_a_source_that_is_away_for_now_is_left_to_the_job(
    place: Place, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, start = place.origin.serve("/busy.onnx", models.classifier(), failures=[(503, {})] * 100), FetcherClient.start

    def come_back(client: FetcherClient, source: str, reference: str, **more: Any) -> object:
        place.origin.files["/busy.onnx"].failures.clear()
        return start(client, source, reference, **more)

    monkeypatch.setattr(FetcherClient, "start", come_back)
    printed = apply(suite_of("busy", url), "--yes")
    assert "size unknown, since " in printed
    assert "✔ fetch version busy v1" in printed


def test_a_suite_whose_versions_are_there_needs_no_fetcher(
    place: Place, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suite_of("there", place.origin.serve("/there.onnx", models.classifier()))
    apply(suite, "--yes")
    monkeypatch.setenv("PENSTOCK_FETCHER_ADDRESS", "127.0.0.1:1")
    assert apply(suite).startswith("nothing to do")
