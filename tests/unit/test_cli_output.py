"""What the command shows: tables that fit the terminal, sentences for errors, the suite going up and down."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.text import Text

from penstock.cli.__main__ import run
from penstock.cli.embedded.errors import AlreadyRunningError, EmbeddedError, StopRequestedError
from penstock.cli.embedded.folder import DataFolder, ProcessMark, State
from penstock.cli.embedded.supervisor import Event, EventKind
from penstock.cli.exits import ExitCode, failure_of
from penstock.cli.keys_file import KeysFileError
from penstock.cli.output import Column, Output, complain
from penstock.cli.suite_progress import SuiteProgress

ID = "01934a1e-7c00-7000-8000-000000000001"
COLUMNS = (
    Column("when"),
    Column("model", give="cut"),
    Column("latency", "right", optional=True),
    Column("user", give="cut", optional=True),
    Column("note", give="wrap"),
    Column("id"),
)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let rich believe in a terminal of 80 columns; tests set others."""
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return monkeypatch


def shown(capsys: pytest.CaptureFixture[str], *, note: str = "short", no_color: bool = True) -> list[str]:
    output = Output(as_json=False, no_color=no_color)
    row = ("12:00:00", "a-model-with-a-long-name", "1,234.00 ms", "somebody@example.org", note, ID)
    output.answer([], output.table(COLUMNS, [row, row], empty="nothing"))
    return [Text.from_ansi(line).plain.rstrip() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("width", [72, 80, 100, 120, 200])
def test_a_table_fits_and_keeps_its_ids_whole(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    terminal.setenv("COLUMNS", str(width))
    lines = shown(capsys)
    assert max(map(len, lines)) <= width
    assert all(line.endswith(ID) for line in lines[2:4])
    assert "12:00:00" in lines[2]


def test_a_narrow_terminal_leaves_optional_columns_out_the_last_first(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    headers, below = {}, {}
    for width in (72, 80, 140):
        terminal.setenv("COLUMNS", str(width))
        lines = shown(capsys)
        headers[width], below[width] = lines[0].split(), " ".join(lines[4:])
    assert headers[72] == ["when", "model", "note", "id"]
    assert below[72].startswith("no room here for: latency, user; a wider terminal")
    assert headers[80] == ["when", "model", "latency", "note", "id"]
    assert below[80].startswith("no room here for: user; a wider terminal")
    assert headers[140] == ["when", "model", "latency", "user", "note", "id"]
    assert below[140] == ""


def test_a_picture_goes_before_any_number_and_without_a_word(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = (Column("from"), Column("", optional=True), Column("p95"), Column("p99", optional=True))
    terminal.setenv("COLUMNS", "40")
    output = Output(as_json=False, no_color=True)
    output.answer([], output.table(columns, [("01-31 12:00", "█" * 12, "10.91 ms", "16.79 ms")], empty=""))
    lines = [Text.from_ansi(line).plain.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["from", "p95", "p99"]
    assert len(lines) == 3


def test_what_must_be_read_is_kept_and_optional_columns_go_instead(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = (
        Column("outcome", give="cut", least_width=20),
        Column("version", give="cut", optional=True),
        Column("id"),
    )
    terminal.setenv("COLUMNS", "56")
    output = Output(as_json=False, no_color=True)
    output.answer([], output.table(columns, [("MISSING_INPUT", "2.0.0-rc1", ID)], empty=""))
    row = Text.from_ansi(capsys.readouterr().out.splitlines()[2]).plain
    assert row.split() == ["MISSING_INPUT", ID]


def test_ids_are_shortened_before_any_column_goes_and_still_tell_rows_apart(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = (
        Column("check", give="id"),
        Column("model"),
        Column("effect", optional=True),
        Column("by", optional=True),
    )
    other = f"{ID[:18]}-9{ID[20:]}"
    rows = [(each, "a-model-with-a-long-name", "0.312", "somebody") for each in (ID, other)]

    def printed(width: int) -> list[list[str]]:
        terminal.setenv("COLUMNS", str(width))
        output = Output(as_json=False, no_color=True)
        output.answer([], output.table(columns, rows, empty=""))
        return [Text.from_ansi(line).plain.split() for line in capsys.readouterr().out.splitlines()]

    assert printed(120)[2][0] == ID
    narrow = printed(72)
    assert [row[0] for row in narrow[2:]] == [ID[:20], other[:20]]
    assert narrow[0] == ["check", "model", "effect", "by"]
    terminal.delenv("FORCE_COLOR")
    assert printed(72)[1][0] == ID


def test_a_word_wider_than_its_folded_column_goes_on_in_the_next_line(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = (Column("check"), Column("condition", give="wrap", least_width=24))
    word = "drift.prediction.effect_of_a_feature_with_a_long_name"
    output = Output(as_json=False, no_color=True)
    output.answer([], output.table(columns, [(ID, f"{word} > 0.2")], empty=""))
    printed = Text.from_ansi(capsys.readouterr().out).plain
    assert "…" not in printed
    assert word in "".join(line[len(ID) :].strip() for line in printed.splitlines()[2:])


@pytest.mark.parametrize("width", [80, 160])
def test_a_long_note_is_folded_and_never_cut(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    note = "the first version that beats the old rules on every one of the held-out weeks"
    terminal.setenv("COLUMNS", str(width))
    lines = shown(capsys, note=note)
    begin, end = lines[0].index("note"), lines[0].index("id")
    first = lines[2 : next(place for place in range(3, len(lines)) if lines[place].endswith(ID))]
    assert len(first) > 1
    assert " ".join(line[begin:end].strip() for line in first) == note
    assert max(map(len, lines)) <= width


def test_a_command_that_does_not_fit_stands_unbroken_on_a_line_of_its_own(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Output(as_json=False, no_color=True)
    watch, cancel, fetch = f"penstock fetch watch {ID}", f"penstock fetch cancel {ID}", f"penstock fetch get {'x' * 90}"
    output.note(f"it goes on; to see it again: {watch}; to end it: {cancel}")
    assert capsys.readouterr().err.splitlines() == [
        "it goes on; to see it again:", f"  {watch}", f"to end it: {cancel}",
    ]  # fmt: skip
    output.note(f"once the source has had its rest, `{fetch}` goes on with what is here")
    assert capsys.readouterr().err.splitlines() == [
        "once the source has had its rest,", f"  {fetch}", "goes on with what is here",
    ]  # fmt: skip
    complain(f"penstock: it went wrong: `{fetch}` shows it")
    assert f"  {fetch}\n" in capsys.readouterr().err


def test_colours_can_be_turned_off(terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*, no_color: bool) -> str:
        Output(as_json=False, no_color=no_color).say(Text("live", style="green"))
        return capsys.readouterr().out

    assert "\x1b[32m" in printed(no_color=False)
    assert "\x1b[" not in printed(no_color=True)
    terminal.setenv("NO_COLOR", "1")
    assert "\x1b[" not in printed(no_color=False)


def test_facts_stand_below_their_title_without_the_unknown_ones(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Output(as_json=False, no_color=True)
    output.say(output.facts("iris", [("stage", "staging"), ("task", ""), ("latest", Text("2"))]))
    lines = capsys.readouterr().out.splitlines()
    assert [Text.from_ansi(line).plain.rstrip() for line in lines] == [
        "iris",
        "  stage   staging",
        "  latest  2",
    ]


def test_a_transfer_shows_bytes_speed_and_time_left_on_a_terminal_only(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def transfer(*, as_json: bool) -> str:
        with Output(as_json=as_json, no_color=True).transfer("uploading iris.onnx") as bar:
            bar.reach(1024 * 1024, 4 * 1024 * 1024)
            bar.reach(4 * 1024 * 1024, 4 * 1024 * 1024)
        printed = capsys.readouterr()
        assert printed.out == ""
        return printed.err

    shown = transfer(as_json=False)
    assert "uploading iris.onnx" in shown
    assert "4.0/4.0 MiB" in shown
    assert transfer(as_json=True) == ""
    terminal.delenv("FORCE_COLOR")
    assert "uploading" not in transfer(as_json=False)


def test_times_are_short_on_a_terminal_and_whole_where_piped(terminal: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    output = Output(as_json=False, no_color=True)
    assert output.time(now) == now.astimezone().strftime("%H:%M:%S")
    assert output.time(now - timedelta(days=400)) == (now - timedelta(days=400)).astimezone().strftime("%Y-%m-%d %H:%M")
    assert output.time(None) == ""
    terminal.delenv("FORCE_COLOR")
    assert Output(as_json=False, no_color=True).time(now) == now.astimezone().strftime("%Y-%m-%d %H:%M:%S")


@pytest.mark.parametrize(
    ("error", "reason", "exit_code"),
    [
        (AlreadyRunningError(Path("data"), pid=1), "ALREADY_RUNNING", ExitCode.ALREADY_EXISTS),
        (StopRequestedError("Asked to stop."), "STOPPED", ExitCode.INTERRUPTED),
        (EmbeddedError("A port is taken."), "SUITE_FAILED", ExitCode.FAILED),
        (KeysFileError("It is broken"), "KEYS_FILE_BROKEN", ExitCode.FAILED),
        (FileNotFoundError(2, "No such file", "x.json"), "FILE_NOT_FOUND", ExitCode.NOT_FOUND),
        (PermissionError(13, "Permission denied", "x.json"), "FILE_NOT_PERMITTED", ExitCode.NOT_PERMITTED),
        (OSError("disk on fire"), "SYSTEM_ERROR", ExitCode.FAILED),
        (KeyError("x"), "INTERNAL", ExitCode.FAILED),
    ],
)
def test_every_error_has_a_reason_and_an_exit_code(error: Exception, reason: str, exit_code: ExitCode) -> None:
    failure = failure_of(error)
    assert (failure.reason, failure.exit_code) == (reason, exit_code)
    assert failure.sentence().endswith(f"[{reason}]")


def test_what_an_error_quotes_stands_below_its_sentence() -> None:
    failure = failure_of(EmbeddedError("registry keeps dying; its log ends with:\nImportError\nbye"))
    assert failure.sentence() == "penstock: registry keeps dying; its log ends with: [SUITE_FAILED]\nImportError\nbye"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataFolder:
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(tmp_path / "data"))
    return DataFolder(tmp_path / "data")


def test_where_nothing_runs_status_says_so_and_down_is_content(
    folder: DataFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["status", "--json"]) == 6
    assert json.loads(capsys.readouterr().out) == {
        "data_dir": str(folder.path),
        "running": False,
        "healthy": False,
        "services": [],
    }
    assert run(["down"]) == 0
    assert capsys.readouterr().out == f"nothing runs on {folder.path}\n"


@pytest.mark.parametrize("options", [[], ["--detach"]])
@pytest.mark.parametrize("port", ["", "many"])
def test_an_up_that_is_refused_leaves_no_folder_behind(
    options: list[str],
    port: str,
    folder: DataFolder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for service in ("INFERENCE", "MONITORING", "JOBS", "FETCHER", "TRAINER"):  # a suite may run on the usual ports
        monkeypatch.setenv(f"PENSTOCK_{service}_PORT", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("PENSTOCK_REGISTRY_PORT", port or str(taken.getsockname()[1]))
        assert run(["up", *options]) == 1
    assert "PENSTOCK_REGISTRY_PORT" in capsys.readouterr().err
    assert not folder.path.exists()


def test_status_tells_the_dead_and_the_deaf_from_the_healthy(
    folder: DataFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    ourselves = ProcessMark.of(os.getpid())
    assert ourselves is not None
    folder.path.mkdir()
    folder.write_state(
        State(
            supervisor=ourselves,
            started_time="2026-01-01T00:00:00+00:00",
            addresses={"registry": "127.0.0.1:1", "inference": "127.0.0.1:2"},
            metrics_addresses={"registry": "127.0.0.1:3", "inference": "127.0.0.1:4"},
            children={"postgres": ourselves, "registry": ourselves, "inference": ProcessMark(2**22, 0.0)},
            restarts={"inference": 2},
        )
    )
    assert run(["status", "--json"]) == 6
    document = json.loads(capsys.readouterr().out)
    assert document["running"]
    assert not document["healthy"]
    assert {service["name"]: service["state"] for service in document["services"]} == {
        "postgres": "healthy",
        "registry": "not healthy",
        "inference": "dead",
    }
    assert run(["status"]) == 6
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("inference"))
    assert row.split() == ["inference", "dead", "127.0.0.1:2", "127.0.0.1:4", "2"]


@pytest.mark.parametrize("command", ["up", "down", "status"])
def test_without_the_services_each_is_one_clear_sentence(
    command: str, folder: DataFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert run([command]) == 1
    printed = capsys.readouterr().err
    assert "only the SDK" in printed
    assert printed.count("\n") == 1


def test_notes_that_nobody_reads_end_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    broken = os.fdopen(writing, "w")
    monkeypatch.setattr("sys.stderr", broken)
    output = Output(as_json=False, no_color=True)
    output.note("registry: died, starting again")
    output.note("registry: starting")
    with suppress(BrokenPipeError):  # what is buffered has nowhere to go
        broken.close()


def test_piped_each_part_tells_a_line_when_something_happens(capsys: pytest.CaptureFixture[str]) -> None:
    progress = SuiteProgress(Output(as_json=False, no_color=True))
    with progress.starting():
        progress.see(Event(EventKind.STARTED, "postgres", 1))
        progress.see(Event(EventKind.HEALTHY, "postgres", 1))
        progress.see(Event(EventKind.DIED, "registry", 2, -9))
    with progress.stopping():
        progress.see(Event(EventKind.KILLED, "postgres", 1))
    assert capsys.readouterr().err.splitlines() == [
        "postgres: starting",
        "postgres: healthy after 0.0s",
        "registry: died, starting again (exit status -9)",
        "postgres: did not stop in time, killed after 0.0s",
    ]


def test_on_a_terminal_the_parts_stand_with_check_marks(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = SuiteProgress(Output(as_json=False, no_color=True))
    with progress.starting():
        progress.see(Event(EventKind.STARTED, "postgres", 1))
        progress.see(Event(EventKind.HEALTHY, "postgres", 1))
    started = capsys.readouterr().err
    assert "✔ postgres   healthy" in Text.from_ansi(started).plain
    assert "· registry   waits" in Text.from_ansi(started).plain
    progress.see(Event(EventKind.DIED, "postgres", 1, 1))
    assert "postgres: died, starting again (exit status 1)" in capsys.readouterr().err
    with progress.stopping():
        progress.see(Event(EventKind.STOPPING, "postgres", 1))
        progress.see(Event(EventKind.STOPPED, "postgres", 1))
    assert "✔ postgres stopped" in Text.from_ansi(capsys.readouterr().err).plain
