"""Datasets over a socket: uploads, versions, splits, downloads, and who reads what is deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg.rows import dict_row
from pydantic import SecretStr

import penstock
from penstock.api.trainer.v1 import datasets_pb2 as pb
from penstock.api.trainer.v1.datasets_pb2_grpc import DatasetServiceStub
from penstock.ids import uuid7
from services.common.errors import DomainError, InvalidArgument
from services.trainer.datasets.splits import DefaultSplit, Split, SplitBy
from services.trainer.datasets.store import DatasetStore
from services.trainer.task import Part
from services.trainer.upload_requests import UploadRequest, UploadRequests
from tests.datasets import Going, Shelf, as_parquet, folder_of, parts_in, shelf
from tests.postgres import PostgresServer
from tests.s3 import s3_server

FLOWERS = "width,colour,label\n" + "".join(
    f"{number / 4},{'red' if number % 3 else 'blue'},{'ab'[number % 2]}\n" for number in range(40)
)


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    folder = tmp_path_factory.mktemp("datasets")
    with shelf(postgres_server.clone("trainer"), folder, dataset_max_bytes=2_000_000, dataset_max_rows=5_000) as found:
        yield found


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A dataset of the test's own."""
    return str(request.node.name)


def refusal(kind: type[penstock.PenstockError], call: Callable[[], object]) -> penstock.PenstockError:
    with pytest.raises(kind) as caught:
        call()
    return caught.value


def test_an_upload_is_kept_with_its_columns_and_can_be_looked_up(place: Shelf, name: str) -> None:
    made = place.upload(name, FLOWERS, description="of a garden", labels={"team": "green"})
    assert (made.name, made.version, made.row_count, made.state) == (name, 1, 40, pb.DATASET_STATE_READY)
    found = place.client.datasets.get(name)
    assert found == made == place.client.datasets.get(name, 1)
    assert [column.name for column in found.columns] == ["width", "colour", "label"]
    width, colour, _ = found.columns
    assert (width.type, width.min, width.max, width.mean) == (pb.COLUMN_TYPE_FLOAT64, 0, 9.75, 4.875)
    assert [(each.value, each.count) for each in colour.top_values] == [("red", 26), ("blue", 14)]
    assert found.description == "of a garden"
    assert found.source.upload.file_name == "rows.csv"
    rows = list(place.client.datasets.preview(name, limit=2, offset=38))
    assert rows == [{"width": 9.5, "colour": "red", "label": "a"}, {"width": 9.75, "colour": "blue", "label": "b"}]


def test_the_same_rows_again_are_the_same_version_in_whatever_format(place: Shelf, name: str) -> None:
    first = place.upload(name, "a,b\n1,x\n2,y\n")
    again = place.put(name, b'[{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]', "json")
    third = place.put(name, as_parquet({"a": [1, 2], "b": ["x", "y"]}), "parquet")
    assert again.existed
    assert third.existed
    assert again.dataset == third.dataset == first
    other = place.upload(name, "a,b\n2,y\n1,x\n")
    assert other.version == 2, "another order is other rows"
    assert place.upload(name, "a,b\n1,x\n2,y\n").version == 3, "only the newest is looked at"
    assert [each.version for each in place.client.datasets.list(name, page_size=1)] == [3, 2, 1]


def test_versions_have_no_gaps_whoever_comes_at_once(place: Shelf, name: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        bad = pool.submit(lambda: refusal(penstock.InvalidArgument, lambda: place.upload(name, "a,b\n1\n")))
        made = list(pool.map(lambda number: place.upload(name, f"a\n{number}\n"), range(5)))
        assert sorted(each.version for each in made) == [1, 2, 3, 4, 5]
        assert bad.result().reason == "MALFORMED_ROWS"
        same = list(pool.map(lambda _: place.upload(name, "a\n1000\n"), range(3)))
    assert {each.version for each in same} == {6}, "the same rows at once are one version"


BAD = (
    (b"a,b\n1,2\n3\n", "csv", "MALFORMED_ROWS", "2"),
    (b"", "csv", "MALFORMED_ROWS", ""),
    (b"a,b\n", "csv", "NO_ROWS", ""),
    (b'{"a": 1}\n{"a": "x"}\n', "json", "MALFORMED_ROWS", "2"),
    (b"", "parquet", "MALFORMED_ROWS", ""),
    (b"PAR1" + b"\0" * 64 + b"PAR1", "parquet", "MALFORMED_ROWS", ""),
)


def test_bad_rows_are_refused_by_number_and_leave_nothing(place: Shelf, name: str) -> None:
    for data, form, reason, row in BAD:
        error = refusal(penstock.InvalidArgument, partial(place.put, name, data, form))
        assert (error.reason, error.metadata.get("row", "")) == (reason, row), data
        assert not row or error.violations[0].field == f"rows[{row}]"
    assert refusal(penstock.NotFound, lambda: place.client.datasets.get(name)).reason == "DATASET_NOT_FOUND"


def test_too_much_is_refused(place: Shelf, name: str) -> None:
    rows = refusal(penstock.ResourceExhausted, lambda: place.upload(name, "a\n" + "1\n" * 5_001))
    assert rows.reason == "TOO_LARGE"
    assert not rows.retryable
    size = refusal(penstock.ResourceExhausted, lambda: place.upload(name, "a\n" + "x" * 2_000_001))
    assert size.reason == "TOO_LARGE"


def test_a_parquet_bomb_is_refused_within_memory(postgres_server: PostgresServer, tmp_path: Path, name: str) -> None:
    """A few kilobytes that say one long text 4,096 times: 2 GiB once each stands for itself."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 4_096, pa.int32()), pa.array(["x" * 524_288]))
    bomb = as_parquet({"a": texts})
    assert len(bomb) < 1_000_000
    with shelf(postgres_server.clone("trainer"), tmp_path, dataset_max_unpacked_bytes=100_000_000) as here:
        error = refusal(penstock.ResourceExhausted, lambda: here.put(name, bomb, "parquet"))
    assert error.reason == "TOO_LARGE"


def test_a_request_is_known_again(place: Shelf, name: str) -> None:
    first = place.upload(name, "a\n1\n", request_id="r1")
    place.upload(name, "a\n2\n")
    assert place.upload(name, "a\n1\n", request_id="r1").version == first.version == 1
    assert place.upload(name, "a\n2\n", request_id="was there").version == 2
    place.upload(name, "a\n1\n")
    assert place.upload(name, "a\n2\n", request_id="was there").version == 2, "the first result, whatever came since"
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(place.upload, f"{name}-{number}", "a\n1\n", request_id="at once") for number in range(4)]
        failed = [call.exception() for call in sent]
    assert sorted(getattr(error, "reason", "") for error in failed) == ["", *["REQUEST_ID_REUSED"] * 3]
    reused = refusal(penstock.FailedPrecondition, lambda: place.upload(name, "a\n3\n", request_id="r1"))
    assert reused.reason == "REQUEST_ID_REUSED"


def test_who_comes_with_an_id_that_is_being_answered_waits(postgres_server: PostgresServer) -> None:
    url, requests = postgres_server.clone("trainer"), UploadRequests("dataset")
    with psycopg.connect(url, row_factory=dict_row) as first, psycopg.connect(url, row_factory=dict_row) as second:
        assert requests.repeated(first, UploadRequest("ada", "r1", "one")) is None
        second.execute("SET lock_timeout = '50ms'")
        assert requests.repeated(second, UploadRequest("ada", "r2", "two")) is None
        with pytest.raises(psycopg.errors.LockNotAvailable):
            requests.repeated(second, UploadRequest("ada", "r1", "two"))


def test_what_is_not_the_contract_is_refused(place: Shelf, name: str) -> None:
    with grpc.insecure_channel(place.address) as channel:
        stub = DatasetServiceStub(channel)

        def code(*requests: pb.UploadDatasetRequest) -> grpc.StatusCode:
            with pytest.raises(grpc.RpcError) as caught:
                stub.UploadDataset(iter(requests), timeout=60)
            found: grpc.StatusCode = caught.value.code()
            return found

        header = pb.UploadDatasetHeader(name=name, format=pb.DATASET_FORMAT_CSV)
        piece = pb.UploadDatasetRequest(chunk=b"a\n1\n")
        assert code() == code(piece) == grpc.StatusCode.INVALID_ARGUMENT
        twice = (pb.UploadDatasetRequest(header=header), piece, pb.UploadDatasetRequest(header=header))
        assert code(*twice) is grpc.StatusCode.INVALID_ARGUMENT
        assert code(pb.UploadDatasetRequest(header=pb.UploadDatasetHeader(name="../x"))) == code(piece)
        other = pb.UploadDatasetHeader(name=name, format=pb.DATASET_FORMAT_CSV, sha256="0" * 64)
        assert code(pb.UploadDatasetRequest(header=other), piece) is grpc.StatusCode.DATA_LOSS
    datasets = place.client.datasets
    assert refusal(penstock.InvalidArgument, lambda: list(datasets.list(page_size=-1))).reason == "INVALID_PAGE_SIZE"
    assert refusal(penstock.InvalidArgument, lambda: datasets.preview(name, limit=5_000)).reason == "OUT_OF_BOUNDS"
    assert refusal(penstock.InvalidArgument, lambda: datasets.delete(name, 0)).reason == "VERSION_REQUIRED"
    traffic = refusal(penstock.FailedPrecondition, lambda: datasets.from_traffic(name, "m"))
    assert traffic.reason == "MONITORING_NOT_CONFIGURED"


def test_a_split_is_recorded_and_its_parts_are_the_rows(place: Shelf, name: str, tmp_path: Path) -> None:
    place.upload(name, FLOWERS)
    datasets = place.client.datasets
    split = datasets.split(name, stratify_column="label", seed=5)
    assert (split.train_count, split.validation_count, split.test_count) == (28, 6, 6)
    assert datasets.split(name, stratify_column="label", seed=5) == split
    assert list(datasets.get(name).splits) == [split]
    found = []
    for part in Part:
        path = datasets.download(name, tmp_path / f"{part}.parquet", split_id=split.id, part=part)
        found.append(pq.read_table(path).column("width").to_pylist())
    assert [len(each) for each in found] == [28, 6, 6]
    assert sorted(chain.from_iterable(found)) == [number / 4 for number in range(40)]
    unmeant: tuple[tuple[str, dict[str, Any]], ...] = (
        ("INVALID_SHARES", {"train_share": 1.5}),
        ("UNKNOWN_COLUMN", {"stratify_column": "nowhere"}),
        ("EMPTY_PART", {"by": "key", "column": "colour", "train_share": 0.98, "validation_share": 0.01}),
    )
    for reason, more in unmeant:
        assert refusal(penstock.InvalidArgument, partial(datasets.split, name, **more)).reason == reason
    missing = refusal(penstock.NotFound, lambda: datasets.download(name, tmp_path, split_id="ff", part="test"))
    assert missing.reason == "SPLIT_NOT_FOUND"
    partless = refusal(penstock.InvalidArgument, lambda: datasets.download(name, tmp_path, split_id=split.id))
    assert partless.reason == "PART_REQUIRED"


def test_a_download_can_begin_at_any_byte(place: Shelf, name: str, tmp_path: Path) -> None:
    place.upload(name, FLOWERS)
    split = place.client.datasets.split(name)
    with grpc.insecure_channel(place.address) as channel:
        stub = DatasetServiceStub(channel)
        both: tuple[dict[str, Any], ...] = ({}, {"split_id": split.id, "part": pb.DATASET_PART_TRAIN})
        for chosen in both:
            whole = list(stub.DownloadDataset(pb.DownloadDatasetRequest(name=name, **chosen), timeout=60))
            data = b"".join(each.chunk for each in whole)
            assert whole[0].size_bytes == len(data)
            rest = stub.DownloadDataset(pb.DownloadDatasetRequest(name=name, offset=100, **chosen), timeout=60)
            assert b"".join(each.chunk for each in rest) == data[100:]
            beyond = pb.DownloadDatasetRequest(name=name, offset=len(data) + 1, **chosen)
            with pytest.raises(grpc.RpcError) as caught:
                list(stub.DownloadDataset(beyond, timeout=60))
            assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
    path = place.client.datasets.download(name, tmp_path)
    assert path.name == f"{name}-1.parquet"
    assert pq.read_table(path).num_rows == 40


def test_a_run_ends_as_if_a_deleted_dataset_were_there(place: Shelf, name: str, tmp_path: Path) -> None:
    place.upload(name, FLOWERS)
    run_id = UUID(uuid7())
    with place.database.transaction() as connection:
        place.datasets.refer(connection, run_id, name)
    datasets = place.client.datasets
    in_use = refusal(penstock.FailedPrecondition, lambda: datasets.delete(name, 1))
    assert in_use.reason == "DATASET_IN_USE"
    datasets.delete(name, 1, force=True)
    assert refusal(penstock.NotFound, lambda: datasets.get(name)).reason == "DATASET_NOT_FOUND"
    place.upload(name, "width,label\n1,a\n")  # what the name means now is not what the run reads
    given = place.datasets.materialise(run_id, name, "m", None, folder_of(tmp_path), Going())
    assert given.dataset == f"{name}/1"
    assert sum(given.counts.values()) == 40
    held = "SELECT version FROM trainer.dataset_versions WHERE name = %s ORDER BY version"
    assert place.rows(held, name) == [(1,), (2,)]
    place.release(run_id)
    assert place.rows(held, name) == [(2,)]
    datasets.delete(name, 2)
    assert place.upload(name, FLOWERS).version == 3, "a number is never given twice"


def test_rows_are_written_by_part_for_a_run(place: Shelf, name: str, tmp_path: Path) -> None:
    place.upload(name, FLOWERS)
    run_id, folder = UUID(uuid7()), folder_of(tmp_path)
    given = place.datasets.materialise(run_id, name, "m", None, folder, Going())
    parts = parts_in(folder)
    assert {part: len(rows) for part, rows in parts.items()} == given.counts == {
        Part.TRAIN: 28, Part.VALIDATION: 6, Part.TEST: 6,
    }  # fmt: skip
    assert place.client.datasets.split(name).id == given.split_id, "the same rows are held out whatever is trained"
    (recorded,) = place.client.datasets.get(name).splits
    assert recorded.id == given.split_id
    place.release(run_id)
    split = Split(by=SplitBy.TIME, column="width", train_share=0.5, validation_share=0.0)
    folder = folder_of(tmp_path)
    given = place.datasets.materialise(UUID(uuid7()), f"{name}/1", "m", split, folder, Going())
    assert [row["width"] for row in parts_in(folder)[Part.TRAIN]] == [number / 4 for number in range(20)]
    assert not folder.rows(Part.VALIDATION).exists()
    assert not folder.groups(Part.TRAIN).exists(), "nobody said that rows belong together"
    place.upload("visits", "who,label\n" + "".join(f"user-{number % 9},{number % 2}\n" for number in range(90)))
    folder = folder_of(tmp_path)
    by_key = Split(by=SplitBy.KEY, column="who")
    place.datasets.materialise(UUID(uuid7()), "visits", "m", by_key, folder, Going())
    for part, rows in parts_in(folder).items():
        keys = pq.read_table(folder.groups(part)).column("key").to_pylist()
        assert keys == [row["who"] for row in rows], "by which they belong together"


UNFIT = (
    ("nowhere", "INVALID_DATA"),
    ("pair/7", "INVALID_DATA"),
    ("pair/x", "INVALID_PARAMETERS"),
    ("pair++pair", "INVALID_PARAMETERS"),
    ("+".join(["pair"] * 17), "INVALID_PARAMETERS"),
    ("pair+stranger", "INVALID_DATA"),
    ("pair+clash", "INVALID_DATA"),
)


def test_a_source_that_cannot_be_learned_from_is_refused(place: Shelf, tmp_path: Path) -> None:
    for dataset, text in (("pair", "a,b\n1,x\n2,y\n"), ("stranger", "c\n1\n"), ("clash", "a\nyes\n")):
        place.upload(dataset, text)
    folder = folder_of(tmp_path)
    for source, reason in UNFIT:
        with pytest.raises(DomainError) as caught:
            place.datasets.materialise(UUID(uuid7()), source, "m", None, folder, Going())
        assert caught.value.reason == reason, source


def test_columns_that_a_run_names_are_looked_for_before_it_is_created(place: Shelf) -> None:
    place.upload("orchard", "height,kind\n1,apple\n2,pear\n")
    place.upload("grove", "kind,label\noak,1\nelm,0\n")
    check = place.datasets.check
    check("orchard+traffic", {"parameters.label_column": ["kind"], "parameters.slices": ["height"]})
    check("grove+orchard/1", {"parameters.label_column": ["kind"]}, DefaultSplit(stratify_column="kind"))
    for source in ("orchard", "traffic:1h+orchard", "grove+orchard"):
        with pytest.raises(InvalidArgument, match=r"orchard/1 has no column 'label'; it has 'height', 'kind'") as lacks:
            check(source, {"parameters.label_column": ["label"]})
        assert (lacks.value.reason, lacks.value.violations[0].field) == ("UNKNOWN_COLUMN", "parameters.label_column")
    with pytest.raises(InvalidArgument, match="has no column 'age'") as unsplit:
        check("orchard", {}, Split(by=SplitBy.KEY, column="age"))
    assert unsplit.value.reason == "UNKNOWN_COLUMN"
    with pytest.raises(InvalidArgument, match="say by: seed") as spread:
        check("traffic", {}, DefaultSplit(stratify_column="kind"))
    assert spread.value.reason == "INVALID_PARAMETERS"


def test_datasets_lie_in_a_bucket_as_well(postgres_server: PostgresServer, tmp_path: Path, name: str) -> None:
    with s3_server(tmp_path) as server:
        bucket = server.make_bucket()
        blobs = {
            "blob_url": bucket.url,
            "blob_access_key": SecretStr(server.access_key),
            "blob_secret_key": SecretStr(server.secret_key),
        }
        with shelf(postgres_server.clone("trainer"), tmp_path, blobs=blobs) as here:
            here.upload(name, FLOWERS)
            path = here.client.datasets.download(name, tmp_path)
            assert pq.read_table(path).num_rows == 40
            given = here.datasets.materialise(UUID(uuid7()), name, "m", None, folder_of(tmp_path), Going())
            assert given.counts[Part.TRAIN] == 28
        bucket.remove()


def test_housekeeping_lets_go_of_what_no_run_reads_any_more(place: Shelf, name: str) -> None:
    place.upload(name, "a\n1\n")
    run_id = UUID(uuid7())
    with place.database.transaction() as connection:
        place.datasets.refer(connection, run_id, name)  # of a run that is nowhere: its end was never heard of
    place.client.datasets.delete(name, 1, force=True)
    held = "SELECT count(*) FROM trainer.dataset_versions WHERE name = %s"
    assert place.rows(held, name) == [(1,)]
    DatasetStore(place.database).expire(0.0)
    assert place.rows(held, name) == [(0,)]


def test_what_is_being_built_is_deleted_by_force_alone(
    postgres_server: PostgresServer, tmp_path: Path, name: str
) -> None:
    others: dict[str, Any] = {"monitoring_address": "127.0.0.1:1", "trainer_worker_enabled": False}
    with shelf(postgres_server.clone("trainer"), tmp_path, **others, trainer_max_unended=2) as here:
        datasets = here.client.datasets
        made = datasets.from_traffic(name, "flown")
        assert refusal(penstock.FailedPrecondition, lambda: datasets.delete(name, 1)).reason == "DATASET_IN_USE"
        datasets.delete(name, 1, force=True)
        assert refusal(penstock.NotFound, lambda: datasets.get(name, made.version)).reason == "DATASET_NOT_FOUND"
        assert here.rows("SELECT state FROM trainer.dataset_builds") == [("CANCELLED",)]
        assert here.rows("SELECT count(*) FROM trainer.dataset_versions") == [(0,)]
        assert [datasets.from_traffic(name, "flown").version for _ in range(2)] == [2, 3]
        many = refusal(penstock.ResourceExhausted, lambda: datasets.from_traffic(name, "flown"))
        assert many.reason == "TOO_MANY_JOBS"
        assert here.rows("SELECT max(version) FROM trainer.dataset_versions") == [(3,)], "nor is its number used up"
