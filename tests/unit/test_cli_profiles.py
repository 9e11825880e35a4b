"""`penstock profile`: what it sends, and how a profile looks."""

from __future__ import annotations

import json
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.text import Text

from penstock.api.monitoring.v1 import profiles_pb2 as pb
from penstock.cli.__main__ import run
from penstock.cli.exits import ExitCode
from services.common import errors
from tests.monitoring_answers import ID, profile, server, terminal
from tests.sdk import ScriptedServer, answer, fail

__all__ = ["server", "terminal"]


def said(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> str:
    assert run(["profile", *arguments]) == exit_code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_a_file_is_sent_with_what_its_columns_are(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    came: list[Any] = []

    def take(requests: Any, context: grpc.ServicerContext) -> pb.UploadProfileResponse:
        came.extend(requests)
        return pb.UploadProfileResponse(profile=profile())

    server.on("UploadProfile", take)
    file = tmp_path / "rows.csv"
    file.write_text("petal_length,colour\n1,blue\n")
    text = said(
        capsys, "create", "iris", "2.0.0", "--file", str(file), "--prediction", "species", "--label", "truth",
        "--group", "user", "--ignore", "id", "--ignore", "at", "--kind", "code=categorical", "--note", "why",
    )  # fmt: skip
    header = came[0].header
    assert (header.model, header.version, header.format, header.note) == ("iris", "2.0.0", pb.ROW_FORMAT_CSV, "why")
    assert list(header.columns.ignored) == ["id", "at"]
    assert (header.columns.label, header.columns.group) == ("truth", "user")
    assert dict(header.columns.kinds) == {"code": pb.FEATURE_KIND_CATEGORICAL}
    assert came[1].chunk == file.read_bytes()
    assert "penstock drift check iris" in text
    assert "petal_length" in text


def test_a_window_or_a_uri_makes_one_too(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("CreateProfile", answer(pb.CreateProfileResponse(profile=profile())))
    said(capsys, "create", "iris", "2.0.0", "--window", "7d")
    said(capsys, "create", "iris", "2.0.0", "--from", "2026-01-01T00:00+00:00", "--until", "2026-01-02T00:00+00:00")
    said(capsys, "create", "iris", "2.0.0", "--uri", "s3://data/rows.parquet", "--sha256", "ab" * 32)
    week, day, file = server.calls["CreateProfile"]

    def length(request: pb.CreateProfileRequest) -> timedelta:
        ends = request.window.from_time.ToDatetime(tzinfo=UTC), request.window.to_time.ToDatetime(tzinfo=UTC)
        return ends[1] - ends[0]

    assert (length(week), length(day)) == (timedelta(days=7), timedelta(days=1))
    assert (file.file.uri, file.file.format) == ("s3://data/rows.parquet", pb.ROW_FORMAT_PARQUET)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give one of --file"),
        (("--window", "1d", "--uri", "s3://a/b.csv"), "give one of --file"),
        (("--window", "1d", "--from", "2d"), "not both"),
        (("--uri", "s3://a/b.csv"), "needs --sha256"),
        (("--window", "1d", "--kind", "age"), "NAME=VALUE"),
        (("--window", "soon"), "is no duration"),
    ],
)
def test_a_wrong_command_line_says_what_is_right(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    text = " ".join(said(capsys, "create", "iris", "1", *arguments, exit_code=2).replace("│", " ").split())
    assert words in text
    assert not server.calls


def test_a_profile_shows_its_features_as_pictures(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("GetProfile", answer(pb.GetProfileResponse(profile=profile())))
    text = said(capsys, "show", "iris", "2.0.0")
    for word in ("2.0.0, 2.0.1", "10,000", "96.00% of 10,000 rows", "by ada", "blue 61%, white 35%", "384 dimensions"):
        assert word in text
    assert "██████████" in text  # ten equal bins
    said(capsys, "show", f"{ID}2")
    assert [request.id for request in server.calls["GetProfile"]] == ["", f"{ID}2"]
    assert "a profile's id, or MODEL and VERSION" in " ".join(said(capsys, "show", "iris", exit_code=2).split())


@pytest.mark.parametrize("width", [80, 140])
def test_a_profile_fits_the_terminal(
    server: ScriptedServer, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    terminal.setenv("COLUMNS", str(width))
    server.on("GetProfile", answer(pb.GetProfileResponse(profile=profile())))
    lines = Text.from_ansi(said(capsys, "show", "iris", "2.0.0")).plain.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width


def test_profiles_are_listed_and_attached(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("ListProfiles", answer(pb.ListProfilesResponse(profiles=[profile()])))
    assert "2.0.0, 2.0.1" in said(capsys, "list", "iris")
    assert [each["number"] for each in json.loads(said(capsys, "list", "--json"))] == [3]
    server.on("ListProfiles", answer(pb.ListProfilesResponse()))
    assert "penstock profile create" in said(capsys, "list")
    server.on("AttachProfile", answer(pb.AttachProfileResponse(profile=profile())))
    assert "iris 2.0.1 is compared with profile 3" in said(capsys, "attach", f"{ID}2", "2.0.1")


def test_what_the_service_refuses_is_said(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("CreateProfile", fail(errors.InvalidArgument("12 rows; 50 are the least", reason="TOO_FEW_ROWS")))
    assert "[TOO_FEW_ROWS]" in said(capsys, "create", "iris", "1", "--window", "1h", exit_code=1)
    server.on("GetProfile", fail(errors.NotFound("there is none", reason="PROFILE_NOT_FOUND")))
    said(capsys, "show", "iris", "1", exit_code=ExitCode.NOT_FOUND)


def test_what_is_odd_about_a_profile_is_said_beside_it(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = profile()
    odd.warnings.append("nothing will be compared with a, b of iris's profile; call ListModels")
    server.on("CreateProfile", answer(pb.CreateProfileResponse(profile=odd)))
    server.on("AttachProfile", answer(pb.AttachProfileResponse(profile=odd)))
    warning = "warning: nothing will be compared with a, b of iris's profile; run `penstock model list`\n"
    for arguments in (("create", "iris", "2.0.0", "--window", "7d"), ("attach", f"{ID}2", "2.0.1")):
        assert run(["profile", *arguments]) == 0
        captured = capsys.readouterr()
        assert warning in captured.err
        assert "nothing will be" not in captured.out
    assert json.loads(said(capsys, "create", "iris", "2.0.0", "--window", "7d", "--json"))["warnings"]


def test_the_help_of_a_profiles_window_speaks_of_no_default_that_there_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["profile", "create", "--help"]) == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Live traffic of so long" in words
    assert "as configured" not in words
