"""numpy at the border: what goes out comes back the same, and what can't go is said so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.api.registry.v1 import registry_pb2
from penstock.api.tensors.v1 import tensors_pb2 as pb
from penstock.errors import InvalidArgument
from penstock.tensors import DTYPES, datatype_name, from_tensor, to_tensor
from penstock.values import MAX_DEPTH, enum_number, from_timestamp, from_value, to_struct, to_timestamp, to_value

FIXED = sorted(name for name in DTYPES if name != "BYTES")


def test_every_datatype_of_the_contract_has_a_numpy_type_but_bf16() -> None:
    names = {name.removeprefix("DATA_TYPE_") for name in pb.DataType.keys()}  # noqa: SIM118 - protobuf's, no dict's
    assert names - set(DTYPES) == {"UNSPECIFIED", "BF16"}


def test_bf16_is_the_type_of_its_own_package() -> None:
    array = np.array([[1.5, -2.0], [np.inf, 0.1]], ml_dtypes.bfloat16)
    tensor = to_tensor("x", array)
    assert (datatype_name(tensor.datatype), tensor.raw) == ("BF16", array.tobytes())
    back = from_tensor(tensor)
    assert (back.dtype, back.tolist()) == (array.dtype, array.tolist())


def test_without_that_package_bf16_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(InvalidArgument, match="pip install ml-dtypes") as caught:
        from_tensor(pb.Tensor(name="x", datatype=pb.DATA_TYPE_BF16, shape=[1], raw=b"ab"))
    assert caught.value.reason == "UNSUPPORTED_DATATYPE"


@pytest.mark.parametrize("datatype", FIXED)
@settings(deadline=None)
@given(data=st.data())
def test_arrays_come_back_as_they_went(datatype: str, data: st.DataObject) -> None:
    shape = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    array = data.draw(hnp.arrays(DTYPES[datatype], shape))
    tensor = to_tensor("x", array)
    back = from_tensor(pb.Tensor.FromString(tensor.SerializeToString()))
    assert datatype_name(tensor.datatype) == datatype
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


@settings(deadline=None)
@given(hnp.arrays(object, hnp.array_shapes(min_dims=0, max_side=3, min_side=0), elements=st.binary()))
def test_byte_strings_come_back_as_they_went(array: Any) -> None:
    back = from_tensor(to_tensor("x", array))
    assert back.shape == array.shape
    assert back.ravel().tolist() == array.ravel().tolist()


@pytest.mark.parametrize(
    "array",
    [
        np.array(["blé", ""]), np.array(["blé", ""], dtype=object), np.array(["blé".encode(), b""], dtype=object),
        np.array(["blé".encode(), b""]), ["blé", ""],
    ],
    ids=["str", "object of str", "object of bytes", "bytes", "list"],
)  # fmt: skip
def test_strings_of_every_kind_travel_as_utf8(array: Any) -> None:
    tensor = to_tensor("text", array)
    assert tensor.raw == b"\x04\x00\x00\x00bl\xc3\xa9\x00\x00\x00\x00"
    assert from_tensor(tensor).tolist() == ["blé".encode(), b""]


def test_the_wire_is_little_endian_and_row_major_whatever_the_array() -> None:
    plain = np.arange(6, dtype="<i4").reshape(2, 3)
    for array in (
        plain,
        plain.astype(">i4"),
        np.asfortranarray(plain),
        np.arange(12, dtype="<i4")[::2].reshape(2, 3) // 2,
    ):
        tensor = to_tensor("x", array)
        assert (tensor.raw, list(tensor.shape)) == (plain.tobytes(), [2, 3])


def test_what_comes_back_is_a_view_that_can_not_be_written() -> None:
    back = from_tensor(to_tensor("x", np.ones(3)))
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 2


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([1j]), "complex128"),
        (np.array(["2026-01-01"], dtype="datetime64[D]"), "datetime64"),
        (np.array([b"a", None], dtype=object), "element 1 is a NoneType"),
    ],
)
def test_what_has_no_datatype_is_refused_by_name(array: Any, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        to_tensor("pixels", array)
    assert caught.value.reason == "UNSUPPORTED_DATATYPE"
    assert caught.value.violations[0].field == "pixels"


@pytest.mark.parametrize(
    ("tensor", "reason", "said"),
    [
        (pb.Tensor(name="x", datatype=pb.DATA_TYPE_BF16, shape=[2], raw=b"ab"), "SHAPE_MISMATCH", "2 bytes came"),
        (pb.Tensor(name="x", shape=[1], raw=b"a"), "UNSUPPORTED_DATATYPE", "UNSPECIFIED"),
        (pb.Tensor(name="x", datatype=pb.DATA_TYPE_FP32, shape=[2], raw=b"abcd"), "SHAPE_MISMATCH", "4 bytes came"),
        (pb.Tensor(name="x", datatype=pb.DATA_TYPE_FP32, shape=[-1], raw=b""), "SHAPE_MISMATCH", "negative"),
        (pb.Tensor(datatype=pb.DATA_TYPE_BYTES, shape=[1], raw=b"\x02\0\0\0a"), "SHAPE_MISMATCH", "1 are left"),
        (pb.Tensor(datatype=pb.DATA_TYPE_BYTES, shape=[2], raw=b"\0\0\0\0"), "SHAPE_MISMATCH", "take at least 8"),
        (
            pb.Tensor(datatype=pb.DATA_TYPE_BYTES, shape=[1], raw=b"\0\0\0\0\0"),
            "SHAPE_MISMATCH",
            "1 bytes are left over",
        ),
        (pb.Tensor(datatype=pb.DATA_TYPE_BYTES, shape=[2**60], raw=b""), "SHAPE_MISMATCH", "0 raw bytes came"),
        (pb.Tensor(datatype=pb.DATA_TYPE_FP64, shape=[0, 2**62], raw=b""), "SHAPE_MISMATCH", "no array of shape"),
        (pb.Tensor(datatype=pb.DATA_TYPE_UINT8, shape=[1] * 65, raw=b"a"), "SHAPE_MISMATCH", "no array of shape"),
    ],
)
def test_a_malformed_tensor_is_refused(tensor: pb.Tensor, reason: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        from_tensor(tensor)
    assert caught.value.reason == reason


def test_a_datatype_from_the_future_is_called_by_its_number() -> None:
    assert datatype_name(99) == "99"  # type: ignore[arg-type]  # not in this release


def test_named_values_of_python_and_numpy_travel() -> None:
    fields = {
        "none": None, "yes": True, "np_yes": np.True_, "int": 3, "np_int": np.int64(3), "float": 1.5,
        "np_float": np.float32(0.5), "text": "blé", "list": [1, [2.5, None]], "array": np.array([[1, 2]]),
        "tuple": ("a", "b"), "map": {"a": 1},
    }  # fmt: skip
    struct = to_struct(fields)
    back = {name: from_value(value) for name, value in struct.fields.items()}
    assert back == {
        **fields, "np_yes": True, "np_int": 3, "np_float": 0.5, "array": [[1, 2]], "tuple": ["a", "b"],
    }  # fmt: skip
    assert back["yes"] is True
    assert np.isnan(from_value(to_value("x", float("nan"))))


@pytest.mark.parametrize(
    ("value", "said"), [(b"raw", "bytes"), (2**53 + 1, "2\\^53"), (object(), "object"), ({1}, "set")]
)
def test_values_that_would_not_arrive_whole_are_refused(value: Any, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        to_struct({"column": [value]})
    assert caught.value.violations[0].field == "column"


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"in": value}], ids=["lists", "mappings"])
def test_values_are_nested_as_deep_as_parsers_follow_and_no_deeper(wrap: Callable[[Any], Any]) -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    assert Struct.FromString(to_struct({"column": value}).SerializeToString()) == to_struct({"column": value})
    with pytest.raises(InvalidArgument, match="nested more than 32 deep") as caught:
        to_struct({"column": wrap(value)})
    assert caught.value.reason == "UNSUPPORTED_VALUE"


def test_times_keep_their_instant_and_must_be_aware() -> None:
    time = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=timezone(timedelta(hours=-5)))
    stamp = to_timestamp("at", time)
    assert stamp is not None
    assert from_timestamp(stamp) == time
    assert from_timestamp(stamp).tzinfo is UTC
    assert to_timestamp("at", None) is None
    with pytest.raises(InvalidArgument, match="no time zone"):
        to_timestamp("at", datetime(2026, 1, 1))  # noqa: DTZ001 - naive on purpose


def test_enums_are_named_in_any_case() -> None:
    stage = registry_pb2.Stage
    assert enum_number("stage", stage, "Production") == registry_pb2.STAGE_PRODUCTION
    assert enum_number("stage", stage, registry_pb2.STAGE_STAGING) == registry_pb2.STAGE_STAGING
    assert enum_number("stage", stage, None) == registry_pb2.STAGE_UNSPECIFIED
    for bad in ("live", "unspecified", ""):
        with pytest.raises(InvalidArgument, match="development, candidate, staging, production, archived"):
            enum_number("stage", stage, bad)
