"""What a prediction says of each row, and when two outcomes are the same."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.api.monitoring.v1.monitoring_pb2 import Payload
from penstock.api.tensors.v1.tensors_pb2 import DataType, Tensor, TensorList
from penstock.tensors import to_tensor
from services.monitoring.models import MAX_OUTCOMES
from services.monitoring.outcomes import literal_of, outcomes_of, value_of


def tensors(**arrays: Any) -> Payload:
    return Payload(tensors=TensorList(tensors=[to_tensor(name, np.asarray(array)) for name, array in arrays.items()]))


def fields(**values: Any) -> Payload:
    payload = Payload()
    payload.fields.update(values)
    return payload


SAME = [(2, 2.0), ("2", 2), ("2.0", 2), ("2.50", 2.5), ("-1", -1), (-0.0, 0), (True, 1), (False, 0), ("0.1", 0.1)]
DIFFERENT = [
    ("a", "A"),
    ("a", "a "),
    ("02", 2),
    ("1e3", 1000),
    ("", 0),
    ("true", True),
    ("setosa", "'setosa'"),
    (2, 2.1),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_equal_outcomes_have_equal_literals(one: Any, other: Any) -> None:
    assert literal_of(one) == literal_of(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_outcomes_have_other_literals(one: Any, other: Any) -> None:
    assert literal_of(one) != literal_of(other)


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, "x" * 1_025])
def test_what_is_no_outcome_has_no_literal(nothing: Any) -> None:
    assert literal_of(nothing) is None


@given(st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=50))
def test_a_literal_tells_its_value(value: float | str) -> None:
    literal = literal_of(value)
    assert literal is not None
    assert "\0" not in literal
    assert literal_of(value_of(literal)) == literal


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"])
def test_integer_labels_of_any_width(dtype: str) -> None:
    assert outcomes_of(tensors(y=np.array([0, 1, 127], dtype)), 3) == ("0", "1", "127")


def test_extreme_integers_stay_exact() -> None:
    assert outcomes_of(tensors(y=np.array([2**63 - 1, -(2**63)])), 2) == (str(2**63 - 1), str(-(2**63)))


def test_labels_may_stand_in_a_column_and_be_strings_or_booleans() -> None:
    assert outcomes_of(tensors(y=np.array([[2], [0]])), 2) == ("2", "0")
    assert outcomes_of(tensors(y=np.array([True, False])), 2) == ("1", "0")
    assert outcomes_of(tensors(y=np.array(["setosa", "7"], object)), 2) == ('"setosa"', "7")


def test_the_first_label_goes_before_scores_wherever_it_stands() -> None:
    scores, label = np.array([[0.1, 0.9]], "f4"), np.array([0])
    assert outcomes_of(tensors(scores=scores, label=label, other=np.array([1])), 1) == ("0",)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_scores_alone_give_the_best_column(dtype: str) -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4], [np.nan, 1, 2]], dtype)
    assert outcomes_of(tensors(scores=scores), 3) == ("1", "0", None)


@pytest.mark.parametrize(
    "payload",
    [
        tensors(y=np.array([[0.5]], "f4")),
        tensors(y=np.array([0.5], "f4")),
        tensors(y=np.zeros((1, 2, 3), "f4")),
        tensors(y=np.zeros((1, 2), "i8")),
        tensors(),
        Payload(),
        fields(),
        fields(a=1, b=2),
        fields(label={"a": 1}),
        fields(label=None),
    ],
)
def test_what_has_no_label_has_no_outcomes(payload: Payload) -> None:
    assert outcomes_of(payload, 1) is None


def test_labels_must_be_as_many_as_rows() -> None:
    assert outcomes_of(tensors(y=np.array([1, 2, 3])), 1) is None
    assert outcomes_of(fields(label=[1, 2]), 3) is None
    assert outcomes_of(tensors(y=np.zeros(MAX_OUTCOMES + 1, "i8")), MAX_OUTCOMES + 1) is None


def malformed(datatype: DataType.ValueType, shape: list[int], raw: bytes) -> Payload:
    return Payload(tensors=TensorList(tensors=[Tensor(name="y", datatype=datatype, shape=shape, raw=raw)]))


@pytest.mark.parametrize(
    "payload",
    [
        malformed(DataType.DATA_TYPE_INT64, [1], b"1234567"),
        malformed(DataType.DATA_TYPE_INT64, [-1], b""),
        malformed(DataType.DATA_TYPE_INT64, [1 << 62], b""),
        malformed(DataType.DATA_TYPE_INT64, [1, -1], b"12345678"),
        malformed(DataType.DATA_TYPE_BYTES, [1], b"\1\0"),
        malformed(DataType.DATA_TYPE_BYTES, [1], struct.pack("<I", 5) + b"four"),
        malformed(DataType.DATA_TYPE_BYTES, [1], struct.pack("<I", 0xFFFFFFFF)),
        malformed(DataType.DATA_TYPE_FP32, [1, 3], b"12345678"),
        malformed(DataType.DATA_TYPE_FP32, [1 << 62, 1 << 62], b""),
        malformed(DataType.DATA_TYPE_UNSPECIFIED, [1], b"1"),
    ],
)
def test_a_malformed_tensor_has_no_outcomes_and_harms_nobody(payload: Payload) -> None:
    assert outcomes_of(payload, 1) is None


def test_a_label_that_is_no_utf8_is_no_label() -> None:
    assert outcomes_of(malformed(DataType.DATA_TYPE_BYTES, [1], struct.pack("<I", 1) + b"\xff"), 1) == (None,)


@pytest.mark.parametrize("name", ["label", "prediction", "outcome"])
def test_named_fields_give_one_value_or_one_a_row(name: str) -> None:
    assert outcomes_of(fields(**{name: "spam", "score": 0.9}), 1) == ('"spam"',)
    assert outcomes_of(fields(**{name: [1, "b", None], "score": 0.9}), 3) == ("1", '"b"', None)


def test_the_only_field_is_the_outcome() -> None:
    assert outcomes_of(fields(price=12.5), 1) == ("12.5",)
