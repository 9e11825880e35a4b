"""What the feature store refuses, with the field that is wrong: bounds, malformed tensors, pages, and large answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import grpc
import numpy as np
import pytest

import penstock
from penstock.api.features.v1 import feature_views_pb2 as views_pb
from penstock.api.features.v1 import features_pb2 as pb
from penstock.api.features.v1.feature_views_pb2_grpc import FeatureViewServiceStub
from penstock.api.features.v1.features_pb2_grpc import FeatureServiceStub
from penstock.api.tensors.v1.tensors_pb2 import DataType, Tensor
from penstock.errors import InvalidArgument, PenstockError, ResourceExhausted
from penstock.tensors import to_tensor
from services.common.status import DETAILS_KEY
from tests.postgres import PostgresServer
from tests.services import running_registry

THEN = 1_700_000_000_000_000
LATER = 2_000_000_000_000_000
LIMIT = 1024 * 1024


@pytest.fixture(scope="module")
def address(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("features")
    database = postgres_server.clone("registry")
    with running_registry(database, folder, max_message_bytes=LIMIT) as registry:
        yield registry.address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[penstock.Client]:
    with penstock.Client(registry=address) as made:
        made.features.create_view(
            "bounds", entity="customer", features={"x": "float64", "s": "string", "v": "float64_list"}
        )
        made.features.create_view("shops", entity="shop", features={"x": "float64"})
        yield made


@pytest.fixture(scope="module")
def channel(address: str) -> Iterator[grpc.Channel]:
    """For what the SDK would not send."""
    with grpc.insecure_channel(address) as opened:
        yield opened


def reason_of(call: Callable[..., Any], *given: Any, **more: Any) -> str:
    def to_the_end() -> None:
        found = call(*given, **more)
        list(found if isinstance(found, Iterator) else ())

    with pytest.raises(PenstockError) as refused:
        to_the_end()
    return refused.value.reason


def details_of(error: grpc.RpcError) -> bytes:
    """Give the details as they were sent."""
    metadata: Any = error.trailing_metadata()
    return bytes(dict(metadata)[DETAILS_KEY])


def raw_reason(call: Callable[..., Any], request: Any) -> str:
    """Call as any client may; gives the code, and the reason in the details."""
    with pytest.raises(grpc.RpcError) as refused:
        call(request)
    details = details_of(refused.value)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = [word for word in REASONS if word.encode() in details]
    return max(found, key=len)


REASONS = (
    "DUPLICATE_NAME", "RAGGED", "WRONG_TYPE", "INVALID_FIELD", "UNKNOWN_FEATURE", "KEYS_REQUIRED", "VIEW_REQUIRED",
    "INVALID_TIME", "TOO_MANY", "INVALID_SHAPE", "SHAPE_MISMATCH", "BYTES_TRUNCATED", "VERSION_REQUIRED",
    "UNSUPPORTED_DATATYPE",
)  # fmt: skip


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        ({"ttl_ms": -1}, "OUT_OF_BOUNDS"),
        ({"ttl_ms": 10**16}, "OUT_OF_BOUNDS"),
        ({"owner": "x" * 1_001}, "OUT_OF_BOUNDS"),
        ({"description": "a\0b"}, "OUT_OF_BOUNDS"),
        ({"labels": {f"k{number}": "" for number in range(65)}}, "OUT_OF_BOUNDS"),
        ({"labels": {"": "x"}}, "OUT_OF_BOUNDS"),
        ({"labels": {"k": "x" * 257}}, "OUT_OF_BOUNDS"),
        ({"features": {f"x{number}": "bool" for number in range(257)}}, "TOO_MANY"),
        ({"features": {"x" * 64: "bool"}}, "INVALID_NAME"),
        ({"features": {"x": "bool"}, "request_values": {"x": "bool"}}, "DUPLICATE_NAME"),
        ({"request_values": {f"k{number}": "bool" for number in range(65)}}, "TOO_MANY"),
        ({"request_values": {"K": "bool"}}, "INVALID_NAME"),
        ({"entity": ""}, "INVALID_NAME"),
    ],
)
def test_a_view_out_of_bounds_is_refused(client: penstock.Client, view: dict[str, Any], reason: str) -> None:
    given = {"entity": "customer", "features": {"x": "bool"}, **view}
    assert reason_of(client.features.create_view, "refused", **given) == reason
    assert "refused" not in [each.name for each in client.features.list_views()]


def test_a_change_out_of_bounds_is_refused(client: penstock.Client) -> None:
    update = client.features.update_view
    assert reason_of(update, "bounds", ttl_ms=-1) == "OUT_OF_BOUNDS"
    assert reason_of(update, "bounds", labels={"k": "x" * 257}) == "OUT_OF_BOUNDS"


def test_names_that_come_twice_and_types_that_there_are_not_are_refused(
    client: penstock.Client, channel: grpc.Channel
) -> None:
    make = FeatureViewServiceStub(channel).CreateFeatureView

    def view(*features: views_pb.Feature) -> views_pb.CreateFeatureViewRequest:
        return views_pb.CreateFeatureViewRequest(view=views_pb.FeatureView(name="twice", entity="x", features=features))

    one = views_pb.Feature(name="x", type=views_pb.FEATURE_TYPE_BOOL)
    assert raw_reason(make, view(one, one)) == "DUPLICATE_NAME"
    assert raw_reason(make, view(views_pb.Feature(name="x"))) == "INVALID_FIELD"
    on_read = views_pb.Feature(
        name="x", type=views_pb.FEATURE_TYPE_BOOL, computation=views_pb.FEATURE_COMPUTATION_ON_READ
    )
    assert raw_reason(make, view(on_read)) == "INVALID_FIELD"


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pb.FeatureColumn(values=Tensor(name="x", datatype=DataType.DATA_TYPE_FP64, shape=[2], raw=bytes(8))), ""),
        (pb.FeatureColumn(values=Tensor(name="x", datatype=DataType.DATA_TYPE_FP64, shape=[-1], raw=bytes(8))), ""),
        (pb.FeatureColumn(values=Tensor(name="x", datatype=cast("Any", 99), shape=[1])), ""),
        (pb.FeatureColumn(values=Tensor(name="x", shape=[1])), ""),
        (pb.FeatureColumn(values=to_tensor("x", np.zeros((1, 1)))), "RAGGED"),
        (pb.FeatureColumn(values=to_tensor("v", np.zeros(1))), "RAGGED"),
        (pb.FeatureColumn(values=to_tensor("x", np.zeros(1, "<f4"))), "WRONG_TYPE"),
        (pb.FeatureColumn(values=to_tensor("x", np.zeros(1)), missing=b"\0\0"), "RAGGED"),
        (pb.FeatureColumn(values=to_tensor("s", np.array([b"\xff"], object))), "WRONG_TYPE"),
    ],
)
def test_a_malformed_tensor_is_refused(
    client: penstock.Client, channel: grpc.Channel, column: pb.FeatureColumn, reason: str
) -> None:
    rows = pb.FeatureRows(keys=["a"], columns=[column])
    with pytest.raises(grpc.RpcError) as refused:
        FeatureServiceStub(channel).WriteFeatures(pb.WriteFeaturesRequest(view="bounds", rows=rows))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason.encode() in details_of(refused.value)
    assert "rows.columns[" in str(refused.value.details())
    assert client.features.get("bounds", ["a"])["bounds"].statuses == ["ABSENT"]


def test_rows_of_odd_shapes_are_refused(channel: grpc.Channel, client: penstock.Client) -> None:
    stub = FeatureServiceStub(channel)
    x = pb.FeatureColumn(values=to_tensor("x", np.zeros(1)))

    def write(**rows: Any) -> str:
        request = pb.WriteFeaturesRequest(view="bounds", rows=pb.FeatureRows(**rows))
        return raw_reason(stub.WriteFeatures, request)

    assert write(keys=["a"], columns=[x, x]) == "DUPLICATE_NAME"
    assert write(keys=["a", "b", "c"], event_times_us=[1, 2]) == "RAGGED"
    assert write(keys=["a"], event_times_us=[-(2**62)]) == "INVALID_TIME"
    assert raw_reason(stub.GetFeatures, pb.GetFeaturesRequest(keys=["a"])) == "VIEW_REQUIRED"
    selections = [pb.FeatureSelection(view="bounds")]
    assert raw_reason(stub.GetFeatures, pb.GetFeaturesRequest(selections=selections)) == "KEYS_REQUIRED"
    views = FeatureViewServiceStub(channel)
    assert raw_reason(views.DeleteFeatureView, views_pb.DeleteFeatureViewRequest(name="bounds")) == "VERSION_REQUIRED"


def test_values_that_are_too_large_are_refused(client: penstock.Client) -> None:
    write = client.features.write
    assert reason_of(write, "bounds", ["a"], {"s": ["x" * (16 * 1024 + 1)]}) == "OUT_OF_BOUNDS"
    assert reason_of(write, "bounds", ["a"], {"s": ["a\0b"]}) == "OUT_OF_BOUNDS"
    assert reason_of(write, "bounds", ["a"], {"v": [[0.0] * 4_097]}) == "OUT_OF_BOUNDS"
    assert reason_of(write, "bounds", ["x" * 257], {}) == "INVALID_NAME"


def test_views_of_two_entities_are_not_read_at_once(client: penstock.Client) -> None:
    assert reason_of(client.features.get, ["bounds", "shops"], ["a"]) == "ENTITY_MISMATCH"
    assert reason_of(client.features.get_as_of, ["bounds", "shops"], ["a"], [THEN]) == "ENTITY_MISMATCH"


def test_a_page_token_of_another_list_is_refused(client: penstock.Client, channel: grpc.Channel) -> None:
    for event in range(3):
        client.features.write("shops", ["a"], {"x": [1.0]}, event_times=THEN + event)
    stub = FeatureServiceStub(channel)

    def page(key: str, token: str = "", size: int = 1) -> pb.ListFeatureHistoryResponse:
        return stub.ListFeatureHistory(
            pb.ListFeatureHistoryRequest(view="shops", key=key, page_size=size, page_token=token)
        )

    token = page("a").next_page_token
    assert len(page("a", token).rows.keys) == 1
    for key, wrong, size in (
        ("b", token, 1),
        ("a", "nonsense", 1),
        ("a", token[:-2], 1),
        ("a", "", -1),
        ("a", "", 1_001),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            page(key, wrong, size)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    listing = FeatureViewServiceStub(channel)
    with pytest.raises(grpc.RpcError) as refused:
        listing.ListFeatureViews(views_pb.ListFeatureViewsRequest(page_token=token))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_block_of_too_many_rows_is_refused_and_those_before_it_are_written(channel: grpc.Channel) -> None:
    stub = FeatureServiceStub(channel)

    def blocks() -> Iterator[pb.ImportFeaturesRequest]:
        yield pb.ImportFeaturesRequest(view="shops", rows=pb.FeatureRows(keys=["early"], event_times_us=[THEN]))
        yield pb.ImportFeaturesRequest(rows=pb.FeatureRows(keys=["k"] * 65_537, event_times_us=[THEN]))

    assert raw_reason(stub.ImportFeatures, blocks()) == "TOO_MANY"
    selections = [pb.FeatureSelection(view="shops")]
    read = stub.GetFeatures(pb.GetFeaturesRequest(keys=["early"], selections=selections))
    assert list(read.selected[0].statuses) == [pb.FEATURE_STATUS_PRESENT]
    asked = pb.GetFeaturesAsOfRequest(selections=selections, keys=["k"] * 65_537, as_of_times_us=[THEN] * 65_537)
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.GetFeaturesAsOf(iter([asked])))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_answer_that_fits_no_message_is_refused_with_what_to_do(client: penstock.Client) -> None:
    long, wide = "x" * 16_000, np.ones((1, 4_096))
    client.features.write("bounds", ["large"], {"s": [long], "v": wide}, event_times=THEN)
    for get in (
        lambda count: client.features.get("bounds", ["large"] * count),
        lambda count: list(client.features.get_as_of("bounds", ["large"] * count, [LATER] * count)),
    ):
        get(10)
        with pytest.raises(ResourceExhausted, match="ask for fewer keys") as refused:
            get(100)
        assert refused.value.reason == "TOO_LARGE"
    with pytest.raises(ResourceExhausted) as refused:  # nor is it brought into memory first
        client.features.get("bounds", ["large"] * 10_000)
    assert "67,108,864" in refused.value.message


def test_clocks_that_differ_do_not_leak_into_the_past_nor_overwrite_what_is_newer(client: penstock.Client) -> None:
    """A writer's clock runs four minutes ahead, another's four behind: the events count, and not who came first."""
    import time

    now, skew = time.time_ns() // 1_000, 240_000_000
    client.features.write("shops", ["skewed"], {"x": [1.0]}, event_times=now + skew)
    behind = client.features.write("shops", ["skewed"], {"x": [2.0]}, event_times=now - skew)
    assert behind.late_count == 1
    assert client.features.get("shops", ["skewed"])["shops"].columns["x"].tolist() == [1.0]
    (block,) = client.features.get_as_of("shops", ["skewed"] * 2, [now - skew, now + skew])
    assert [row["x"] for row in block["shops"].rows()] == [None, 1.0]  # what came late was not known then
    with pytest.raises(InvalidArgument) as refused:
        client.features.write("shops", ["skewed"], {"x": [3.0]}, event_times=now + 2 * skew)
    assert refused.value.reason == "INVALID_TIME"
    created = [row["create_time_us"] for row in client.features.history("shops", "skewed")]
    assert max(created) < now + skew  # the store's clock says when it heard of them, and nobody else's
