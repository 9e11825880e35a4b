"""Reference profiles of arrays, rows and files: what goes over the wire."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from pyarrow import parquet

from penstock import Client, RetryPolicy
from penstock import errors as sdk
from penstock.api.monitoring.v1 import profiles_pb2 as pb
from penstock.profiles import Columns
from services.common import errors
from tests.sdk import ScriptedServer, answer, client_of, fail, scripted_server

QUICK = RetryPolicy(attempts=3, base_delay_s=0.001, max_delay_s=0.002)
AT = datetime(2026, 1, 1, tzinfo=UTC)


class Uploads:
    """Takes uploads, and keeps what came."""

    def __init__(self) -> None:
        self.header = pb.UploadProfileHeader()
        self.content = b""

    def __call__(self, requests: Any, context: grpc.ServicerContext) -> pb.UploadProfileResponse:
        self.header = next(requests).header
        self.content = b"".join(request.chunk for request in requests)
        return pb.UploadProfileResponse(profile=pb.Profile(model=self.header.model, row_count=3))

    def lines(self) -> list[Any]:
        """Read what came as JSON lines."""
        assert self.header.format == pb.ROW_FORMAT_JSONL
        return [json.loads(line) for line in self.content.splitlines()]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with client_of(server, retry=QUICK) as client:
        yield client


@pytest.fixture
def uploads(server: ScriptedServer) -> Uploads:
    uploads = Uploads()
    server.on("UploadProfile", uploads)
    return uploads


COLUMNS: dict[str, Any] = {
    "age": np.array([31.5, np.nan, 47.0]),
    "plan": np.array(["free", "team", "free"]),
    "member": [True, False, True],
    "vector": np.array([[0.5, 1.0], [0.25, 0.0], [1.0, 1.0]], np.float32),
}


def test_columns_become_parquet_with_their_types(client: Client, uploads: Uploads) -> None:
    columns = Columns(kinds={"plan": "categorical"}, predictions=["p"], ignored=["id"], label="y", group="user")
    profile = client.monitoring.profiles.create("iris", "1", COLUMNS, columns=columns, note="march")
    assert (profile.model, profile.row_count) == ("iris", 3)
    header = uploads.header
    assert (header.version, header.format, header.note) == ("1", pb.ROW_FORMAT_PARQUET, "march")
    assert header.sha256 == hashlib.sha256(uploads.content).hexdigest()
    assert dict(header.columns.kinds) == {"plan": pb.FEATURE_KIND_CATEGORICAL}
    assert (list(header.columns.predictions), header.columns.label, header.columns.group) == (["p"], "y", "user")
    table = parquet.read_table(io.BytesIO(uploads.content)).to_pydict()
    assert table["plan"] == ["free", "team", "free"]
    assert table["member"] == [True, False, True]
    assert table["vector"] == [[0.5, 1.0], [0.25, 0.0], [1.0, 1.0]]
    assert np.isnan(table["age"][1])


def test_without_pyarrow_columns_become_json_lines(
    client: Client, uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    client.monitoring.profiles.create("iris", "1", {name: COLUMNS[name] for name in ("plan", "member", "vector")})
    assert uploads.lines() == [
        {"plan": "free", "member": True, "vector": [0.5, 1.0]},
        {"plan": "team", "member": False, "vector": [0.25, 0.0]},
        {"plan": "free", "member": True, "vector": [1.0, 1.0]},
    ]


def test_a_column_of_several_types_becomes_json_lines(client: Client, uploads: Uploads) -> None:
    client.monitoring.profiles.create("iris", "1", {"mixed": np.array([1, "a", None], object)})
    assert uploads.lines() == [{"mixed": 1}, {"mixed": "a"}, {"mixed": None}]


def test_rows_and_structured_arrays_are_tables_too(client: Client, uploads: Uploads) -> None:
    client.monitoring.profiles.create("iris", "1", ({"x": np.float32(each), "n": [each]} for each in (1, 2)))
    assert uploads.lines() == [{"x": 1.0, "n": [1]}, {"x": 2.0, "n": [2]}]
    client.monitoring.profiles.create("iris", "1", np.array([(1, 2.5)], dtype=[("a", int), ("b", float)]))
    assert parquet.read_table(io.BytesIO(uploads.content)).to_pydict() == {"a": [1], "b": [2.5]}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"a": [1, 2], "b": [1]}, "a 2, b 1"),
        ({"a": 3.0}, "a no"),
        ({}, "lengths are: none"),
        (np.zeros((3, 2)), "without names"),
        ([[1, 2]], "a list came"),
        ([{"x": object()}], "a object can't be a value"),
    ],
)
def test_what_is_no_table_is_refused_before_anything_is_sent(
    server: ScriptedServer, client: Client, uploads: Uploads, rows: Any, words: str
) -> None:
    with pytest.raises(sdk.InvalidArgument, match=words) as caught:
        client.monitoring.profiles.create("iris", "1", rows)
    assert caught.value.reason == "MALFORMED_TABLE"
    assert server.calls["UploadProfile"] == []


def test_a_file_goes_as_it_is_with_progress(client: Client, uploads: Uploads, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"x\n1\n")
    told: list[tuple[int, int | None]] = []
    client.monitoring.profiles.create("iris", "1", tmp_path / "rows.csv", progress=lambda *each: told.append(each))
    assert uploads.content == b"x\n1\n"
    assert uploads.header.format == pb.ROW_FORMAT_CSV
    assert told == [(4, 4)]
    (tmp_path / "rows.txt").write_bytes(b"{}")
    with pytest.raises(sdk.InvalidArgument, match=r"rows\.txt does not say"):
        client.monitoring.profiles.create("iris", "1", tmp_path / "rows.txt")
    client.monitoring.profiles.create("iris", "1", tmp_path / "rows.txt", row_format="jsonl")
    assert uploads.header.format == pb.ROW_FORMAT_JSONL
    with pytest.raises(FileNotFoundError):
        client.monitoring.profiles.create("iris", "1", tmp_path / "none.csv")


def test_an_upload_is_sent_again_as_the_same_request_unless_it_was_refused(
    server: ScriptedServer, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_bytes(b"x\n1\n")
    came: list[tuple[str, bytes]] = []

    def fails_once(requests: Any, context: grpc.ServicerContext) -> pb.UploadProfileResponse:
        header = next(requests).header
        came.append((header.request_id, b"".join(request.chunk for request in requests)))
        if len(came) == 1:
            fail(errors.Unavailable("the database is gone"))(requests, context)
        return pb.UploadProfileResponse(profile=pb.Profile(id="p"))

    server.on("UploadProfile", fails_once)
    assert client.monitoring.profiles.create("iris", "1", tmp_path / "rows.csv").id == "p"
    assert came[0] == came[1]
    assert came[0][0]
    client.monitoring.profiles.create("iris", "1", tmp_path / "rows.csv", request_id="mine")
    assert came[2][0] == "mine"
    server.on("UploadProfile", fail(errors.InvalidArgument("too few", reason="TOO_FEW_ROWS")))
    calls = len(server.calls["UploadProfile"])
    with pytest.raises(sdk.InvalidArgument):
        client.monitoring.profiles.create("iris", "1", {"x": [1.0]})
    assert len(server.calls["UploadProfile"]) == calls + 1


def test_files_in_stores_and_windows_are_named_and_asked_for_once_more(server: ScriptedServer, client: Client) -> None:
    made = answer(pb.CreateProfileResponse(profile=pb.Profile(id="p")))
    server.on("CreateProfile", fail(errors.Unavailable("the database is gone")), made)
    profiles = client.monitoring.profiles
    assert profiles.create_from_uri("iris", "1", "s3://data/iris.parquet", sha256="ab").id == "p"
    first, again = server.calls["CreateProfile"]
    assert first == again  # its request_id too: no second profile
    assert first.file == pb.FileSource(uri="s3://data/iris.parquet", sha256="ab", format=pb.ROW_FORMAT_PARQUET)
    profiles.create_from_window("iris", "1", from_time=AT, to_time=AT + timedelta(days=7), request_id="mine")
    window = server.calls["CreateProfile"][-1]
    assert window.request_id == "mine"
    assert window.window.to_time.ToDatetime(tzinfo=UTC) == AT + timedelta(days=7)


def test_profiles_are_found_listed_and_attached(server: ScriptedServer, client: Client) -> None:
    server.on("GetProfile", answer(pb.GetProfileResponse(profile=pb.Profile(id="p"))))
    server.on("AttachProfile", answer(pb.AttachProfileResponse(profile=pb.Profile(attached_versions=["2"]))))
    page = [pb.Profile(number=each) for each in (2, 1)]
    server.on(
        "ListProfiles",
        answer(pb.ListProfilesResponse(profiles=page, next_page_token="more")),
        answer(pb.ListProfilesResponse(profiles=[pb.Profile(number=0)])),
    )
    profiles = client.monitoring.profiles
    assert profiles.get("p").id == "p"
    assert profiles.of_version("iris", "1").id == "p"
    assert [(each.id, each.model, each.version) for each in server.calls["GetProfile"]] == [
        ("p", "", ""),
        ("", "iris", "1"),
    ]
    assert profiles.attach("p", "2").attached_versions == ["2"]
    assert [each.number for each in profiles.list(model="iris")] == [2, 1, 0]
    assert [each.page_token for each in server.calls["ListProfiles"]] == ["", "more"]
