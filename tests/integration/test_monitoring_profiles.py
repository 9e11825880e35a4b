"""Profiles over gRPC: made of files and of live traffic, frozen, numbered, attached."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from minio import Minio
from pyarrow import parquet
from sklearn.datasets import load_iris

from penstock.api.monitoring.v1 import profiles_pb2 as pb
from services.monitoring.profiles.profiles import MAX_MAKING
from tests.monitoring import TIMEOUT_S, eventually, new_event, reason
from tests.profiles import (
    NAMES,
    CloneDatabase,
    Service,
    bins_of,
    fields,
    iris_columns,
    iris_csv,
    iris_events,
    serving,
    tensors,
)
from tests.s3 import s3_server

INVALID = grpc.StatusCode.INVALID_ARGUMENT
IRIS = load_iris()


@pytest.fixture
def service(clone_database: CloneDatabase) -> Iterator[Service]:
    with serving(clone_database("monitoring")) as running:
        yield running


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def iris_parquet() -> bytes:
    columns = {name: IRIS.data[:, number] for number, name in enumerate(NAMES)}
    out = BytesIO()
    parquet.write_table(pa.table({**columns, "predicted": IRIS.target, "species": IRIS.target}), out)
    return out.getvalue()


def iris_jsonl() -> bytes:
    rows = zip(IRIS.data.tolist(), IRIS.target.tolist(), strict=True)
    values = ({**dict(zip(NAMES, row, strict=True)), "predicted": one, "species": one} for row, one in rows)
    return "\n".join(map(json.dumps, values)).encode()


def window(*, begin_s: float = 3_600, end_s: float = 0) -> pb.WindowSource:
    """From so many seconds ago to so many."""
    source = pb.WindowSource()
    now = datetime.now(UTC)
    source.from_time.FromDatetime(now - timedelta(seconds=begin_s))
    source.to_time.FromDatetime(now - timedelta(seconds=end_s))
    return source


def test_a_csv_becomes_a_numbered_profile_that_its_version_is_compared_with(service: Service) -> None:
    data = iris_csv()
    made = service.upload(data, columns=iris_columns(), note="trained on it", sha256=sha256(data))

    assert (made.model, made.version, made.number, made.row_count) == ("iris", "1.0.0", 1, 150)
    assert [feature.name for feature in made.features] == [*NAMES, "prediction"]
    assert (made.feature_count, made.note, list(made.attached_versions)) == (5, "trained on it", ["1.0.0"])
    assert made.source.upload_sha256 == sha256(data)
    assert (made.accuracy, made.judged_count) == (0.9, 150)
    assert bins_of(made, "prediction") == {"0": 50, "1": 50, "2": 50, "missing": 0, "other": 0}
    length = made.features[0]
    assert length.kind == pb.FEATURE_KIND_NUMERIC
    assert sum(one.count for one in length.bins) == 150
    assert sum(one.share for one in length.bins) == pytest.approx(1)
    assert length.bins[0].label == f"up to {length.edges[0]:.6g}"
    assert length.moments.mean == pytest.approx(IRIS.data[:, 0].mean())
    assert service.get(id=made.id) == made
    assert service.get(model="iris", version="1.0.0") == made


@pytest.mark.parametrize("row_format", ["PARQUET", "JSONL"])
def test_the_same_rows_in_another_format_make_the_same_features(service: Service, row_format: str) -> None:
    first = service.upload(iris_csv(), columns=iris_columns())
    data = {"PARQUET": iris_parquet, "JSONL": iris_jsonl}[row_format]()
    other = service.upload(data, row_format, columns=iris_columns())
    assert list(other.features)[:4] == list(first.features)[:4]
    assert (other.accuracy, other.number) == (1.0, 2)
    assert service.get(model="iris", version="1.0.0").id == other.id
    assert service.get(id=first.id).attached_versions == []


def test_the_same_upload_again_gives_the_first_result(service: Service) -> None:
    made = service.upload(iris_csv(), columns=iris_columns(), request_id="first")
    assert service.upload(iris_csv(), columns=iris_columns(), request_id="first") == made
    for data, more in ((iris_csv() + b"\n", {}), (iris_csv(), {"note": "another"})):
        refused = reason(
            lambda data=data, more=more: service.upload(data, columns=iris_columns(), request_id="first", **more)  # type: ignore[misc]
        )
        assert refused == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")
    assert service.upload(iris_csv(), columns=iris_columns()).number == 2


def test_uploads_that_stall_leave_room_for_others(service: Service) -> None:
    header = pb.UploadProfileRequest(header=pb.UploadProfileHeader(model="iris", version="9", format=pb.ROW_FORMAT_CSV))
    going_on, taken = threading.Event(), threading.Semaphore(0)

    def stalled() -> Iterator[pb.UploadProfileRequest]:
        yield header
        taken.release()
        going_on.wait(TIMEOUT_S)

    calls = [service.stub.UploadProfile.future(stalled(), timeout=TIMEOUT_S) for _ in range(MAX_MAKING + 1)]
    try:
        for _ in calls:
            assert taken.acquire(timeout=TIMEOUT_S)
        assert service.upload(iris_csv()).row_count == 150
    finally:
        going_on.set()
        for call in calls:
            call.cancel()


def test_a_group_column_allows_for_rows_that_are_alike(service: Service) -> None:
    in_no_order = np.random.default_rng(5).permutation(2_000)
    lines = ["x,user", *(f"{number // 20 % 40}.5,user-{number // 20}" for number in in_no_order)]
    made = service.upload("\n".join(lines).encode(), columns=pb.Columns(group="user"))
    assert [feature.name for feature in made.features] == ["x"]
    assert made.features[0].overdispersion > 10
    again = service.upload("\n".join(lines).encode(), columns=pb.Columns(ignored=["user"]))
    assert again.features[0].overdispersion < 2


def test_a_window_of_live_traffic_becomes_a_profile(service: Service) -> None:
    events = iris_events()
    service.record(*events, *(new_event(age_s=600, error_code="TIMEOUT", features=fields({"x": 1})) for _ in range(9)))
    for number, event in enumerate(events):
        actual = int(event.prediction.fields.fields["label"].number_value)
        service.monitoring.feedback(event.inference_id, actual=actual if number % 5 else (actual + 1) % 3)
    waiting = (
        "SELECT start_time FROM monitoring.feedback_marks UNION ALL SELECT start_time FROM monitoring.rollup_marks"
    )
    eventually(lambda: not service.monitoring.query(f"{waiting} WHERE granularity = 1"))
    made = service.create(window=window(), columns=pb.Columns(ignored=["sepal_width"]))
    assert [feature.name for feature in made.features] == [
        "petal_length", "petal_width", "sepal_length", "prediction"
    ]  # fmt: skip
    assert (made.row_count, made.judged_count) == (150, 150)
    assert made.accuracy == pytest.approx(0.8)
    assert made.features[2].moments.mean == pytest.approx(IRIS.data[:, 0].mean())
    assert bins_of(made, "prediction") == {"0": 50, "1": 50, "2": 50, "missing": 0, "other": 0}
    assert made.features[2].overdispersion >= 1
    assert made.source.window.from_time.seconds < made.source.window.to_time.seconds


def test_a_window_of_tensors_names_their_columns_and_outputs(service: Service) -> None:
    rows = np.random.default_rng(2).normal(size=(120, 2)).astype(np.float32)
    service.record(
        *(
            new_event(
                age_s=600,
                row_count=2,
                features=tensors(X=pair, e=np.ones((2, 64), np.float32)),
                prediction=tensors(label=np.array([0, 1]), p=pair),
            )
            for pair in rows.reshape(60, 2, 2)
        )
    )
    made = service.create(window=window())
    assert {feature.name: feature.kind for feature in made.features} == {
        "X[0]": pb.FEATURE_KIND_NUMERIC,
        "X[1]": pb.FEATURE_KIND_NUMERIC,
        "e": pb.FEATURE_KIND_EMBEDDING,
        "prediction.label": pb.FEATURE_KIND_CATEGORICAL,
        "prediction.p[0]": pb.FEATURE_KIND_NUMERIC,
        "prediction.p[1]": pb.FEATURE_KIND_NUMERIC,
    }
    assert (made.row_count, made.features[2].dimensions) == (120, 64)


def test_a_window_names_the_columns_of_a_tensor_as_the_file_did(service: Service) -> None:
    made = service.upload(iris_csv(), columns=iris_columns())
    rows = IRIS.data.astype(np.float32)
    service.record(
        *(
            new_event(
                version=version,
                age_s=600,
                row_count=50,
                features=tensors(X=part),
                prediction=tensors(value=part[:, 0]),
            )
            for part in np.split(rows, 3)
            for version in ("1.0.0", "2.0.0")
        )
    )
    again = service.create(window=window())
    assert [feature.name for feature in again.features] == [*NAMES, "prediction"]
    assert again.features[0].moments.mean == pytest.approx(made.features[0].moments.mean)
    assert [feature.name for feature in service.create(window=window(), version="2.0.0").features][:4] == list(NAMES)


def test_a_number_that_is_predicted_has_no_accuracy(service: Service) -> None:
    generator = np.random.default_rng(3)
    events = [
        new_event(age_s=600, features=fields({"x": number}), prediction=fields({"y": float(generator.normal())}))
        for number in range(60)
    ]
    service.record(*events)
    for event in events[:20]:
        service.monitoring.feedback(event.inference_id, actual=1.5)
    made = service.create(window=window())
    assert (made.HasField("accuracy"), made.judged_count) == (False, 0)


def test_a_window_says_what_it_lacks(service: Service) -> None:
    service.record(*iris_events()[:10])
    wrong = window()
    wrong.from_time.CopyFrom(wrong.to_time)
    for source, expected in (
        (window(), "TOO_FEW_ROWS"),
        (window(begin_s=60), "TOO_FEW_ROWS"),
        (wrong, "INVALID_WINDOW"),
        (pb.WindowSource(from_time=Timestamp(seconds=1)), "INVALID_WINDOW"),
        (window(begin_s=14 * 86_400 + 60), "INVALID_WINDOW"),
    ):
        assert reason(lambda source=source: service.create(window=source)) == (INVALID, expected)  # type: ignore[misc]


def test_a_file_in_an_allowed_folder_becomes_a_profile_once_a_request(
    clone_database: CloneDatabase, tmp_path: Path
) -> None:
    data = iris_parquet()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.parquet").write_bytes(data)
    (tmp_path / "secret").write_bytes(data)
    root = (tmp_path / "in").as_uri()
    with serving(clone_database("monitoring"), profile_input_roots=root) as service:
        file = pb.FileSource(uri=f"{root}/rows.parquet", sha256=sha256(data), format=pb.ROW_FORMAT_PARQUET)
        request: dict[str, Any] = {"file": file, "columns": iris_columns(), "request_id": str(uuid4())}
        made = service.create(**request)
        assert (made.row_count, made.source.file) == (150, file)
        assert service.create(**request) == made
        other = {**request, "note": "another"}
        assert reason(lambda: service.create(**other)) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")
        assert service.create(**{**other, "request_id": str(uuid4())}).number == 2

        def refused(**changed: Any) -> tuple[grpc.StatusCode, str]:
            asked = pb.FileSource()
            asked.CopyFrom(file)
            for name, value in changed.items():
                setattr(asked, name, value)
            return reason(lambda: service.create(file=asked))

        assert refused(uri=(tmp_path / "secret").as_uri()) == (INVALID, "URI_NOT_ALLOWED")
        assert refused(uri=f"{root}/gone") == (grpc.StatusCode.NOT_FOUND, "INPUT_NOT_FOUND")
        assert refused(sha256="0" * 64) == (INVALID, "DIGEST_MISMATCH")
        assert refused(sha256="abc") == (INVALID, "DIGEST_MALFORMED")
        assert refused(format=0) == (INVALID, "FORMAT_REQUIRED")
        assert refused(format=pb.ROW_FORMAT_JSONL) == (INVALID, "MALFORMED_FILE")


@pytest.mark.slow
def test_an_object_in_an_allowed_bucket_becomes_a_profile(
    clone_database: CloneDatabase, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = iris_csv()
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        bucket = server.make_bucket()
        client: Minio = server.client()
        client.put_object(bucket.name, "in/rows.csv", BytesIO(data), len(data))
        client.put_object(bucket.name, "out/rows.csv", BytesIO(data), len(data))
        settings = {
            "blob_url": bucket.url,
            "blob_access_key": server.access_key,
            "blob_secret_key": server.secret_key,
            "profile_input_roots": f"s3://{bucket.name}/in",
        }
        with serving(clone_database("monitoring"), **settings) as service:

            def create(key: str) -> pb.Profile:
                uri = f"s3://{bucket.name}/{key}"
                file = pb.FileSource(uri=uri, sha256=sha256(data), format=pb.ROW_FORMAT_CSV)
                return service.create(file=file)

            assert create("in/rows.csv").row_count == 150
            assert reason(lambda: create("in/gone.csv")) == (grpc.StatusCode.NOT_FOUND, "INPUT_NOT_FOUND")
            assert reason(lambda: create("out/rows.csv")) == (INVALID, "URI_NOT_ALLOWED")
            assert reason(lambda: create("in/../out/rows.csv")) == (INVALID, "URI_NOT_ALLOWED")


def test_profiles_are_listed_and_attached_to_other_versions(service: Service) -> None:
    made = [service.upload(iris_csv(), columns=iris_columns()) for _ in range(3)]
    other = service.upload(iris_csv(), model="flowers", version="7")

    def listed(**fields: Any) -> list[str]:
        found: list[str] = []
        while True:
            page = service.stub.ListProfiles(pb.ListProfilesRequest(**fields), timeout=TIMEOUT_S)
            assert all(not profile.features and profile.feature_count for profile in page.profiles)
            found += [profile.id for profile in page.profiles]
            if not page.next_page_token:
                return found
            fields["page_token"] = page.next_page_token

    newest_first = [profile.id for profile in reversed(made)]
    assert listed() == [other.id, *newest_first]
    assert listed(model="iris", page_size=2) == newest_first
    assert listed(model="iris", version="1.0.0") == newest_first[:1]
    attached = service.stub.AttachProfile(pb.AttachProfileRequest(id=made[0].id, version="2.0.0"), timeout=TIMEOUT_S)
    assert attached.profile.attached_versions == ["2.0.0"]
    assert (list(attached.profile.features), attached.profile.feature_count) == ([], 5)
    assert service.get(model="iris", version="2.0.0").id == made[0].id
    assert service.get(model="iris", version="1.0.0").id == made[2].id
    assert [profile.number for profile in (*made, other)] == [1, 2, 3, 1]


def test_what_makes_no_sense_is_refused(service: Service) -> None:
    def uploaded(data: bytes = b"", **header: Any) -> tuple[grpc.StatusCode, str]:
        return reason(lambda: service.upload(data or iris_csv(), **header))

    assert uploaded(model="") == (INVALID, "MODEL_REQUIRED")
    assert uploaded(version="") == (INVALID, "VERSION_REQUIRED")
    assert uploaded(format=0) == (INVALID, "FORMAT_REQUIRED")
    assert uploaded(note="x" * 1_001) == (INVALID, "INVALID_TEXT")
    assert uploaded(model="nul\0") == (INVALID, "INVALID_TEXT")
    assert uploaded(sha256="0" * 64) == (INVALID, "DIGEST_MISMATCH")
    assert uploaded(sha256="0") == (INVALID, "DIGEST_MALFORMED")
    assert uploaded(b"a,b\n1,2\n") == (INVALID, "TOO_FEW_ROWS")
    assert uploaded(b"a,b\n1\n") == (INVALID, "MALFORMED_FILE")
    assert uploaded(columns=pb.Columns(ignored=[*NAMES, "species", "predicted"])) == (INVALID, "NO_FEATURES")
    assert uploaded(columns=pb.Columns(label="gone")) == (INVALID, "UNKNOWN_COLUMN")
    assert uploaded(columns=pb.Columns(label="species", group="species")) == (INVALID, "INVALID_COLUMNS")
    assert uploaded(columns=pb.Columns(kinds={"species": 99})) == (INVALID, "INVALID_COLUMNS")  # type: ignore[dict-item]
    chunk = pb.UploadProfileRequest(chunk=b"a")
    assert reason(lambda: service.stub.UploadProfile(iter([chunk]), timeout=TIMEOUT_S)) == (INVALID, "HEADER_REQUIRED")
    assert reason(lambda: service.stub.UploadProfile(iter([]), timeout=TIMEOUT_S)) == (INVALID, "HEADER_REQUIRED")
    assert reason(service.create) == (INVALID, "SOURCE_REQUIRED")
    not_found = grpc.StatusCode.NOT_FOUND, "PROFILE_NOT_FOUND"
    assert reason(lambda: service.get(id=str(uuid4()))) == not_found
    assert reason(lambda: service.get(id="none")) == not_found
    assert reason(lambda: service.get(model="iris", version="9")) == not_found
    assert reason(service.get) == (INVALID, "MODEL_REQUIRED")

    def attach(**request: str) -> tuple[grpc.StatusCode, str]:
        return reason(lambda: service.stub.AttachProfile(pb.AttachProfileRequest(**request), timeout=TIMEOUT_S))

    assert attach(id=str(uuid4()), version="1") == not_found
    assert attach(id=str(uuid4())) == (INVALID, "VERSION_REQUIRED")

    def listed(**request: Any) -> tuple[grpc.StatusCode, str]:
        return reason(lambda: service.stub.ListProfiles(pb.ListProfilesRequest(**request), timeout=TIMEOUT_S))

    assert listed(page_size=-1) == (INVALID, "INVALID_PAGE_SIZE")
    assert listed(page_token="none") == (INVALID, "INVALID_PAGE_TOKEN")
    assert service.stub.ListProfiles(pb.ListProfilesRequest(), timeout=TIMEOUT_S).profiles == []
