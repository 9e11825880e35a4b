"""How the command finds services and reads what people type."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer

from penstock.api.monitoring.v1.monitoring_pb2 import Inference, InferenceEvent
from penstock.api.registry.v1.registry_pb2 import STAGE_STAGING, ListModelsResponse, Model, ModelVersion
from penstock.cli.connection import Service, address_of, connect, data_dir, running_addresses, surroundings
from penstock.cli.documents import document_of
from penstock.cli.exits import CommandError, ExitCode
from penstock.cli.formats import (
    parse_names,
    parse_scalar,
    say_bytes,
    say_count,
    say_duration,
    say_iso,
    say_names,
    say_share,
)
from penstock.cli.output import Column, Output, printable
from penstock.cli.predict import parse_features, read_argument
from penstock.durations import parse_duration

RUNNING = {"registry": "127.0.0.1:3"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("PENSTOCK_REGISTRY_ADDRESS", "PENSTOCK_TOKEN", "PENSTOCK_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_flag_wins_over_environment_over_file_over_running_suite_over_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(url: str | None = None, running: dict[str, str] | None = None) -> str:
        return address_of(Service.REGISTRY, url, surroundings(), running or {})

    assert found() == "127.0.0.1:50051"
    assert found(running=RUNNING) == "127.0.0.1:3"
    (folder / ".env").write_text("PENSTOCK_REGISTRY_ADDRESS=file:2\n")
    assert found(running=RUNNING) == "file:2"
    monkeypatch.setenv("PENSTOCK_REGISTRY_ADDRESS", "environment:1")
    assert found(running=RUNNING) == "environment:1"
    assert found("flag:0", RUNNING) == "flag:0"


def test_an_empty_setting_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_REGISTRY_ADDRESS", "")
    monkeypatch.setenv("PENSTOCK_DATA_DIR", "")
    assert address_of(Service.REGISTRY, None, surroundings(), {}) == "127.0.0.1:50051"
    assert data_dir(None, surroundings()) == Path.home() / ".penstock"


def test_without_a_home_only_what_needs_a_folder_asks_for_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(CommandError, match="set PENSTOCK_DATA_DIR or HOME") as caught:
        data_dir(None, surroundings())
    assert caught.value.exit_code is ExitCode.USAGE
    assert running_addresses(surroundings()) == {}
    with connect(Service.REGISTRY, None, None) as client:
        assert client.registry is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45s", timedelta(seconds=45)),
        ("1h30m", timedelta(minutes=90)),
        ("0.5d", timedelta(hours=12)),
        ("2W", timedelta(weeks=2)),
    ],
)
def test_durations_are_read_as_people_write_them(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "10", "h", "-1h", "1y", "1h 5", "0s", "99999999w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no duration|out of range"):
        parse_duration(text)


def test_one_of_something_is_not_written_as_many() -> None:
    assert [say_count(count, "row") for count in (0, 1, 2, 1_200)] == ["0 rows", "1 row", "2 rows", "1,200 rows"]


def test_sizes_durations_and_shares_are_written_for_people() -> None:
    assert [say_bytes(size) for size in (0, 1023, 1024, 1_500_000, 2**40 * 3)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.4 MiB",
        "3.0 TiB",
    ]
    assert [say_duration(seconds) for seconds in (0.84, 42, 125, 3_600, 200_000)] == [
        "0.8s",
        "42s",
        "2m 5s",
        "1h 0m",
        "2d 7h",
    ]
    assert say_share(0.9667) == "96.67%"
    assert say_iso(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2026-01-02T03:04:05Z"


def test_a_document_keeps_field_names_numbers_and_iso_times() -> None:
    version = ModelVersion(model="iris", deployment_number=2**53 + 1, stage=STAGE_STAGING)
    version.create_time.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    version.metadata.fields["nested"] = {"rate": math.inf, "list": [1, None, True]}
    document = document_of(version)
    assert document["deployment_number"] == 2**53 + 1
    assert document["stage"] == "staging"
    assert document["create_time"] == "2026-01-02T00:00:00Z"
    assert document["failure_reason"] == ""
    assert document["files"] == []
    assert document["metadata"]["fields"] == {"nested": {"rate": "Infinity", "list": [1.0, None, True]}}
    assert "signature" not in document
    json.dumps(document, allow_nan=False)


def test_a_document_tells_unset_from_zero() -> None:
    assert "confidence" not in document_of(InferenceEvent())
    assert document_of(InferenceEvent(confidence=0))["confidence"] == 0
    inference = Inference(event=InferenceEvent(inference_id="a"))
    inference.outcomes.add().number_value = math.nan
    assert document_of(inference)["outcomes"] == ["NaN"]
    assert document_of(ListModelsResponse(models=[Model(name="iris")]))["models"][0]["name"] == "iris"


def test_features_come_as_an_object_or_as_rows() -> None:
    assert parse_features('{"X": [1, 2]}') == {"X": [1, 2]}
    assert parse_features('[{"a": 1, "b": "x"}, {"b": "y", "a": 2}]') == {"a": [1, 2], "b": ["x", "y"]}
    value = parse_features('{"a": [NaN, -Infinity]}')["a"]
    assert math.isnan(value[0])
    assert value[1] == -math.inf


@pytest.mark.parametrize("text", ["", "iris", "[1, 2]", "3", "[]", '[{"a": 1}, {"b": 2}]'])
def test_features_of_another_shape_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_features(text)


def test_features_are_read_from_a_file_after_an_at_sign(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_text('{"X": [1]}')
    assert read_argument(f"@{path}") == '{"X": [1]}'
    assert read_argument('{"X": [2]}') == '{"X": [2]}'


def test_features_that_are_no_text_are_refused_as_the_callers_fault(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\xff\xfe")
    with pytest.raises(typer.BadParameter, match="no text in UTF-8"):
        read_argument(f"@{tmp_path}/model.onnx")
    with pytest.raises(typer.BadParameter, match="no JSON"):
        parse_features("[" * 100_000)


def test_an_outcome_is_json_or_else_a_text() -> None:
    assert [parse_scalar(text) for text in ("1", "2.5", "true", '"1"', "setosa", "null", "[1]")] == [
        1,
        2.5,
        True,
        "1",
        "setosa",
        "null",
        "[1]",
    ]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[]", []),
        ("[debt]", ["debt"]),
        ("[age, income]", ["age", "income"]),
        ('["street, number",age]', ["street, number", "age"]),
        ("[X[0],X[1]]", ["X[0]", "X[1]"]),
    ],
)
def test_a_list_of_names_is_read_as_it_is_shown(text: str, names: list[str]) -> None:
    assert parse_names(text) == names
    assert parse_names(say_names(names)) == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("debt", r"no list: write \[debt\]"),
        ("[age,income", r"no list: write \[age,income\]"),
        ("[age,,income]", r"an empty name: write \[age,income\]"),
        ('["age,income]', "a quote that does not end"),
    ],
)
def test_a_malformed_list_is_refused_with_how_to_write_it(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_names(text)


def test_words_of_others_can_not_drive_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\x07") == "a [2Jb c "


def test_piped_tables_are_aligned_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False, no_color=False)
    long = "x" * 300
    output.answer([], output.table([Column("name"), Column("size", "right")], [(long, "1"), ("b", "22")], empty=""))
    assert capsys.readouterr().out.splitlines() == [
        "NAME" + " " * 298 + "SIZE",
        long + "  " + "   1",
        "b" + " " * 301 + "  22",
    ]
