"""Datasets gathered from live traffic and from feature views, through the real services."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow.parquet as pq
import pytest

import penstock
from penstock.api.monitoring.v1.monitoring_pb2 import Payload
from penstock.api.tensors.v1.tensors_pb2 import TensorList
from penstock.api.trainer.v1 import datasets_pb2 as pb
from penstock.cli.__main__ import run
from penstock.ids import uuid7
from penstock.tensors import to_tensor
from services.common.errors import DomainError
from services.trainer.datasets.faults import BuildFailed
from services.trainer.datasets.models import TrafficSource
from services.trainer.datasets.rows.limits import RowLimits
from services.trainer.datasets.traffic import Traffic
from services.trainer.runs.splitting import split_of
from services.trainer.task import Part
from tests.datasets import Going, Shelf, folder_of, parts_in, shelf
from tests.monitoring import Monitoring, new_event, serve
from tests.postgres import PostgresServer
from tests.services import running_registry

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def monitoring(postgres_server: PostgresServer) -> Iterator[Monitoring]:
    with serve(postgres_server.clone("monitoring")) as service:
        yield service


@pytest.fixture(scope="module")
def registry_address(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_registry(postgres_server.clone("registry"), tmp_path_factory.mktemp("registry")) as registry:
        yield registry.address


@pytest.fixture(scope="module")
def place(
    postgres_server: PostgresServer,
    monitoring: Monitoring,
    registry_address: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Shelf, penstock.Client]]:
    """Datasets beside a registry with its feature store, and monitoring; and a client of the registry."""
    others: dict[str, Any] = {"registry_address": registry_address, "monitoring_address": monitoring.address}
    with (
        shelf(postgres_server.clone("trainer"), tmp_path_factory.mktemp("builds"), **others) as found,
        penstock.Client(registry=registry_address) as client,
    ):
        yield found, client


def fields(**values: Any) -> Payload:
    payload = Payload()
    payload.fields.update(values)
    return payload


def tensors(**arrays: np.ndarray) -> Payload:
    return Payload(tensors=TensorList(tensors=[to_tensor(name, array) for name, array in arrays.items()]))


def recorded(monitoring: Monitoring, model: str, count: int, *, labelled: int, first: int = 0) -> list[str]:
    """Record single predictions about x = first, first + 1 …, of which the first have a label; beyond 0 older ones."""
    events = [
        new_event(
            model=model,
            version="1" if number < count // 2 else "2",
            features=fields(x=float(first + number), colour="red" if number % 2 else "blue"),
            prediction=tensors(label=np.array([number % 3])),
            confidence=0.5,
            age_s=60 + first + count - number,
        )
        for number in range(count)
    ]
    assert set(monitoring.record(*events)) == {"STORED"}
    for number, event in enumerate(events[:labelled]):
        monitoring.feedback(event.inference_id, actual=number % 2)
    return [event.inference_id for event in events]


def rows_of(place: Shelf, dataset: pb.Dataset) -> list[dict[str, object]]:
    return list(place.client.datasets.preview(dataset.name, dataset.version, limit=1000))


def test_traffic_becomes_rows_with_the_labels_that_were_said_since(
    place: tuple[Shelf, penstock.Client], monitoring: Monitoring
) -> None:
    here, _ = place
    ids = recorded(monitoring, "plain", 6, labelled=4)
    made = here.client.datasets.from_traffic("all-of-it", "plain", window="1h")
    assert made.state == pb.DATASET_STATE_BUILDING
    done = here.client.datasets.wait(made.name, made.version)
    assert done.row_count == 6
    types = {column.name: pb.ColumnType.Name(column.type).removeprefix("COLUMN_TYPE_") for column in done.columns}
    assert types == {
        "x": "INT64",
        "colour": "STRING",
        "label": "INT64",
        "prediction": "INT64",
        "confidence": "FLOAT64",
        "event_time": "TIMESTAMP",
        "inference_id": "STRING",
        "model_version": "STRING",
    }
    rows = rows_of(here, done)
    assert [row["inference_id"] for row in rows] == ids, "the oldest first"
    assert [row["label"] for row in rows] == [0, 1, 0, 1, None, None]
    assert [row["x"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert done.source.traffic.model == "plain"


def test_only_wanted_traffic_is_taken_and_the_same_each_time(
    place: tuple[Shelf, penstock.Client], monitoring: Monitoring
) -> None:
    here, _ = place
    recorded(monitoring, "chosen", 20, labelled=20)
    wait = here.client.datasets.wait

    def build(name: str, **more: Any) -> pb.Dataset:
        return wait(name, here.client.datasets.from_traffic(name, "chosen", window="1h", **more).version)

    some = build("some", max_rows=5, labelled_only=True)
    assert some.row_count == 5
    assert build("some", max_rows=5, labelled_only=True).digest == some.digest
    times = [row["event_time"] for row in rows_of(here, some)]
    assert times == sorted(times, key=str)
    assert {row["model_version"] for row in rows_of(here, build("of-two", versions=["2"]))} == {"2"}
    assert {row["colour"] for row in rows_of(here, build("reds", where={"colour": "red"}))} == {"red"}
    assert [row["x"] for row in rows_of(here, build("sevens", where={"x": "7.0"}))] == [7]


def test_rows_of_a_batch_are_rows_by_themselves_and_what_failed_is_none(
    place: tuple[Shelf, penstock.Client], monitoring: Monitoring
) -> None:
    here, _ = place
    matrix = np.array([[1.5, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
    batch = new_event(
        model="batched", features=tensors(features=matrix), prediction=tensors(label=np.array([7, 8, 9])), row_count=3
    )
    failed = new_event(model="batched", features=tensors(features=matrix), row_count=3, error_code="INTERNAL")
    bare = new_event(model="batched")
    monitoring.record(batch, failed, bare)
    monitoring.feedback(batch.inference_id, row=1, actual=5)
    done = here.client.datasets.from_traffic("batched", "batched", window="1h")
    rows = rows_of(here, here.client.datasets.wait("batched", done.version))
    assert [(row["features[0]"], row["features[1]"], row["prediction"], row["label"]) for row in rows] == [
        (1.5, 2, 7, None),
        (3, 4, 8, 5),
        (5, 6, 9, None),
    ]


def test_a_build_without_rows_fails_and_says_what_to_do(
    place: tuple[Shelf, penstock.Client], monitoring: Monitoring
) -> None:
    here, _ = place
    recorded(monitoring, "unlabelled", 2, labelled=0)
    made = here.client.datasets.from_traffic("none", "unlabelled", labelled_only=True)
    with pytest.raises(penstock.FailedPrecondition, match="record feedback first") as caught:
        here.client.datasets.wait("none", made.version)
    assert caught.value.reason == "DATASET_FAILED"
    # It keeps its number, and no reader without a number meets it.
    assert here.client.datasets.get("none", 1).state == pb.DATASET_STATE_FAILED
    with pytest.raises(penstock.NotFound) as missing:
        here.client.datasets.get("none")
    assert missing.value.reason == "DATASET_VERSION_NOT_FOUND"
    with pytest.raises(penstock.FailedPrecondition) as unready:
        here.client.datasets.preview("none", 1)
    assert unready.value.reason == "DATASET_NOT_READY"


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        (RowLimits(5, 100, 1_000_000), "5 rows"),
        (RowLimits(6, 100, 1_000), "1,000 bytes"),  # as monitoring exports them
        (RowLimits(10_000, 100, 400_000), "400,000 bytes"),  # as lines
    ],
)
def test_more_traffic_than_a_dataset_may_have_is_not_gathered_to_its_end(
    monitoring: Monitoring, registry_address: str, tmp_path: Path, limits: RowLimits, allowed: str
) -> None:
    model = f"busy-{limits.max_unpacked_bytes}"
    many = np.zeros((5_000, 1), np.float32)
    if limits.max_rows > 100:
        monitoring.record(new_event(model=model, features=tensors(x=many), row_count=5_000))
    else:
        recorded(monitoring, model, 6, labelled=0)
    traffic = Traffic(lambda: penstock.Client(registry=registry_address, monitoring=monitoring.address), limits)
    source = TrafficSource(model, NOW - timedelta(hours=1), datetime.now(UTC))
    with pytest.raises(BuildFailed, match=f"{allowed} that are allowed") as caught:
        traffic.write(source, tmp_path, Going(), lambda rows: None)
    assert caught.value.reason == "TOO_LARGE"


def test_traffic_is_gathered_and_features_are_joined_by_commands(
    place: tuple[Shelf, penstock.Client],
    monitoring: Monitoring,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here, client = place

    def dataset(*arguments: str) -> Any:
        monkeypatch.setenv("PENSTOCK_TRAINER_ADDRESS", here.address)
        capsys.readouterr()
        assert run(["dataset", *arguments, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    recorded(monitoring, "asked-by-hand", 6, labelled=4)
    gathered = dataset(
        "from-traffic", "asked-by-hand", "--window", "1h", "--labelled", "--version", "2", "--where", "colour=red"
    )
    assert (gathered["name"], gathered["version"], gathered["state"]) == ("asked-by-hand-traffic", 1, "ready")
    assert [row["x"] for row in dataset("show", "asked-by-hand-traffic", "--rows", "9")["rows"]] == [3]
    client.features.create_view("purchases", entity="user", features={"count": "INT64", "city": "STRING"})
    client.features.load("purchases", ["ann"], {"count": [5], "city": ["Bonn"]}, event_times=[NOW], create_times=[NOW])
    here.upload("buyers", f"user,at,label\nann,{(NOW + timedelta(hours=1)).isoformat()},0\nbob,{NOW.isoformat()},1\n")
    named = ("--key", "user", "--time", "at", "--label", "team=green")
    joined = dataset("from-features", "joined-by-hand", "--rows", "buyers", *named, "--feature", "purchases:count")
    assert (joined["row_count"], joined["state"], joined["labels"]) == (2, "ready", {"team": "green"})
    rows = dataset("show", "joined-by-hand", "--rows", "9")["rows"]
    assert [(row["user"], row["label"], row["purchases.count"]) for row in rows] == [("ann", 0, 5), ("bob", 1, None)]
    assert "purchases.city" not in rows[0]


def test_a_run_of_live_traffic_builds_its_dataset_once(
    place: tuple[Shelf, penstock.Client], monitoring: Monitoring, tmp_path: Path
) -> None:
    here, _ = place
    recorded(monitoring, "flown", 40, labelled=30)
    run_id = UUID(uuid7())
    folder = folder_of(tmp_path)
    given = here.datasets.materialise(run_id, "traffic:1h", "flown", None, folder, Going())
    assert given.dataset == "flown-traffic/1"
    assert given.columns == ("colour", "x", "label"), "nothing is learned from what the model said"
    assert sum(given.counts.values()) == 30
    assert {part: len(rows) for part, rows in parts_in(folder).items()} == given.counts
    again = here.datasets.materialise(run_id, "traffic:1h", "flown", None, folder_of(tmp_path), Going())
    assert again == given
    here.release(run_id)


@pytest.mark.parametrize("said", [None, {"train_share": 0.5, "seed": 3}])
def test_rows_of_live_traffic_stay_in_their_part_when_the_window_moves(
    said: dict[str, Any] | None, place: tuple[Shelf, penstock.Client], monitoring: Monitoring, tmp_path: Path
) -> None:
    here, _ = place
    model = f"moving-{'by-shares' if said else 'by-nothing'}"

    def divided(split: dict[str, Any] | None = said) -> dict[float, Part]:
        folder = folder_of(tmp_path)
        here.datasets.materialise(UUID(uuid7()), "traffic:1h", model, split_of({"split": split}), folder, Going())
        return {row["x"]: part for part, rows in parts_in(folder).items() for row in rows}

    recorded(monitoring, model, 40, labelled=40)
    before, by_place = divided(), divided({"by": "seed"})
    recorded(monitoring, model, 7, labelled=7, first=1_000)  # all others have another place from now on
    after = divided()
    assert len(before) == 40
    assert len(after) == 47
    assert {x: after[x] for x in before} == before, "what a version has learned from never judges it"
    assert not by_place.items() <= divided({"by": "seed"}).items(), "as it may where seed is meant"


def test_traffic_and_rows_of_ones_own_are_learned_from_together(
    place: tuple[Shelf, penstock.Client], monitoring: Monitoring, tmp_path: Path
) -> None:
    here, _ = place
    recorded(monitoring, "joined", 10, labelled=10)
    own = "extra,label,x\n" + "".join(f"{number},{number % 2},{number / 2}\n" for number in range(20))
    here.upload("own", own)
    run_id, folder = UUID(uuid7()), folder_of(tmp_path)
    given = here.datasets.materialise(run_id, "own+traffic:1h", "joined", None, folder, Going())
    assert given.dataset == "own/1+joined-traffic/1"
    assert given.columns == ("label", "x")
    xs = sorted(row["x"] for rows in parts_in(folder).values() for row in rows)
    assert xs == sorted([number / 2 for number in range(20)] + [float(number) for number in range(10)])
    parts = [here.client.datasets.get(name).splits[0] for name in ("own", "joined-traffic")]
    assert [(split.by, split.column) for split in parts] == [(pb.SPLIT_BY_SEED, ""), (pb.SPLIT_BY_KEY, "inference_id")]
    assert parts[0].train_count == 14, "each is divided by itself"
    keys = pq.read_table(folder.groups(Part.TRAIN)).column("key").to_pylist()
    assert keys[:14] == [None] * 14, "rows of one's own are independent"
    assert len({UUID(key) for key in keys[14:]}) == given.counts[Part.TRAIN] - 14
    assert given.counts[Part.TRAIN] == sum(split.train_count for split in parts)
    here.release(run_id)


def test_a_run_without_labelled_traffic_cannot_learn(
    place: tuple[Shelf, penstock.Client], monitoring: Monitoring, tmp_path: Path
) -> None:
    here, _ = place
    recorded(monitoring, "silent", 2, labelled=0)
    with pytest.raises(DomainError, match="record feedback first") as caught:
        here.datasets.materialise(UUID(uuid7()), "traffic", "silent", None, folder_of(tmp_path), Going())
    assert caught.value.reason == "INVALID_DATA"


def test_features_stand_beside_rows_as_they_were_known_at_the_rows_time(place: tuple[Shelf, penstock.Client]) -> None:
    here, client = place
    client.features.create_view("visits", entity="user", features={"count": "INT64", "city": "STRING"})
    early, late = NOW - timedelta(days=2), NOW - timedelta(days=1)
    client.features.load(
        "visits",
        ["ann", "ann", "bob"],
        {"count": [1, 2, 7], "city": ["Bonn", "Kiel", None]},
        event_times=[early, late, early],
        create_times=[early, late, early],
    )
    moments = [early + timedelta(hours=1), late + timedelta(hours=1)]
    lines = [f"ann,{moments[0].isoformat()},0", f"ann,{moments[1].isoformat()},1", f"bob,{moments[1].isoformat()},0"]
    here.upload("asked", "user,at,label\n" + "\n".join([*lines, f"cid,{moments[1].isoformat()},1"]) + "\n")
    made = here.client.datasets.from_features("with-visits", "asked", ["visits"], key_column="user", time_column="at")
    done = here.client.datasets.wait("with-visits", made.version)
    rows = rows_of(here, done)
    assert [(row["user"], row["visits.count"], row["visits.city"]) for row in rows] == [
        ("ann", 1, "Bonn"),
        ("ann", 2, "Kiel"),
        ("bob", 7, None),
        ("cid", None, None),
    ]
    assert done.source.features.rows == "asked/1", "which version of the rows was read is kept"


def test_features_of_what_is_not_there_are_refused(place: tuple[Shelf, penstock.Client]) -> None:
    here, _ = place
    build = here.client.datasets.from_features
    with pytest.raises(penstock.NotFound) as caught:
        build("no", "nowhere", ["visits"], key_column="user", time_column="at")
    assert caught.value.reason == "DATASET_NOT_FOUND"
    here.upload("timeless", "user,at\nann,never\n")
    here.upload("timely", "user,at\nann,2026-01-01\n")
    for rows, features, key, sentence in (
        ("timely", ["nothing"], "user", "nothing"),
        ("timely", ["visits"], "name", "no column 'name'"),
        ("timeless", ["visits"], "user", "'at' of timeless/1 is STRING"),
    ):
        made = build("no", rows, features, key_column=key, time_column="at")
        with pytest.raises(penstock.FailedPrecondition, match=sentence):
            here.client.datasets.wait("no", made.version)


def test_a_build_can_be_asked_for_twice_and_ended(place: tuple[Shelf, penstock.Client], monitoring: Monitoring) -> None:
    here, _ = place
    recorded(monitoring, "twice", 3, labelled=3)
    now = datetime.now(UTC)
    again: dict[str, Any] = {"from_time": now - timedelta(hours=1), "to_time": now, "request_id": "once"}
    first = here.client.datasets.from_traffic("twice", "twice", **again)
    assert here.client.datasets.from_traffic("twice", "twice", **again).version == first.version
    with pytest.raises(penstock.FailedPrecondition) as reused:
        here.client.datasets.from_traffic("twice", "other", **again)
    assert reused.value.reason == "REQUEST_ID_REUSED"
    here.client.datasets.wait("twice", first.version)
    here.client.datasets.delete("twice", first.version)
    assert [each.version for each in here.client.datasets.list("twice")] == []
