"""Equal models measured against one another: who may be, what counts, who wins, and what is kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from penstock.api.inference.v1 import inference_pb2 as inference
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.cli.__main__ import run
from penstock.comparison import Score, check_comparable, compare, winner_of
from penstock.errors import InvalidArgument, Unavailable
from services.common import errors
from tests.cli_script import Script, answer, script

__all__ = ["answer", "script"]


def version(
    name: str, *, model: str = "sentences", group: str = "english", dimensions: int = 384
) -> registry.ModelVersion:
    metadata = registry.Metadata(equivalence_group=group, output_dimensions=dimensions)
    return registry.ModelVersion(model=model, version=name, metadata=metadata)


def score(name: str, *, answered: int = 10, failures: Mapping[str, int] | None = None, p95_ms: float = 1.0) -> Score:
    return Score("sentences", name, answered, failures or {}, 1.0, 1.0, p95_ms, 1.0)


@pytest.mark.parametrize(
    ("versions", "reason"),
    [
        ([version("1")], "TOO_FEW_VERSIONS"),
        ([version(str(number)) for number in range(17)], "TOO_MANY_VERSIONS"),
        ([version("1"), version("1")], "DUPLICATE_VERSION"),
        ([version("1"), version("2", group="german")], "NOT_EQUIVALENT"),
        ([version("1", group=""), version("2", group="")], "NOT_EQUIVALENT"),
        ([version("1"), version("2", dimensions=768)], "DIMENSIONS_DIFFER"),
    ],
)
def test_only_versions_that_can_stand_in_for_one_another_are_compared(
    versions: list[registry.ModelVersion], reason: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_comparable(versions)
    assert refused.value.reason == reason


def test_each_version_gets_each_input_equally_often_and_warming_up_does_not_count() -> None:
    asked: Counter[tuple[str, int]] = Counter()

    def predict(_model: str, name: str, features: Mapping[str, Any]) -> None:
        asked[name, features["x"]] += 1

    scores = compare(
        [version("1"), version("2")], [{"x": 0}, {"x": 1}], predict, requests=100, warm_up=2, concurrency=4
    )
    assert [(each.version, each.answered_count, each.failed_count) for each in scores] == [("1", 100, 0), ("2", 100, 0)]
    assert asked == {(name, value): 51 for name in ("1", "2") for value in (0, 1)}


def test_the_times_are_those_of_the_calls_that_were_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(value for seconds in (0.001, 0.002, 0.003, 0.004) * 2 for value in (0.0, seconds))
    monkeypatch.setattr("penstock.comparison.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("penstock.comparison.random.shuffle", lambda order: order.sort())
    first, second = compare([version("1"), version("2")], [{}], lambda *_: None, requests=4, warm_up=0)
    assert (first.average_ms, first.p50_ms) == pytest.approx((2.0, 2.0))
    assert (second.average_ms, second.p50_ms, second.p99_ms) == pytest.approx((3.0, 3.0, 4.0))


def test_failures_are_counted_by_their_reason_and_stop_nobody() -> None:
    def predict(_model: str, name: str, _features: Mapping[str, Any]) -> None:
        if name == "2":
            raise Unavailable("no", reason="OLLAMA_UNREACHABLE")

    first, second = compare([version("1"), version("2")], [{}], predict, requests=5)
    assert (first.answered_count, second.answered_count) == (5, 0)
    assert second.failures == {"OLLAMA_UNREACHABLE": 5}
    assert second.p95_ms != second.p95_ms  # NaN: nothing was answered
    assert winner_of([first, second]) is first


def test_the_winner_failed_least_and_then_is_the_quickest_for_19_of_20() -> None:
    slow, quick, failing = score("1", p95_ms=9), score("2", p95_ms=8), score("3", p95_ms=1, failures={"X": 1})
    assert winner_of([slow, quick, failing]) is quick
    assert winner_of([score("1", answered=0, failures={"X": 3})]) is None


def scripted(script: Script) -> None:
    script.answers["ResolveVersion"] = lambda request: registry.ResolveVersionResponse(
        version=version(request.selector, model=request.model)
    )
    script.answers["Predict"] = lambda request: (
        errors.ResourceExhausted("full", reason="QUEUE_FULL")
        if request.version == "2"
        else inference.PredictResponse(model=request.model, version=request.version)
    )


def test_bench_compare_asks_for_the_bench_and_past_the_cache_and_keeps_what_it_measured(
    script: Script, answer: Callable[..., Any], tmp_path: Path
) -> None:
    scripted(script)
    command = ["bench", "compare", "sentences:1", "sentences:2", "--input", '{"x": [1]}', "--requests", "3"]
    document = answer(*command, "--data-dir", str(tmp_path))
    assert document["group"] == "english"
    assert document["winner"] == {"model": "sentences", "version": "1"}
    assert [each["failures"] for each in document["scores"]] == [{}, {"QUEUE_FULL": 3}]
    asked = [each for each in script.asked if isinstance(each, inference.PredictRequest)]
    assert {(each.user_id, each.skip_cache) for each in asked} == {("penstock-bench", True)}
    assert answer("bench", "history", "--data-dir", str(tmp_path)) == [document]
    assert answer("bench", "history", "--group", "other", "--data-dir", str(tmp_path)) == []


def test_bench_compare_finds_the_ready_versions_of_a_group(
    script: Script, answer: Callable[..., Any], tmp_path: Path
) -> None:
    scripted(script)
    listed = [version("1"), version("1", model="german", group="german"), version("1", model="phrases")]
    script.answers["ListVersions"] = registry.ListVersionsResponse(versions=listed)
    document = answer(
        "bench", "compare", "--group", "english", "-i", '[{"x": 1}, {"x": 2}]', "-n", "2", "--data-dir", str(tmp_path)
    )
    assert [(each["model"], each["answered_count"]) for each in document["scores"]] == [
        ("sentences", 2),
        ("phrases", 2),
    ]


def test_the_table_names_the_winner_and_why_others_failed(
    script: Script, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    scripted(script)
    command = [
        "bench",
        "compare",
        "sentences:1",
        "sentences:2",
        "-i",
        '{"x": 1}',
        "-n",
        "2",
        "--data-dir",
        str(tmp_path),
    ]
    assert run(command) == 0
    rows = capsys.readouterr().out.splitlines()
    assert "winner" in rows[1]
    assert "QUEUE_FULL" in rows[2]


def test_a_history_that_was_cut_short_gives_what_is_whole(answer: Callable[..., Any], tmp_path: Path) -> None:
    kept = {"time": "2026-01-01T00:00:00+00:00", "group": "g", "concurrency": 1, "winner": None, "scores": []}
    (tmp_path / "bench.jsonl").write_text(json.dumps(kept) + '\n{"time": "2026-')
    assert answer("bench", "history", "--data-dir", str(tmp_path)) == [kept]


def test_different_groups_are_refused_before_anything_is_asked(
    script: Script, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script.answers["ResolveVersion"] = lambda request: registry.ResolveVersionResponse(
        version=version("1", model=request.model, group=request.model)
    )
    assert run(["bench", "compare", "a", "b", "-i", "{}", "--data-dir", str(tmp_path)]) == 1
    assert "[NOT_EQUIVALENT]" in capsys.readouterr().err
    assert not (tmp_path / "bench.jsonl").exists()
