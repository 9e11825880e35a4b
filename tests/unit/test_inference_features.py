"""Features by name: what people and JSON send, as the tensors that the model takes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from services.common.errors import InvalidArgument
from services.inference.features import from_features
from services.inference.models import Signature, TensorSpec

COLUMNS = ("length", "width")
MATRIX = Signature((TensorSpec("X", "FP32", (-1, 2), COLUMNS),), ())


def features(**values: Any) -> Struct:
    return ParseDict(values, Struct())


def of(shape: tuple[int, ...], datatype: str = "FP32") -> Signature:
    return Signature((TensorSpec("X", datatype, shape),), ())


@pytest.mark.parametrize(
    ("shape", "value", "expected"),
    [
        ((-1, 2), [1, 2], [[1, 2]]),  # a flat list for a rank-2 input is one row
        ((-1, 2), [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ((-1, 1), [1, 2, 3], [[1], [2], [3]]),  # one column: one value a row
        ((-1, 1), 7, [[7]]),
        ((-1, 1), [7], [[7]]),
        ((-1,), [1, 2], [1, 2]),
        ((-1,), 5, [5]),
        ((), 5, 5),
        ((-1, 2, 2), [[1, 2], [3, 4]], [[[1, 2], [3, 4]]]),
        ((-1, -1), [], np.empty((1, 0))),
    ],
)
def test_an_input_by_its_own_name_takes_the_models_rank(shape: tuple[int, ...], value: Any, expected: Any) -> None:
    array = from_features(features(X=value), of(shape))["X"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.asarray(expected, dtype=np.float32))


def test_columns_by_name_make_one_row_whatever_their_order() -> None:
    array = from_features(features(width=2, length=1), MATRIX)["X"]
    np.testing.assert_array_equal(array, [[1, 2]])


def test_columns_of_several_rows_and_a_single_value_for_all() -> None:
    array = from_features(features(length=[1, 2, 3], width=9), MATRIX)["X"]
    np.testing.assert_array_equal(array, [[1, 9], [2, 9], [3, 9]])


def test_null_is_nan_in_a_float() -> None:
    array = from_features(features(X=[None, 2]), of((-1, 2)))["X"]
    assert math.isnan(array[0, 0])


def test_null_where_there_is_none_says_what_to_send() -> None:
    for datatype, advice in (("BYTES", 'the text that stands for a missing one (""'), ("BOOL", "send a value")):
        with pytest.raises(InvalidArgument) as caught:
            from_features(features(X=[None, "x"]), of((-1, 2), datatype))
        assert f"null came; the model takes {datatype}, which has no null: " in caught.value.message
        assert advice in caught.value.message


def test_strings_are_bytes_tensors() -> None:
    array = from_features(features(X=["a", "é"]), of((-1,), "BYTES"))["X"]
    assert array.tolist() == [b"a", "é".encode()]


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT64", 1.5),
        ("INT8", 128),
        ("UINT8", -1),
        ("INT64", "1"),
        ("FP32", "1"),
        ("FP32", True),
        ("BOOL", 1),
        ("BYTES", 1),
        ("INT64", None),
        ("FP32", {"a": 1}),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(datatype: str, value: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_features(features(X=[value]), of((-1,), datatype))
    assert caught.value.reason == "DATATYPE_MISMATCH"
    assert caught.value.message.startswith("X: ")
    assert datatype in caught.value.message


@pytest.mark.parametrize(
    ("given", "reason", "names"),
    [
        ({}, "MISSING_INPUT", "X"),
        ({"length": 1}, "MISSING_INPUT", "width"),
        ({"X": [1, 2], "Z": 1}, "UNKNOWN_INPUT", "Z"),
        ({"X": [[1, 2], [3]]}, "RAGGED_INPUT", "X"),
        ({"X": [[1, 2], 3]}, "RAGGED_INPUT", "X"),
        ({"length": [1, 2], "width": [1, 2, 3]}, "RAGGED_INPUT", "X"),
        ({"X": [[[1, 2]]]}, "RANK_MISMATCH", "X"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given: dict[str, Any], reason: str, names: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_features(features(**given), MATRIX)
    assert caught.value.reason == reason
    assert caught.value.violations[0].field == names


def test_a_name_of_ten_thousand_characters_is_not_echoed_whole() -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_features(features(X=[1, 2], **{"z" * 10_000: 1}), MATRIX)
    assert len(caught.value.message) < 500
