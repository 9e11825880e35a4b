"""Values of features as the model takes them: in its datatypes, with defaults and NaN, or refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from penstock import errors as sdk
from penstock.feature_columns import FeatureValues
from services.common.errors import DomainError, FailedPrecondition
from services.inference.lookups.columns import FeatureColumns
from services.inference.lookups.reader import FeatureReader
from services.inference.models import FeatureViewPolicy, MissingFeatureAction, TensorSpec

USE_DEFAULT, USE_NAN = MissingFeatureAction.USE_DEFAULT, MissingFeatureAction.USE_NAN


def values_of(values: Any, missing: list[int] | None = None) -> FeatureValues:
    array = np.asarray(values)
    if array.dtype.kind == "U":
        array = array.astype(object)
    count = len(array)
    gone = np.array(missing or [0] * count, bool)
    return FeatureValues(
        "v", 1, [f"k{row}" for row in range(count)], ["PRESENT"] * count, np.zeros(count, np.int64), {"f": array},
        {"f": gone},
    )  # fmt: skip


def columns_of(values: Any, missing: list[int] | None = None, **policy: Any) -> FeatureColumns:
    return FeatureColumns(values_of(values, missing), FeatureViewPolicy("v", **policy))


@pytest.mark.parametrize(
    ("values", "datatype", "expected"),
    [
        ([1.5, np.nan], "FP32", np.array([1.5, np.nan], "f4")),
        ([1.5, np.inf], "FP16", np.array([1.5, np.inf], "f2")),
        ([2.0], "BF16", np.array([2.0], ml_dtypes.bfloat16)),
        ([2**40], "INT64", np.array([2**40])),
        ([255, 0], "UINT8", np.array([255, 0], "u1")),
        ([3], "FP64", np.array([3.0])),
        ([True, False], "FP32", np.array([1, 0], "f4")),
        ([True], "INT8", np.array([1], "i1")),
        ([True], "BOOL", np.array([True])),
        (["é", ""], "BYTES", np.array(["é".encode(), b""], object)),
    ],
)
def test_values_are_taken_in_the_models_datatype(values: Any, datatype: str, expected: Any) -> None:
    found = columns_of(values).column("x", "f", datatype)
    assert found.dtype == expected.dtype
    assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("values", "datatype"),
    [
        ([1.0], "INT64"), ([1.0], "BOOL"), ([1.0], "BYTES"), (["1"], "FP32"), ([1], "BOOL"), ([[1.0]], "FP32"),
        ([1e39], "FP32"), ([1e5], "FP16"), ([256], "UINT8"), ([-1], "UINT64"), ([2**31], "INT32"),
    ],
)  # fmt: skip
def test_what_the_model_does_not_take_is_refused(values: Any, datatype: str) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        columns_of(values).column("x", "f", datatype)
    assert refused.value.reason == "FEATURE_MISMATCH"


@pytest.mark.parametrize(
    ("values", "datatype", "default", "expected"),
    [
        ([1.0, 0.0], "FP32", 7, 7.0), ([1, 0], "INT8", -3.0, -3), ([True, False], "BOOL", True, True),
        (["a", ""], "BYTES", "é", "é".encode()),
    ],
)  # fmt: skip
def test_a_default_stands_in_for_what_is_missing(values: Any, datatype: str, default: Any, expected: Any) -> None:
    columns = columns_of(values, [0, 1], missing_action=USE_DEFAULT, defaults={"x": default})
    assert columns.column("x", "f", datatype).tolist()[1] == expected
    assert columns.substituted_count == 1


@pytest.mark.parametrize(
    ("values", "datatype", "default"),
    [([1], "INT8", 1.5), ([1], "INT8", 128), ([1.0], "FP32", "1"), (["a"], "BYTES", 1), ([True], "BOOL", 1)],
)
def test_a_default_of_another_type_is_refused(values: Any, datatype: str, default: Any) -> None:
    columns = columns_of(values, [1], missing_action=USE_DEFAULT, defaults={"x": default})
    with pytest.raises(FailedPrecondition, match="serving settings") as refused:
        columns.column("x", "f", datatype)
    assert refused.value.reason == "FEATURE_MISMATCH"


def test_nan_stands_in_for_floats_alone() -> None:
    assert np.isnan(columns_of([1], [1], missing_action=USE_NAN).column("x", "f", "FP32")).all()
    with pytest.raises(FailedPrecondition) as refused:
        columns_of([1], [1], missing_action=USE_NAN).column("x", "f", "INT64")
    assert refused.value.reason == "FEATURE_MISSING"


@pytest.mark.parametrize(
    ("values", "shape", "found"),
    [([1.0, 2.0], (-1,), (2,)), ([1.0, 2.0], (-1, 1), (2, 1)), ([1.0], (-1, -1), (1, 1)), ([[1, 2]], (-1, 2), (1, 2)),
     ([[1, 2]], (-1, -1), (1, 2)), ([1.0], (-1, 2), None), ([[1, 2]], (-1, 3), None), ([[1, 2]], (-1,), None),
     ([1.0], (-1, 1, 1), None)],
)  # fmt: skip
def test_a_whole_input_has_its_shape_or_is_refused(values: Any, shape: tuple[int, ...], found: Any) -> None:
    columns = columns_of(np.asarray(values, "f8"))
    spec = TensorSpec("x", "FP32", shape)
    if found is None:
        with pytest.raises(FailedPrecondition) as refused:
            columns.whole(spec, "f")
        assert refused.value.reason == "FEATURE_MISMATCH"
    else:
        assert columns.whole(spec, "f").shape == found


def test_lists_that_no_row_has_are_as_long_as_the_model_says() -> None:
    columns = columns_of(np.zeros((2, 0)), [1, 1], missing_action=USE_NAN)
    assert columns.whole(TensorSpec("x", "FP32", (-1, 3)), "f").shape == (2, 3)
    with pytest.raises(FailedPrecondition):
        columns_of(np.ones((2, 3)), [0, 1]).whole(TensorSpec("x", "FP32", (-1, 3)), "f")


def reader(get: Callable[..., Any], *, max_at_once: int = 2) -> FeatureReader:
    client: Any = SimpleNamespace(features=SimpleNamespace(get=get))
    return FeatureReader(client, timeout_s=0.25, max_at_once=max_at_once)


@pytest.mark.parametrize(
    ("raised", "left_s", "expected"),
    [
        (sdk.Unavailable("gone"), None, ("Unavailable", "FEATURES_UNAVAILABLE")),
        (sdk.ResourceExhausted("busy"), None, ("Unavailable", "FEATURES_UNAVAILABLE")),
        (sdk.Internal("broken"), None, ("Unavailable", "FEATURES_UNAVAILABLE")),
        (sdk.DeadlineExceeded("late"), 9.0, ("Unavailable", "FEATURES_UNAVAILABLE")),
        (sdk.DeadlineExceeded("late"), 0.1, ("DeadlineExceeded", "REQUEST_TIMEOUT")),
        (sdk.ResourceExhausted("big", reason="TOO_LARGE"), None, ("ResourceExhausted", "TOO_LARGE")),
        (sdk.NotFound("no", reason="VIEW_NOT_FOUND"), None, ("FailedPrecondition", "VIEW_NOT_FOUND")),
        (sdk.PermissionDenied("no", reason="KEY_UNKNOWN"), None, ("FailedPrecondition", "KEY_UNKNOWN")),
    ],
)  # fmt: skip
def test_each_failure_of_a_read_has_its_meaning(raised: Exception, left_s: Any, expected: tuple[str, str]) -> None:
    def get(views: Any, keys: Any, *, timeout_s: float) -> Any:
        assert timeout_s == min(0.25, left_s or 9)
        raise raised

    with pytest.raises(DomainError) as failed:
        reader(get).read("v", ["f"], ["k"], left_s)
    assert (type(failed.value).__name__, failed.value.reason) == expected


def test_no_more_reads_wait_at_once_than_may() -> None:
    begun, go_on = Event(), Event()

    def get(views: Any, keys: Any, *, timeout_s: float) -> Any:
        begun.set()
        assert go_on.wait(60)
        return {"v": values_of([1.0])}

    reads = reader(get, max_at_once=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(reads.read, "v", ["f"], ["k"], None)
        assert begun.wait(60)
        with pytest.raises(DomainError, match="too many reads are under way") as refused:
            reads.read("v", ["f"], ["k"], None)
        go_on.set()
        assert waiting.result(60).keys == ["k0"]
    assert refused.value.reason == "FEATURES_UNAVAILABLE"
    reads.read("v", ["f"], ["k"], None)
